// Chat templates, run as transformers runs them: Jinja with trimmed blocks, loop controls, `tojson`,
// `raise_exception`, `strftime_now`, and a sandbox in which nothing can be changed. The package
// @huggingface/jinja reads the text; running it is ours, because a template has to give here to the
// byte what it gives in Python. What is not known is refused when a template is read.

import { parse, tokenize } from '@huggingface/jinja'
import { characterAt, sliceCharacters } from './characters.js'
import { FILTERS, hasFilter } from './jinja-filters.js'
import { hasTest, integerOf, itemsOf, TESTS } from './jinja-tests.js'
import { readable } from './marked-text.js'
import { METHODS, methodOf } from './python-text.js'
import { strftime } from './strftime.js'
import {
  type Arguments,
  asKey,
  Callable,
  compare,
  Float,
  isDict,
  isEqual,
  isList,
  isNumber,
  isTrue,
  isTuple,
  listLike,
  lookUp,
  Namespace,
  numberOf,
  orElse,
  sizeOf,
  Tuple,
  text,
  typeName,
  Undefined,
  type Value,
} from './value.js'

type Token = { readonly value: string }
type Name = { readonly type: 'Identifier'; readonly value: string }
type NamedArgument = {
  readonly type: 'KeywordArgumentExpression'
  readonly key: Name
  readonly value: Node
}
type CallNode = {
  readonly type: 'CallExpression'
  readonly callee: Node
  readonly args: readonly Node[]
}
type ForNode = {
  readonly type: 'For'
  readonly loopvar: Node
  readonly iterable: Node
  readonly body: Body
  readonly defaultBlock: Body
}
type SliceNode = {
  readonly type: 'SliceExpression'
  readonly start: Node | undefined
  readonly stop: Node | undefined
  readonly step: Node | undefined
}
type MemberNode = {
  readonly type: 'MemberExpression'
  readonly object: Node
  readonly property: Node
  readonly computed: boolean
}
type MacroNode = {
  readonly type: 'Macro'
  readonly name: Name
  readonly args: readonly (Name | NamedArgument)[]
  readonly body: Body
}
type Body = readonly Node[]

/** What the package's parser makes; its own types say less. */
type Node =
  | { readonly type: 'Program'; readonly body: Body }
  | { readonly type: 'Comment'; readonly value: string }
  | { readonly type: 'Break' }
  | { readonly type: 'Continue' }
  | { readonly type: 'If'; readonly test: Node; readonly body: Body; readonly alternate: Body }
  | {
      readonly type: 'Set'
      readonly assignee: Node
      readonly value: Node | null
      readonly body: Body
    }
  | { readonly type: 'FilterStatement'; readonly filter: Name | CallNode; readonly body: Body }
  | {
      readonly type: 'CallStatement'
      readonly call: CallNode
      readonly callerArgs: readonly (Name | NamedArgument)[] | null
      readonly body: Body
    }
  | { readonly type: 'IntegerLiteral' | 'FloatLiteral'; readonly value: number }
  | { readonly type: 'StringLiteral'; readonly value: string }
  | { readonly type: 'ArrayLiteral' | 'TupleLiteral'; readonly value: readonly Node[] }
  | { readonly type: 'ObjectLiteral'; readonly value: ReadonlyMap<Node, Node> }
  | {
      readonly type: 'BinaryExpression'
      readonly operator: Token
      readonly left: Node
      readonly right: Node
    }
  | { readonly type: 'UnaryExpression'; readonly operator: Token; readonly argument: Node }
  | { readonly type: 'FilterExpression'; readonly operand: Node; readonly filter: Name | CallNode }
  | { readonly type: 'SelectExpression'; readonly lhs: Node; readonly test: Node }
  | {
      readonly type: 'TestExpression'
      readonly operand: Node
      readonly negate: boolean
      readonly test: Name
    }
  | {
      readonly type: 'Ternary'
      readonly condition: Node
      readonly trueExpr: Node
      readonly falseExpr: Node
    }
  | { readonly type: 'SpreadExpression' | 'KeywordSpreadExpression'; readonly argument: Node }
  | ForNode
  | MacroNode
  | CallNode
  | MemberNode
  | SliceNode
  | NamedArgument
  | Name

