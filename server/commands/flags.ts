// What commander makes of the words behind a flag. Each throws InvalidArgumentError with what is right.

import { InvalidArgumentError } from 'commander'

/** A flag that may repeat. */
export const collect = (value: string, previous: readonly string[] = []): readonly string[] => [
  ...previous,
  value,
]

export const number = (value: string): number => {
  const result = Number(value)
  if (value.trim() === '' || !Number.isFinite(result))
    throw new InvalidArgumentError('It must be a number.')
  return result
}

export const integer = (value: string): number => {
  const result = number(value)
  if (!Number.isSafeInteger(result)) throw new InvalidArgumentError('It must be an integer.')
  return result
}

export const positiveInteger = (value: string): number => {
  const result = Number(value)
  if (!Number.isSafeInteger(result) || result < 1)
    throw new InvalidArgumentError('It must be an integer of at least 1.')
  return result
}
