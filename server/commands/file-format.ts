// Files that are not JSON lines, told by their first bytes, with what makes JSON lines of them.

const unpack = (name: string, command: string) =>
  `is packed (${name}): unpack it first, such as with \`${command} FILE |\` before the command and - as its input`
const table = (name: string, reader: string) =>
  `is a table (${name}), not JSON lines: pandas writes them with ${reader}(FILE).to_json(OUT, orient="records", lines=True)`
const UTF_16 = 'is UTF-16, not UTF-8: convert it with `iconv -f UTF-16 -t UTF-8 FILE`'

/** None of these bytes can begin a line of JSON. */
const SIGNATURES: readonly (readonly [begin: string, problem: string])[] = [
  ['\x1f\x8b', unpack('gzip', 'gunzip -c')],
  ['\x28\xb5\x2f\xfd', unpack('zstd', 'zstd -dc')],
  ['\xfd7zXZ\x00', unpack('xz', 'xz -dc')],
  ['BZh', unpack('bzip2', 'bunzip2 -c')],
  ['PK\x03\x04', unpack('zip', 'unzip -p')],
  ['PAR1', table('Parquet', 'pandas.read_parquet')],
  ['ARROW1', table('Arrow', 'pandas.read_feather')],
  ['\xff\xfe', UTF_16],
  ['\xfe\xff', UTF_16],
  ['{\x00', UTF_16.replace('UTF-16 -t', 'UTF-16LE -t')],
  ['\x00{', UTF_16.replace('UTF-16 -t', 'UTF-16BE -t')],
]
const LONGEST = Math.max(...SIGNATURES.map(([begin]) => begin.length))

/** What to say of a file that begins so; undefined where it may be JSON lines. */
export const otherFormat = (begin: Buffer): string | undefined => {
  const bytes = begin.subarray(0, LONGEST).toString('latin1')
  return SIGNATURES.find(([signature]) => bytes.startsWith(signature))?.[1]
}