/** As Hugging Face's sandbox. */
const MAX_RANGE = 100_000
/** Filters that look at no more than the members of a list. */
const SHALLOW = new Set([
  ...['length', 'count', 'first', 'last', 'default', 'd', 'list', 'items', 'reverse', 'attr'],
  ...['map', 'select', 'reject', 'selectattr', 'rejectattr'],
])
/** Nodes that one rendering may evaluate; a conversation of 1000 turns takes about 50,000. */
const MAX_STEPS = 1_000_000
const MAX_TEXT = 1 << 26
const MAX_INTEGER = 2n ** 4096n

class Scope {
  readonly #values = new Map<string, Value>()
  readonly #parent: Scope | undefined

  constructor(parent: Scope | undefined) {
    this.#parent = parent
  }

  set(name: string, value: Value): void {
    this.#values.set(name, value)
  }

  get(name: string): Value {
    for (let scope: Scope | undefined = this; scope; scope = scope.#parent) {
      const value = scope.#values.get(name)
      if (value !== undefined) return value
    }
    return new Undefined(`'${name}'`)
  }
}

const contains = (where: Value, what: Value): boolean => {
  if (typeof where === 'string') {
    if (typeof what !== 'string') throw new Error(`'in' a text: a ${typeName(what)}`)
    return readable(where).includes(readable(what))
  }
  if (isDict(where)) return lookUp(where, asKey(what)) !== undefined
  return itemsOf(where).some((one) => isEqual(one, what))
}

const tooLong = (): Error => new Error('a text grew beyond all bounds')

const add = (a: Value, b: Value): Value | undefined => {
  if (typeof a === 'string' && typeof b === 'string') {
    if (a.length + b.length > MAX_TEXT) throw tooLong()
    return a + b
  }
  if (isList(a) && isList(b) && isTuple(a) === isTuple(b)) {
    if (a.length + b.length > MAX_RANGE) throw new Error('a list grew beyond all bounds')
    return listLike(a, [...a, ...b])
  }
  return undefined
}

const times = (a: Value, b: Value): Value | undefined => {
  const [many, what] = typeof b === 'string' || isList(b) ? [a, b] : [b, a]
  if (typeof many !== 'bigint' && typeof many !== 'boolean') return undefined
  if (typeof what !== 'string' && !isList(what)) return undefined
  const count = Math.max(0, Number(many))
  if (what.length * count > (typeof what === 'string' ? MAX_TEXT : MAX_RANGE)) throw tooLong()
  return typeof what === 'string'
    ? what.repeat(count)
    : listLike(what, Array.from({ length: count }, () => [...what]).flat())
}

/** Of finite numbers, as Python: nothing that is none, and no complex number. */
const power = (x: number, y: number): number => {
  if (x === 0 && y < 0) throw new Error('0 to the power of a negative number')
  const result = x ** y
  if (Number.isFinite(x) && Number.isFinite(y) && !Number.isFinite(result))
    throw new Error(
      Number.isNaN(result) ? 'a root of a negative number' : 'a number grew beyond all bounds',
    )
  return result
}

const modulo = (a: number, b: number): number => a - b * Math.floor(a / b)

const floored = (a: bigint, b: bigint): bigint => {
  const quotient = a / b
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient
}

const calculate = (operator: string, a: Value, b: Value): Value | undefined => {
  if (!isNumber(a) || !isNumber(b)) return undefined
  const zero = numberOf(b) === 0
  if (zero && ['/', '//', '%'].includes(operator)) throw new Error('division by zero')
  if (!(a instanceof Float) && !(b instanceof Float) && operator !== '/') {
    const [x, y] = [BigInt(a), BigInt(b)]
    if (operator === '**' && (y < 0n || y > 4096n)) {
      if (y > 0n) throw new Error('a number grew beyond all bounds')
      return new Float(power(Number(x), Number(y)))
    }
    const results: Readonly<Record<string, () => bigint>> = {
      '+': () => x + y,
      '-': () => x - y,
      '*': () => x * y,
      '//': () => floored(x, y),
      '%': () => x - y * floored(x, y),
      '**': () => x ** y,
    }
    const result = results[operator]?.()
    if (result !== undefined && (result > MAX_INTEGER || result < -MAX_INTEGER))
      throw new Error('a number grew beyond all bounds')
    return result
  }
  const [x, y] = [numberOf(a), numberOf(b)]
  const results: Readonly<Record<string, () => number>> = {
    '+': () => x + y,
    '-': () => x - y,
    '*': () => x * y,
    '/': () => x / y,
    '//': () => Math.floor(x / y),
    '%': () => modulo(x, y),
    '**': () => power(x, y),
  }
  const result = results[operator]?.()
  return result === undefined ? undefined : new Float(result)
}

