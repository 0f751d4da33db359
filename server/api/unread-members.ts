// Members that no schema names, of the objects within a request: nothing reads them. What is handed through as it
// is (a JSON Schema, arguments, metadata) has members of its own and is not looked into. /openapi.json says which.

import type { z } from 'zod'
import { jsonSchemaOf } from '../check.js'
import { asksNothing } from '../list.js'

type Json = Readonly<Record<string, unknown>>

/** What a schema says of values that have others within them; a union says as much of each of its branches. */
type Shape =
  | { readonly kind: 'list' | 'record'; readonly each: readonly Shape[] }
  /** Of any members. */
  | { readonly kind: 'open' }
  | {
      readonly kind: 'object'
      readonly members: ReadonlyMap<string, readonly Shape[]>
      /** Members of one or a few values, such as `type`: they tell it from other branches. */
      readonly marks: ReadonlyMap<string, readonly unknown[]>
    }

const isRecord = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isType = ({ type }: Json, name: string): boolean => [type].flat().includes(name)

const OPEN: readonly Shape[] = [{ kind: 'open' }]

type Members = readonly (readonly [name: string, schema: Json])[]

const marksOf = (members: Members) =>
  new Map(
    members.flatMap(([name, { const: only, enum: some }]) => {
      const values = only === undefined ? some : [only]
      return Array.isArray(values) ? [[name, values] as const] : []
    }),
  )

const shapesOf = (schema: Json): readonly Shape[] => {
  const branches = schema.anyOf ?? schema.oneOf
  if (Array.isArray(branches)) return branches.flatMap(shapesOf)
  if (isType(schema, 'array')) {
    const each = isRecord(schema.items) ? shapesOf(schema.items) : []
    return each.length === 0 ? [] : [{ kind: 'list', each }]
  }
  if (!isType(schema, 'object')) return schema.type === undefined ? OPEN : []
  const { properties, additionalProperties: rest } = schema
  if (rest === true) return OPEN
  if (isRecord(properties)) {
    const named = Object.entries(properties) as unknown as Members
    const members = new Map(named.map(([name, one]) => [name, shapesOf(one)]))
    return [{ kind: 'object', members, marks: marksOf(named) }]
  }
  const each = shapesOf(isRecord(rest) ? rest : {})
  return each.every(({ kind }) => kind === 'open') ? OPEN : [{ kind: 'record', each }]
}

/** How many marks of a shape an object has; -1: it is of another branch. */
const marked = (value: Json, shape: Shape): number => {
  if (shape.kind !== 'object') return 0
  let count = 0
  for (const [name, values] of shape.marks) {
    if (!Object.hasOwn(value, name)) continue
    if (!values.includes(value[name])) return -1
    count++
  }
  return count
}

/** The branches that an object is of. */
const fitting = (value: Json, shapes: readonly Shape[]): readonly Shape[] => {
  const own = shapes.filter(({ kind }) => kind !== 'list')
  if (own.length < 2) return own
  const marks = own.map((shape) => marked(value, shape))
  const most = Math.max(0, ...marks)
  return own.filter((_, i) => marks[i] === most)
}

type Unread = {
  /** Where it stands: `messages.3.content.0.txt`. */
  readonly param: string
  /** The same for all that stand in such a place: `messages.content.txt`. */
  readonly name: string
}

const within = ({ param, name }: Unread, key: string | number): Unread => ({
  param: `${param}.${key}`,
  name,
})
const memberOf = ({ param, name }: Unread, key: string): Unread => ({
  param: `${param}.${key}`,
  name: `${name}.${key}`,
})

/** Calls `found` with each member that is not named. */
const walk = (
  value: unknown,
  shapes: readonly Shape[],
  at: Unread,
  found: (one: Unread) => void,
): void => {
  if (Array.isArray(value)) {
    const each = shapes.flatMap((shape) => (shape.kind === 'list' ? shape.each : []))
    if (each.length > 0)
      for (const [i, one] of value.entries()) walk(one, each, within(at, i), found)
    return
  }
  if (!isRecord(value)) return
  const own = fitting(value, shapes)
  const each = own.flatMap((shape) => (shape.kind === 'record' ? shape.each : []))
  for (const [key, one] of each.length > 0 ? Object.entries(value) : [])
    walk(one, each, within(at, key), found)
  const objects = own.filter((shape) => shape.kind === 'object')
  if (objects.length === 0 || objects.length < own.length) return
  for (const [key, one] of Object.entries(value)) {
    const next = objects.flatMap(({ members }) => {
      const shapes = members.get(key)
      return shapes === undefined ? [] : [shapes]
    })
    if (next.length > 0) walk(one, next.flat(), memberOf(at, key), found)
    else if (!asksNothing(one)) found(memberOf(at, key))
  }
}

const known = new WeakMap<z.ZodObject, ReadonlyMap<string, readonly Shape[]>>()

const fieldsOf = (schema: z.ZodObject): ReadonlyMap<string, readonly Shape[]> => {
  const { properties = {} } = jsonSchemaOf(schema)
  const entries = Object.entries(properties as Readonly<Record<string, Json>>)
  const fields = new Map(entries.map(([name, one]) => [name, shapesOf(one)]))
  known.set(schema, fields)
  return fields
}

/** What a request that fits its schema says in vain below its own fields, each name once. What asks for nothing is not
 * told. */
export const unreadMembers = (schema: z.ZodObject, body: object): readonly Unread[] => {
  const names = new Map<string, Unread>()
  const fields = known.get(schema) ?? fieldsOf(schema)
  for (const [name, value] of Object.entries(body))
    walk(value, fields.get(name) ?? [], { param: name, name }, (one) => {
      if (!names.has(one.name)) names.set(one.name, one)
    })
  return [...names.values()]
}
