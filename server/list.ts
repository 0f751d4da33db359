// Lists, records and objects of ours in request bodies. A schema of zod reports every bad element, and a
// caller can send a million; it also takes a microsecond for each that is right.

import { z } from 'zod'

/** What a value is, for errors. */
export const describe = (value: unknown): string =>
  value === null
    ? 'null'
    : Array.isArray(value)
      ? 'an array'
      : `a ${typeof value}`.replace('a o', 'an o')

/** What stands in the place of a number. */
export const foundNumber = (value: unknown): string =>
  typeof value === 'number' ? String(value) : describe(value)

/** A list whose check stops at its first bad element. */
export const list = <T extends z.ZodType>(element: T, min: number, max: number) => {
  const { $schema: _, ...items } = z.toJSONSchema(element, { io: 'input', unrepresentable: 'any' })
  return z
    .array(z.unknown())
    .min(min)
    .max(max)
    .transform((given, context): z.output<T>[] => {
      const read: z.output<T>[] = []
      for (const [i, one] of given.entries()) {
        const result = element.safeParse(one)
        if (!result.success) {
          const [first] = result.error.issues
          // `continue: false`: in a union, another branch may still be right.
          if (first) {
            const issue = { ...first, path: [i, ...first.path], input: one, continue: false }
            context.addIssue(issue as Parameters<typeof context.addIssue>[0])
          }
          return z.NEVER
        }
        read.push(result.data)
      }
      return read
    })
    .meta({ type: 'array', items, ...(min > 0 && { minItems: min }), maxItems: max })
}

/** Token ids, 128,000 of them in one pass: one schema an element would take long. */
export const tokenIds = (min: number, max = Number.POSITIVE_INFINITY) =>
  z
    .custom<readonly number[]>(Array.isArray, 'expected a list of token ids')
    .superRefine((ids, context) => {
      const refuse = (message: string, path: number[]) =>
        context.addIssue({ code: 'custom', message, path, continue: false })
      if (ids.length < min || ids.length > max) refuse(`it has ${ids.length} token ids`, [])
      const bad = ids.findIndex((id) => !Number.isSafeInteger(id) || id < 0)
      if (bad >= 0) refuse(`expected a token id, but got ${foundNumber(ids[bad])}`, [bad])
    })
    .meta({ type: 'array', items: { type: 'integer', minimum: 0 } })

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Any keys and values. */
export const anyRecord = () =>
  z
    .custom<Readonly<Record<string, unknown>>>(isRecord, 'expected an object')
    .meta({ type: 'object', propertyNames: { type: 'string' }, additionalProperties: {} })

/** Named values, all of them: z.record() leaves out one that is called `__proto__`. Stops at the first bad one. */
export const recordOf = <T extends z.ZodType>(value: T, name = z.string().min(1)) => {
  const shape = (schema: z.ZodType) => {
    const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })
    return rest
  }
  return z
    .custom<Readonly<Record<string, unknown>>>(isRecord, 'expected an object')
    .transform((given, context): Readonly<Record<string, z.output<T>>> => {
      const read: [string, z.output<T>][] = []
      const refuse = (issue: object) => {
        context.addIssue({ ...issue, continue: false } as Parameters<typeof context.addIssue>[0])
        return z.NEVER
      }
      for (const [key, one] of Object.entries(given)) {
        const named = name.safeParse(key)
        const result = value.safeParse(one)
        const [bad] = named.error?.issues ?? []
        if (bad)
          return refuse({ code: 'invalid_key', origin: 'record', issues: [bad], path: [key] })
        const [first] = result.error?.issues ?? []
        if (first) return refuse({ ...first, path: [key, ...first.path], input: one })
        read.push([key, result.data as z.output<T>])
      }
      return Object.fromEntries(read)
    })
    .meta({ type: 'object', propertyNames: shape(name), additionalProperties: shape(value) })
}

/** A member that clients send and that changes nothing here. */
export const idle = (why = 'Of no effect.') => z.unknown().optional().describe(why)

export const asksNothing = (value: unknown): boolean =>
  value === undefined ||
  value === null ||
  value === false ||
  value === '' ||
  (Array.isArray(value) && value.length === 0)

/** For `superRefine`: what these members ask for is refused by their name. */
export const refuseMembers =
  (unserved: Readonly<Record<string, string>>) =>
  (record: object, context: z.RefinementCtx): void => {
    for (const [name, value] of Object.entries(record)) {
      const why = Object.hasOwn(unserved, name) ? unserved[name] : undefined
      if (why === undefined || asksNothing(value)) continue
      context.addIssue({ code: 'custom', path: [name], message: `it is not supported: ${why}` })
    }
  }

/** An object of our own, in which no other server has members. One that it has not is refused, and what it has is
 * told, or what `instead` says of that one. */
export const ownObject = <T extends z.ZodRawShape>(
  shape: T,
  instead: Readonly<Record<string, string>> = {},
) =>
  z
    .looseObject(shape)
    .superRefine((given, context) => {
      const name = Object.keys(given).find(
        (one) => !Object.hasOwn(shape, one) && given[one] != null,
      )
      if (name === undefined) return
      const members = `there are ${Object.keys(shape).join(', ')}`
      const what = Object.hasOwn(instead, name) ? instead[name] : members
      context.addIssue({
        code: 'custom',
        path: [name],
        message: `it is not supported here: ${what}`,
      })
    })
    .meta({ additionalProperties: false })

const ID = /^(0|[1-9]\d{0,9})$/

/** Numbers by token id, checked in one pass up to the first that is wrong. */
export const numbersById = (min: number, max: number) =>
  z
    .custom<Readonly<Record<string, number>>>(isRecord, 'expected an object')
    .superRefine((numbers, context) => {
      for (const [key, value] of Object.entries(numbers)) {
        const refuse = (message: string) =>
          context.addIssue({ code: 'custom', message, path: [key], continue: false })
        if (!ID.test(key))
          return context.addIssue({
            code: 'invalid_key',
            origin: 'record',
            issues: [{ code: 'custom', message: 'keys are token ids', path: [], input: key }],
            input: numbers,
            path: [key],
          })
        if (typeof value !== 'number' || value < min || value > max)
          return refuse(`expected a number from ${min} to ${max}, but got ${foundNumber(value)}`)
      }
    })
    .meta({
      type: 'object',
      propertyNames: { type: 'string', pattern: ID.source },
      additionalProperties: { type: 'number', minimum: min, maximum: max },
    })