const slice = <T>(items: readonly T[], from?: number, to?: number, step = 1): T[] => {
  if (step === 0) throw new Error('a slice of step 0')
  const size = items.length
  const clamp = (at: number, low: number, high: number) =>
    Math.max(low, Math.min(high, at < 0 ? at + size : at))
  const out: T[] = []
  if (step > 0) {
    const end = to === undefined ? size : clamp(to, 0, size)
    for (let i = from === undefined ? 0 : clamp(from, 0, size); i < end; i += step)
      out.push(...items.slice(i, i + 1))
  } else {
    const end = to === undefined ? -1 : clamp(to, -1, size - 1)
    for (let i = from === undefined ? size - 1 : clamp(from, -1, size - 1); i > end; i += step)
      out.push(...items.slice(i, i + 1))
  }
  return out
}

const itemOf = (value: Value, key: Value): Value | undefined => {
  if (isDict(value)) return lookUp(value, key)
  if (typeof key === 'bigint' && isList(value)) return value.at(Number(key))
  if (typeof key === 'bigint' && typeof value === 'string') return characterAt(value, Number(key))
  return undefined
}

/** `value.name` asks for a method first, `value[name]` for an item, as Jinja does. */
const memberOf = (value: Value, key: Value, dotted: boolean, what: string): Value => {
  if (value instanceof Undefined) throw new Error(`${value.what} is undefined`)
  const name = typeof key === 'string' ? readable(key) : undefined
  if (value instanceof Namespace)
    return orElse(name === undefined ? undefined : value.values.get(name), new Undefined(what))
  const method = () => (name === undefined ? undefined : methodOf(value, name))
  const found = dotted
    ? orElse<Value | undefined>(method(), itemOf(value, key))
    : orElse<Value | undefined>(itemOf(value, key), method())
  return orElse(found, new Undefined(what))
}

const range = ({ given }: Arguments): Value => {
  if (given.length < 1 || given.length > 3)
    throw new Error(`range() takes 1 to 3 arguments, not ${given.length}`)
  const numbers = given.map((one) => Number(integerOf(one, 'range()')))
  const [first = 0, second, step = 1] = numbers
  const [from, to] = second === undefined ? [0, first] : [first, second]
  if (step === 0) throw new Error('range() of step 0')
  const size = Math.max(0, Math.ceil((to - from) / step))
  if (size > MAX_RANGE) throw new Error(`range() of ${size} numbers: ${MAX_RANGE} at most`)
  return Array.from({ length: size }, (_, i) => BigInt(from + i * step))
}

const namespace = ({ given, named }: Arguments): Value => {
  const made = new Namespace()
  for (const one of given) {
    if (!isDict(one)) throw new Error('namespace() takes a dict or named values')
    for (const [key, value] of one) made.values.set(readable(text(key)), value)
  }
  for (const [name, value] of named) made.values.set(name, value)
  return made
}

const dict = ({ given, named }: Arguments): Value => {
  const [first] = given
  const made = new Map<Value, Value>(first !== undefined && isDict(first) ? first : [])
  for (const [name, value] of named) made.set(name, value)
  return made
}

class Raised extends Error {}

/** Words of the language: no variable takes their place. */
const WORDS: ReadonlyMap<string, Value> = new Map([
  ['true', true],
  ['True', true],
  ['false', false],
  ['False', false],
  ['none', null],
  ['None', null],
])

const GLOBALS: Readonly<Record<string, Value>> = {
  range: new Callable(range),
  namespace: new Callable(namespace),
  dict: new Callable(dict),
  raise_exception: new Callable(({ given }) => {
    throw new Raised(text(given[0] ?? null))
  }),
  strftime_now: new Callable(({ given }) => strftime(new Date(), text(given[0] ?? null))),
}

/** How a block ended: by itself, or by a loop control. */
type Ending = 'end' | 'break' | 'continue'

class Run {
  readonly #globals: Scope
  #steps = 0
  #size = 0
  /** What is written now; blocks that are values have a list of their own. */
  #out: string[] = []

