// How `info` writes amounts.

export const bytesText = (bytes: number): string =>
  bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(2)} GiB`

export const countText = (count: number): string => {
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} B`
  return count >= 1e6 ? `${(count / 1e6).toFixed(2)} M` : `${(count / 1e3).toFixed(1)} K`
}
