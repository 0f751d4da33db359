// A chat's errors name OpenAI's fields. A dialect has other names for them.

import { RequestError } from '../request-error.js'

/** What a chat calls a field, whole, and what the dialect does; `$1` as in String.replace. */
export type FieldNames = readonly (readonly [chat: RegExp, theirs: string])[]

export const nameOf = (param: string, names: FieldNames): string => {
  const found = names.find(([chat]) => chat.test(param))
  return found ? param.replace(...found) : param
}

/** What `act` does, its errors in the words of a dialect. */
export const inTheirNames = async <T>(
  names: FieldNames,
  act: () => T | Promise<T>,
): Promise<Awaited<T>> => {
  try {
    return await act()
  } catch (thrown) {
    if (!(thrown instanceof RequestError) || thrown.param === null) throw thrown
    const { message, param, kind, code, retryAfter } = thrown
    const theirs = nameOf(param, names)
    if (theirs === param) throw thrown
    const told = message.replaceAll(`'${param}'`, () => `'${theirs}'`)
    throw new RequestError(told, { param: theirs, kind, code, retryAfter })
  }
}
