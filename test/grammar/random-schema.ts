// Random JSON Schemas of what is served, and random numbers that a seed repeats.

type Random = () => number

/** `if` and what goes with it, as far as it is given. */
export const when = (holds: unknown, so: unknown, other?: unknown): Record<string, unknown> =>
  JSON.parse(
    JSON.stringify(
      Object.fromEntries([
        ['if', holds],
        ['then', so],
        ['else', other],
      ]),
    ),
  )

export const createRandom = (seed: number): Random => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000
  }
}

type Schema = boolean | Record<string, unknown>

const NAMES = ['a', 'b', 'name', 'älter', 'x y', 'a"b', 'id', 'aa', 'ab', '日本']
const PATTERNS = [
  '^[a-z]+$',
  '[0-9]',
  '^(foo|bar)-\\d{2,4}$',
  'a.c',
  '^\\w+@\\w+\\.com$',
  '^x',
  'y$',
  '^$',
  '[^a]',
  '\\\\"',
  '^(?!ab)[a-c]{2,4}$',
  '^(?=.*\\d)[a-z0-9]{3,5}$',
  'é+',
  '^\\p{Lu}\\p{Ll}*$',
  '(^a|b$)',
  '^[\\s\\S]{2,5}$',
  '\\n',
]
const FORMATS = [
  'date',
  'time',
  'date-time',
  'duration',
  'email',
  'hostname',
  'ipv4',
  'ipv6',
  'uuid',
  'uri',
]
const VALUES = [1, 'a', null, true, { x: 1, y: [] }, [1, 2], -0.5, 'a"\\b', 'älter', 1e-7, 1e21]

/** One schema. */
// long: a list of keywords, each as random as the next
export const randomSchema = (random: Random): Record<string, unknown> => {
  const integer = (low: number, high: number) => low + Math.floor(random() * (high - low + 1))
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T
  const maybe = (chance: number, keywords: object) => (random() < chance ? keywords : {})
  const bound = () =>
    pick([
      integer(-50, 50),
      random() * 10,
      -random() * 1000,
      ...[
        0,
        1e6,
        0.1,
        -0.5,
        93,
        17,
        2 ** 31,
        2 ** 53 - 1,
        1.5,
        99.5,
        100,
        1e-7,
        0.30000000000000004,
      ],
    ])
  const lengths = () => ({
    ...maybe(0.3, { minLength: integer(0, 4) }),
    ...maybe(0.3, { maxLength: integer(4, 9) }),
  })
  const leaves: readonly (() => Schema)[] = [
    () => ({ type: 'string', ...lengths() }),
    () => ({ type: 'string', pattern: pick(PATTERNS), ...lengths() }),
    () => ({ type: 'string', format: pick(FORMATS), ...maybe(0.1, { maxLength: 40 }) }),
    () => ({
      type: 'integer',
      ...maybe(0.5, { minimum: bound() }),
      ...maybe(0.5, { maximum: bound() }),
    }),
    () => ({
      type: pick(['integer', 'number']),
      ...maybe(0.5, { exclusiveMinimum: bound() }),
      ...maybe(0.5, { exclusiveMaximum: bound() }),
      ...maybe(0.2, { multipleOf: pick([1, 2, 3, 7, 10, 60, 100, 0.5, 0.25]) }),
    }),
    () => ({
      type: 'number',
      ...maybe(0.5, { minimum: bound() }),
      ...maybe(0.5, { maximum: bound() }),
    }),
    () => ({ enum: [...VALUES.filter(() => random() < 0.5), 'z'] }),
    () => ({ const: pick<unknown>([1, 'ab', null, {}, [], { a: { b: 1 } }]) }),
    () => ({ type: ['string', 'null'] }),
    () => ({ type: 'boolean' }),
    () => ({ minimum: 5, maxLength: 3 }),
    () => ({ properties: { a: { type: 'null' } } }),
  ]
  const leaf = () => pick(leaves)()
  const object = (depth: number, tag?: string): Record<string, unknown> => {
    const properties: Record<string, Schema> = tag === undefined ? {} : { kind: { const: tag } }
    for (let i = integer(0, 4); i > 0; i--) properties[pick(NAMES)] = any(depth - 1)
    const required = Object.keys(properties).filter((name) => name === 'kind' || random() < 0.5)
    return {
      type: 'object',
      properties,
      required,
      ...pick<object>([
        {},
        { additionalProperties: false },
        { additionalProperties: leaf() },
        { additionalProperties: any(depth - 1) },
      ]),
      ...maybe(0.1, { patternProperties: { '^a': leaf() } }),
      ...maybe(0.1, { minProperties: required.length + integer(0, 1) }),
      ...maybe(0.1, { maxProperties: integer(required.length, 6) }),
      ...maybe(0.1, { propertyNames: { maxLength: 8 } }),
    }
  }
  /** One that says what may not be, or what else must be then. */
  const denied = (depth: number): Schema => {
    const names = ['a', 'b', 'id']
    const some = (
      branches: readonly Record<string, unknown>[] = [
        { anyOf: [{ required: ['a'] }, { minLength: 2 }] },
      ],
    ): Record<string, unknown> =>
      pick<Record<string, unknown>>([
        { required: [pick(names)] },
        { required: names.slice(1) },
        { properties: { [pick(names)]: pick(leaves)() } },
        { properties: { a: { const: pick(VALUES) } }, required: ['a'] },
        { enum: [...VALUES.filter((one) => typeof one !== 'object' && random() < 0.5), 'ab'] },
        { type: pick(['string', 'object', 'null', 'boolean']) },
        { type: 'string', pattern: pick(PATTERNS) },
        ...branches,
      ])
    // Not inside 'oneOf': there Ajv's count of what has been looked at fails.
    return {
      ...object(depth),
      ...pick<object>([
        { not: some() },
        when(some(), some(), some()),
        when(some(), { not: some() }),
        { dependentRequired: { a: ['b'], id: ['a'] } },
        { dependentSchemas: { [pick(names)]: some() } },
        { oneOf: [some([]), some([])] },
        { type: ['object', 'string', 'null'], oneOf: [some([]), some([]), some([])] },
      ]),
    }
  }
  const any = (depth: number): Schema => {
    const at = random()
    if (depth <= 0 || at < 0.35) return leaf()
    if (at < 0.6) return object(depth)
    if (at < 0.75)
      return {
        type: 'array',
        items: any(depth - 1),
        ...maybe(0.5, { minItems: integer(0, 3) }),
        ...maybe(0.5, { maxItems: integer(3, 5) }),
      }
    if (at < 0.8)
      return {
        type: 'array',
        prefixItems: [any(depth - 1), any(depth - 2)],
        items: random() < 0.5 ? false : any(depth - 1),
        ...maybe(0.3, { minItems: integer(0, 4) }),
      }
    if (at < 0.85) return { anyOf: [any(depth - 1), any(depth - 1)] }
    if (at < 0.88) return denied(depth)
    if (at < 0.92) return { allOf: [object(depth - 1), object(depth - 1)] }
    if (at < 0.95) return { oneOf: [object(depth - 1, 'u'), object(depth - 1, 'v')] }
    if (at < 0.98) return { $ref: '#/$defs/tree' }
    return pick<Schema>([true, {}, { description: 'anything' }])
  }
  const kids = { type: 'array', items: { $ref: '#/$defs/tree' }, maxItems: 2 }
  const tree = {
    type: 'object',
    properties: { value: leaf(), kids },
    required: ['value'],
    additionalProperties: false,
  }
  const body = any(4)
  return { ...(typeof body === 'object' && body), $defs: { tree } }
}
