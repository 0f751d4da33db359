// What an engine says when it cannot.

export type EngineErrorCode =
  | 'invalid_argument'
  | 'not_found'
  | 'unsupported'
  | 'out_of_memory'
  | 'unavailable'
  | 'queue_full'
  | 'aborted'
  | 'internal'

/** A record, not an exception class: engine errors cross threads as data. */
export type EngineError = { readonly code: EngineErrorCode; readonly message: string }

/** An EngineError where only an exception will do. */
export class EngineFailure extends Error {
  override readonly name = 'EngineFailure'
  readonly code: EngineErrorCode
  constructor(error: EngineError, options?: ErrorOptions) {
    super(error.message, options)
    this.code = error.code
  }
}

/** Of whatever was thrown. */
export const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error)

/** Says which setting the failure of `work` is about. */
export const about = async <T>(setting: string, work: Promise<T>): Promise<T> => {
  try {
    return await work
  } catch (error) {
    throw new Error(`${setting} ${messageOf(error)}`, { cause: error })
  }
}

/** What the system says about a file, and what can be done. */
const HELP: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or folder',
  EEXIST: 'a file has that name: choose another folder',
  ENOTDIR: 'a part of its path is not a folder',
  EISDIR: 'it is a folder, not a file',
  EACCES: 'permission denied: check who may use the file and its folder',
  EPERM: 'not permitted: check who may use the file and its folder',
  EROFS: 'its file system is read-only: choose another folder',
  ENOSPC: 'no space is left on the device: free some, then run the same command again',
  EDQUOT: 'the quota is used up: free some space, then run the same command again',
  EMFILE: 'too many files are open: raise `ulimit -n`',
}

/** `what`: read or written. Errors that are not the system's stay as they are. */
export const fileError = (error: unknown, path: string, what: 'read' | 'written'): unknown => {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string')
    return error
  const why = HELP[error.code] ?? error.message
  return new Error(`${path} cannot be ${what} (${error.code}): ${why}`, { cause: error })
}