  constructor(globals: Scope) {
    this.#globals = globals
  }

  render(body: Body): string {
    this.#block(body, this.#globals)
    return this.#out.join('')
  }

  #tick(steps = 1): void {
    this.#steps += steps
    if (this.#steps > MAX_STEPS) throw new Error('the template takes too many steps')
  }

  /** What a call made costs by its size. */
  #made(value: Value): Value {
    if (typeof value === 'string') this.#tick(value.length >> 10)
    else if (isList(value)) this.#tick(value.length >> 3)
    return value
  }

  /** What is read through costs by its size. */
  #reads(...sizes: readonly number[]): void {
    for (const size of sizes) this.#tick(Math.min(size, 8 * MAX_STEPS) >> 3)
  }

  /** A text is taken as it is; of others one is made. */
  #text(value: Value): string {
    if (typeof value === 'string') return value
    this.#reads(sizeOf(value))
    return text(value)
  }

  /** Characters that are told apart, one by one. */
  #splits(value: Value): void {
    if (typeof value === 'string') this.#tick(value.length >> 7)
  }

  #write(written: string): void {
    this.#size += written.length
    if (this.#size > MAX_TEXT) throw tooLong()
    this.#out.push(written)
  }

  #captured(run: () => void): string {
    const outer = this.#out
    this.#out = []
    try {
      run()
      return this.#out.join('')
    } finally {
      this.#out = outer
    }
  }

  #block(body: Body, scope: Scope): Ending {
    for (const node of body) {
      const ending = this.#statement(node, scope)
      if (ending !== 'end') return ending
    }
    return 'end'
  }

  #statement(node: Node, scope: Scope): Ending {
    this.#tick()
    switch (node.type) {
      case 'Comment':
        return 'end'
      case 'Break':
        return 'break'
      case 'Continue':
        return 'continue'
      case 'If':
        return this.#block(
          isTrue(this.#value(node.test, scope)) ? node.body : node.alternate,
          scope,
        )
      case 'For':
        this.#loop(node, scope)
        return 'end'
      case 'Set': {
        const { value, body } = node
        const given =
          value === null
            ? this.#captured(() => this.#block(body, new Scope(scope)))
            : this.#value(value, scope)
        this.#assign(node.assignee, given, scope)
        return 'end'
      }
      case 'Macro':
        scope.set(node.name.value, this.#macro(node.args, node.body, scope))
        return 'end'
      case 'CallStatement': {
        const args = this.#arguments(node.call.args, scope)
        const caller = this.#macro(node.callerArgs ?? [], node.body, scope)
        const named = new Map(args.named).set('caller', caller)
        this.#write(this.#text(this.#call(node.call.callee, { given: args.given, named }, scope)))
        return 'end'
      }
      case 'FilterStatement': {
        const inner = this.#captured(() => this.#block(node.body, new Scope(scope)))
        this.#write(this.#text(this.#filter(inner, node.filter, scope)))
        return 'end'
      }
      default:
        this.#write(this.#text(this.#value(node, scope)))
        return 'end'
    }
  }

  #assign(target: Node, value: Value, scope: Scope): void {
    switch (target.type) {
      case 'Identifier':
        scope.set(target.value, value)
        return
      case 'ArrayLiteral':
      case 'TupleLiteral': {
        const items = itemsOf(value)
        if (items.length !== target.value.length)
          throw new Error(`${items.length} values for ${target.value.length} names`)
        for (const [i, one] of target.value.entries()) this.#assign(one, items[i] ?? null, scope)
        return
      }
      case 'MemberExpression': {
        const object = this.#value(target.object, scope)
        if (!(object instanceof Namespace) || target.property.type !== 'Identifier')
          throw new Error('only a namespace can be written to')
        object.values.set(target.property.value, value)
        return
      }
      default:
        throw new Error('this cannot be written to')
    }
  }

  #loop(node: ForNode, scope: Scope): void {
    const { iterable, loopvar } = node
    const [source, test] =
      iterable.type === 'SelectExpression' ? [iterable.lhs, iterable.test] : [iterable, undefined]
    const given = this.#value(source, scope)
    this.#splits(given)
    let items = itemsOf(given)
    if (test !== undefined)
      items = items.filter((item) => {
        this.#tick()
        const inner = new Scope(scope)
        this.#assign(loopvar, item, inner)
        return isTrue(this.#value(test, inner))
      })
    let before: readonly Value[] | undefined
    const cycle = (i: number) =>
      new Callable(({ given }) => {
        if (given.length === 0) throw new Error('loop.cycle() of nothing')
        return given[i % given.length] ?? null
      })
    const changed = new Callable(({ given }) => {
      const isSame = before !== undefined && isEqual(before, given)
      before = given
      return !isSame
    })
    const size = items.length
    let isThrough = false
    for (const [i, item] of items.entries()) {
      this.#tick()
      const inner = new Scope(scope)
      this.#assign(loopvar, item, inner)
      const loop = new Namespace()
      const facts: Readonly<Record<string, Value>> = {
        index: BigInt(i + 1),
        index0: BigInt(i),
        revindex: BigInt(size - i),
        revindex0: BigInt(size - i - 1),
        first: i === 0,
        last: i === size - 1,
        length: BigInt(size),
        depth: 1n, // it counts recursive loops, which are not served
        depth0: 0n,
        previtem: orElse(items[i - 1], new Undefined('loop.previtem')),
        nextitem: orElse(items[i + 1], new Undefined('loop.nextitem')),
        cycle: cycle(i),
        changed,
      }
      for (const [name, value] of Object.entries(facts)) loop.values.set(name, value)
      inner.set('loop', loop)
      const ending = this.#block(node.body, inner)
      if (ending === 'break') break
      isThrough ||= ending === 'end'
    }
    // Jinja's own: an iteration counts when it came to the end of the body.
    if (!isThrough) this.#block(node.defaultBlock, new Scope(scope))
  }

  #macro(parameters: readonly (Name | NamedArgument)[], body: Body, scope: Scope): Callable {
    return new Callable(({ given, named }) => {
      const inner = new Scope(scope)
      const rest = new Map(named)
      const caller = rest.get('caller')
      if (caller !== undefined && !parameters.some((one) => nameOf(one) === 'caller')) {
        inner.set('caller', caller)
        rest.delete('caller')
      }
      if (given.length > parameters.length)
        throw new Error(`a macro takes at most ${parameters.length} arguments`)
      for (const [i, parameter] of parameters.entries()) {
        const name = nameOf(parameter)
        if (given[i] !== undefined && rest.has(name))
          throw new Error(`a macro has two values for its argument '${name}'`)
        const value = orElse(given[i], rest.get(name))
        rest.delete(name)
        inner.set(
          name,
          value === undefined
            ? parameter.type === 'Identifier'
              ? new Undefined(`'${name}'`)
              : this.#value(parameter.value, inner)
            : value,
        )
      }
      for (const name of rest.keys()) throw new Error(`a macro has no argument '${name}'`)
      return this.#captured(() => this.#block(body, inner))
    })
  }

  #arguments(nodes: readonly Node[], scope: Scope): Arguments {
    const given: Value[] = []
    const named = new Map<string, Value>()
    for (const node of nodes) {
      if (node.type === 'KeywordArgumentExpression')
        named.set(node.key.value, this.#value(node.value, scope))
      else if (node.type === 'SpreadExpression')
        for (const one of itemsOf(this.#value(node.argument, scope))) given.push(one)
      else if (node.type === 'KeywordSpreadExpression') {
        const all = this.#value(node.argument, scope)
        if (!isDict(all)) throw new Error(`** of a ${typeName(all)}`)
        for (const [key, value] of all) named.set(readable(text(key)), value)
      } else given.push(this.#value(node, scope))
    }
    return { given, named }
  }

  #call(callee: Node, args: Arguments, scope: Scope): Value {
    const called = this.#value(callee, scope)
    if (called instanceof Undefined) throw new Error(`${called.what} is undefined`)
    if (!(called instanceof Callable)) throw new Error(`a ${typeName(called)} cannot be called`)
    return this.#made(called.call(args))
  }

  #filter(operand: Value, filter: Name | CallNode, scope: Scope): Value {
    const [name, args] =
      filter.type === 'Identifier'
        ? [filter.value, { given: [], named: new Map<string, Value>() }]
        : [nameOf(filter.callee), this.#arguments(filter.args, scope)]
    if (!hasFilter(name)) throw new Error(`no filter is named '${name}'`)
    if (name === 'length' || name === 'count') this.#splits(operand)
    if (SHALLOW.has(name) && isList(operand)) this.#tick(operand.length >> 5)
    else this.#reads(sizeOf(operand))
    return this.#made(FILTERS[name](operand, args))
  }

  #value(node: Node, scope: Scope): Value {
    this.#tick()
    switch (node.type) {
      case 'IntegerLiteral':
        return BigInt(node.value)
      case 'FloatLiteral':
        return new Float(node.value)
      case 'StringLiteral':
        return node.value
      case 'ArrayLiteral':
        return node.value.map((one) => this.#value(one, scope))
      case 'TupleLiteral':
        return Tuple.from(node.value.map((one) => this.#value(one, scope)))
      case 'ObjectLiteral': {
        const made = new Map<Value, Value>()
        for (const [key, one] of node.value)
          made.set(this.#value(key, scope), this.#value(one, scope))
        return made
      }
      case 'Identifier':
        return orElse(WORDS.get(node.value), scope.get(node.value))
      case 'MemberExpression':
        return this.#member(node, scope)
      case 'CallExpression':
        return this.#call(node.callee, this.#arguments(node.args, scope), scope)
      case 'FilterExpression':
        return this.#filter(this.#value(node.operand, scope), node.filter, scope)
      case 'TestExpression': {
        const value = this.#value(node.operand, scope)
        const { value: name } = node.test
        if (!hasTest(name)) throw new Error(`no test is named '${name}'`)
        return TESTS[name](value, null) !== node.negate
      }
      case 'SelectExpression':
        return isTrue(this.#value(node.test, scope))
          ? this.#value(node.lhs, scope)
          : new Undefined('a value without else')
      case 'Ternary':
        return this.#value(
          isTrue(this.#value(node.condition, scope)) ? node.trueExpr : node.falseExpr,
          scope,
        )
      case 'UnaryExpression':
        return this.#unary(node.operator.value, this.#value(node.argument, scope))
      case 'BinaryExpression':
        return this.#binary(node.operator.value, node.left, node.right, scope)
      default:
        throw new Error(`a template cannot have a ${node.type} here`)
    }
  }

  #unary(operator: string, value: Value): Value {
    if (operator === 'not') return !isTrue(value)
    if (!isNumber(value)) throw new Error(`'${operator}' of a ${typeName(value)}`)
    const sign = operator === '-' ? -1 : 1
    return value instanceof Float ? new Float(sign * value.value) : BigInt(sign) * BigInt(value)
  }

  #binary(operator: string, leftNode: Node, rightNode: Node, scope: Scope): Value {
    const left = this.#value(leftNode, scope)
    if (operator === 'and') return isTrue(left) ? this.#value(rightNode, scope) : left
    if (operator === 'or') return isTrue(left) ? left : this.#value(rightNode, scope)
    const right = this.#value(rightNode, scope)
    switch (operator) {
      case '==':
      case '!=':
        this.#reads(Math.min(sizeOf(left), sizeOf(right)))
        return isEqual(left, right) === (operator === '==')
      case 'in':
      case 'not in':
        this.#reads(sizeOf(left), isDict(right) ? 1 : sizeOf(right))
        return contains(right, left) === (operator === 'in')
      case '~':
        return add(this.#text(left), this.#text(right)) ?? ''
    }
    for (const one of [left, right])
      if (one instanceof Undefined) throw new Error(`${one.what} is undefined`)
    if (!isNumber(left)) this.#reads(Math.min(sizeOf(left), sizeOf(right)))
    switch (operator) {
      case '<':
        return compare(left, right) < 0
      case '>':
        return compare(left, right) > 0
      case '<=':
        return compare(left, right) <= 0
      case '>=':
        return compare(left, right) >= 0
    }
    const result =
      calculate(operator, left, right) ??
      (operator === '+' ? add(left, right) : operator === '*' ? times(left, right) : undefined)
    // Two texts are put together at no cost.
    if (result !== undefined) return isList(result) ? this.#made(result) : result
    throw new Error(`'${operator}' between ${typeName(left)} and ${typeName(right)}`)
  }

  #member(node: MemberNode, scope: Scope): Value {
    const object = this.#value(node.object, scope)
    const { property } = node
    if (typeof object === 'string') this.#tick(object.length >> (node.computed ? 7 : 10))
    if (!node.computed) {
      if (property.type === 'IntegerLiteral')
        return memberOf(object, BigInt(property.value), true, `item ${property.value}`)
      const name = nameOf(property)
      return memberOf(object, name, true, `'${name}'`)
    }
    if (property.type === 'SliceExpression') return this.#slice(object, property, scope)
    const key = this.#value(property, scope)
    return memberOf(object, key, false, typeof key === 'string' ? `'${key}'` : `item ${text(key)}`)
  }

  #slice(object: Value, node: SliceNode, scope: Scope): Value {
    const at = (one: Node | undefined): number | undefined => {
      const value = one === undefined ? null : this.#value(one, scope)
      return value === null ? undefined : Number(integerOf(value, 'a slice'))
    }
    const [from, to, step] = [at(node.start), at(node.stop), at(node.step)]
    if (typeof object === 'string')
      return (step ?? 1) === 1
        ? sliceCharacters(object, from, to)
        : slice([...object], from, to, step).join('')
    if (isList(object)) return this.#made(listLike(object, slice(object, from, to, step)))
    throw new Error(`a slice of a ${typeName(object)}`)
  }
}

const nameOf = (node: Node): string => {
  if (node.type === 'KeywordArgumentExpression') return node.key.value
  if (node.type === 'Identifier') return node.value
  throw new Error('a name was expected')
}

const COMPARISONS = new Set(['==', '!=', '<', '>', '<=', '>=', 'in', 'not in'])
const isComparison = (node: unknown): boolean =>
  (node as Node).type === 'BinaryExpression' &&
  COMPARISONS.has((node as { operator: Token }).operator.value)

/** Refuses, before anything is rendered, what would not come out as in Python. */
const check = (node: Node, inLoop: boolean): void => {
  switch (node.type) {
    case 'FilterExpression':
    case 'FilterStatement': {
      const name = nameOf(node.filter.type === 'CallExpression' ? node.filter.callee : node.filter)
      if (!hasFilter(name)) throw new Error(`no filter is named '${name}' here`)
      break
    }
    case 'TestExpression':
      if (!hasTest(node.test.value)) throw new Error(`no test is named '${node.test.value}' here`)
      break
    case 'CallExpression': {
      const { callee } = node
      if (callee.type === 'MemberExpression' && callee.property.type === 'Identifier') {
        const name = callee.property.value
        const isLoops = callee.object.type === 'Identifier' && callee.object.value === 'loop'
        if (!callee.computed && !METHODS.has(name) && !isLoops)
          throw new Error(`no method is named '${name}' here`)
      }
      break
    }
    case 'Break':
    case 'Continue':
      if (!inLoop) throw new Error(`'${node.type.toLowerCase()}' outside of a loop`)
      break
    case 'BinaryExpression':
      // Python means `a < b and b < c`; what reads it here means `(a < b) < c`.
      if (isComparison(node) && isComparison(node.left))
        throw new Error('a chain of comparisons is not supported: write it with `and`')
      break
  }
  const inside = node.type === 'For' || (inLoop && node.type !== 'Macro')
  const visit = (value: unknown): void => {
    if (Array.isArray(value)) value.forEach(visit)
    else if (value instanceof Map)
      for (const [key, one] of value) {
        visit(key)
        visit(one)
      }
    else if (typeof value === 'object' && value !== null && 'type' in value)
      check(value as Node, inside)
  }
  Object.values(node).forEach(visit)
}

type Jinja = {
  /** Throws where the template does, or takes too long. */
  readonly render: (values: ReadonlyMap<string, Value>) => string
}

/** Throws where `source` is no template or has what we do not know. */
export const readJinja = (source: string): Jinja => {
  // Jinja reads all line ends as \n.
  const lines = source.replace(/\r\n?/g, '\n')
  const tokens = tokenize(lines, { lstrip_blocks: true, trim_blocks: true })
  const program = parse(tokens) as unknown as Extract<Node, { type: 'Program' }>
  check(program, false)
  return {
    render: (values) => {
      const scope = new Scope(undefined)
      for (const [name, value] of Object.entries(GLOBALS)) scope.set(name, value)
      for (const [name, value] of values) scope.set(name, value)
      return new Run(scope).render(program.body)
    },
  }
}
