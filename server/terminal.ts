// One line of progress: a bar on a terminal, a plain line now and then elsewhere.

export type Progress = {
  /** A total of Infinity is one that is not known. */
  readonly update: (label: string, done: number, total: number) => void
  readonly finish: () => void
}

export const NO_PROGRESS: Progress = { update: () => {}, finish: () => {} }

const size = (bytes: number): string =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`

const time = (seconds: number): string =>
  seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`

type Out = { readonly isTTY?: boolean; readonly write: (text: string) => unknown }

export const createProgress = (
  out: Out,
  now: () => number = () => performance.now() / 1000,
  /** How an amount is written; bytes by default. */
  amount: (count: number) => string = size,
): Progress => {
  const tty = out.isTTY === true
  const interval = tty ? 0.1 : 5
  let label = ''
  let since = 0
  let doneAtStart = 0
  let shownAt = Number.NEGATIVE_INFINITY
  let open = false

  const finish = () => {
    if (open && tty) out.write('\n')
    open = false
    shownAt = Number.NEGATIVE_INFINITY
  }

  return {
    update: (next, done, total) => {
      if (next !== label) {
        finish()
        label = next
        since = now()
        doneAtStart = done
      }
      if (done < total && now() - shownAt < interval) return
      shownAt = now()
      const seconds = now() - since
      const rate = seconds > 0 ? (done - doneAtStart) / seconds : 0
      const left =
        rate > 0 && done < total && Number.isFinite(total)
          ? `, ${time((total - done) / rate)} left`
          : ''
      const share = total > 0 ? Math.min(1, done / total) : 0
      const of = Number.isFinite(total) ? ` of ${amount(total)}` : ''
      const text = `${label}: ${amount(done)}${of}${rate > 0 ? `, ${amount(rate)}/s` : ''}${left}`
      if (tty) {
        const filled = Math.round(share * 24)
        out.write(`\r\x1b[2K[${'#'.repeat(filled)}${'-'.repeat(24 - filled)}] ${text}`)
      } else out.write(`${text}\n`)
      open = true
    },
    finish,
  }
}
