// What commander makes of the words behind a flag. Each throws InvalidArgumentError with what is right.

import { type Command, InvalidArgumentError, Option } from 'commander'

/** A flag that may repeat. */
export const collect = (value: string, previous: readonly string[] = []): readonly string[] => [
  ...previous,
  value,
]

/** Where records go; it has to be given. Not as an option that commander requires: it would say that this one is
 * missing, and not that another is misspelt, which is why. */
export const addOutput = (command: Command, help: string): Command =>
  command
    .option('-o, --output <file>', `${help}; an unfinished one goes on; - for standard output`)
    .hook('preAction', () => {
      if (command.opts().output === undefined)
        command.error("error: required option '-o, --output <file>' not specified")
    })

/** Help names the variable. Of a default it would show the value, and so the key. */
export const apiKey = (): Option => new Option('--api-key <key>', 'for --url').env('OPENAI_API_KEY')

export const number = (value: string): number => {
  const result = Number(value)
  if (value.trim() === '' || !Number.isFinite(result))
    throw new InvalidArgumentError('It must be a number.')
  return result
}

export const numberFrom =
  (from: number, to: number) =>
  (value: string): number => {
    const result = Number(value)
    if (value.trim() === '' || !(result >= from && result <= to))
      throw new InvalidArgumentError(`It must be a number from ${from} to ${to}.`)
    return result
  }

/** `to`: beyond its default integers are not kept exactly. */
export const integerFrom =
  (from: number, to = Number.MAX_SAFE_INTEGER) =>
  (value: string): number => {
    const result = Number(value)
    if (value.trim() === '' || !Number.isInteger(result) || result < from || result > to)
      throw new InvalidArgumentError(`It must be an integer from ${from} to ${to}.`)
    return result
  }

export const integer = integerFrom(Number.MIN_SAFE_INTEGER)
export const positiveInteger = integerFrom(1)
