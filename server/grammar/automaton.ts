// Deterministic automata over characters: where several patterns must hold at once, or one must not, a
// language is no single pattern any more. States are bounded, and so is the work.

import { badRequest } from '../request-error.js'
import { ANY, type CodePoints, has, union } from './code-points.js'
import { EMPTY, type GrammarText } from './grammar-text.js'
import type { Pattern } from './pattern.js'

/** Of an automaton, and of the grammar that it becomes. */
const MAX_STATES = 8192
/** Steps of the making of one automaton. */
const MAX_WORK = 500_000

type Edge = { readonly first: number; readonly last: number; readonly to: number }

/** State 0 is where a text begins. Without states: no text at all is in the language. */
export type Automaton = {
  /** By state: ranges that do not overlap, in order. What is in none leads nowhere. */
  readonly edges: readonly (readonly Edge[])[]
  readonly accepts: readonly boolean[]
}

/** What is too much is refused in these words; `param` is the field. */
export type Subject = {
  readonly what: string
  readonly param: string | null
  /** Is told of the steps that an automaton took. */
  readonly spend?: (steps: number) => void
}

const tooMuch = ({ what, param }: Subject): never => {
  throw badRequest(
    `${what} is too complex: it needs more than ${MAX_STATES} states. Use fewer or smaller counts, or fewer patterns at once.`,
    param,
  )
}

type Nfa = {
  readonly free: number[][]
  readonly moves: { readonly set: CodePoints; readonly to: number }[][]
  /** Passable before the first character, and after the last one. */
  readonly begin: number[][]
  readonly end: number[][]
  readonly last: number
}

/** `count` is told of each step: what matches no character makes no state, however often it is repeated. */
const thompson = (pattern: Pattern, subject: Subject, count: (steps: number) => void): Nfa => {
  const nfa = { free: [], moves: [], begin: [], end: [] } as Omit<Nfa, 'last'>
  const state = (): number => {
    if (nfa.free.length >= 8 * MAX_STATES) tooMuch(subject)
    nfa.free.push([])
    nfa.moves.push([])
    nfa.begin.push([])
    nfa.end.push([])
    return nfa.free.length - 1
  }
  /** From `from` through the pattern; where it ends. */
  const add = (part: Pattern, from: number): number => {
    count(1)
    switch (part.kind) {
      case 'character': {
        const to = state()
        nfa.moves[from]?.push({ set: part.set, to })
        return to
      }
      case 'begin':
      case 'end': {
        const to = state()
        nfa[part.kind][from]?.push(to)
        return to
      }
      case 'sequence':
        return part.parts.reduce((at, one) => add(one, at), from)
      case 'choice': {
        const to = state()
        for (const branch of part.branches) {
          const begin = state()
          nfa.free[from]?.push(begin)
          nfa.free[add(branch, begin)]?.push(to)
        }
        return to
      }
      case 'repeat': {
        let at = from
        for (let i = 0; i < part.min; i++) at = add(part.part, at)
        if (part.max === Number.POSITIVE_INFINITY) {
          const loop = state()
          nfa.free[at]?.push(loop)
          const begin = state()
          nfa.free[loop]?.push(begin)
          nfa.free[add(part.part, begin)]?.push(loop)
          return loop
        }
        const to = state()
        for (let i = part.min; i < part.max; i++) {
          nfa.free[at]?.push(to)
          const begin = state()
          nfa.free[at]?.push(begin)
          at = add(part.part, begin)
        }
        nfa.free[at]?.push(to)
        return to
      }
    }
  }
  const first = state()
  return { ...nfa, last: add(pattern, first) }
}

/** States reached without a character, as far as anything is to be had there. `count` is told of all that were seen. */
const closure = (
  nfa: Nfa,
  from: Iterable<number>,
  {
    count,
    ...where
  }: {
    readonly isBegin: boolean
    readonly isEnd: boolean
    readonly count: (steps: number) => void
  },
): number[] => {
  const seen = new Set(from)
  const pending = [...seen]
  for (let at = pending.pop(); at !== undefined; at = pending.pop())
    for (const way of [
      nfa.free,
      ...(where.isBegin ? [nfa.begin] : []),
      ...(where.isEnd ? [nfa.end] : []),
    ])
      for (const to of way[at] ?? [])
        if (!seen.has(to)) {
          seen.add(to)
          pending.push(to)
        }
  count(seen.size)
  const kept = [...seen].filter(
    (at) => at === nfa.last || nfa.moves[at]?.length !== 0 || nfa.end[at]?.length !== 0,
  )
  return kept.sort((a, b) => a - b)
}

/** Numbers states by key as they are found, and stops at the limit. */
const createStates = <S>(subject: Subject) => {
  const numbers = new Map<string, number>()
  const list: S[] = []
  return {
    list,
    number: (key: string, state: S): number => {
      const known = numbers.get(key)
      if (known !== undefined) return known
      if (list.length >= MAX_STATES) tooMuch(subject)
      numbers.set(key, list.length)
      list.push(state)
      return list.length - 1
    },
  }
}

/** Cuts the ranges of several edges where one begins or ends: pieces in which nothing changes. */
const cuts = (starts: Iterable<number>): number[] => [...new Set(starts)].sort((a, b) => a - b)

const withEdge = (edges: Edge[], edge: Edge): void => {
  const before = edges.at(-1)
  if (before !== undefined && before.to === edge.to && before.last + 1 === edge.first)
    edges[edges.length - 1] = { ...before, last: edge.last }
  else edges.push(edge)
}

/** Of whole texts that match. */
export const automatonOf = (pattern: Pattern, subject: Subject): Automaton => {
  let work = 0
  const count = (steps: number): void => {
    work += steps
    if (work > MAX_WORK) tooMuch(subject)
  }
  const nfa = thompson(pattern, subject, count)
  const states = createStates<readonly number[]>(subject)
  const begin = closure(nfa, [0], { isBegin: true, isEnd: false, count })
  states.number(begin.join(), begin)
  const edges: Edge[][] = []
  const accepts: boolean[] = []
  for (let i = 0; i < states.list.length; i++) {
    const state = states.list[i] ?? []
    const isBegin = i === 0
    accepts.push(closure(nfa, state, { isBegin, isEnd: true, count }).includes(nfa.last))
    // Counted repetition brings the same set many times.
    const bySet = new Map<CodePoints, number[]>()
    for (const at of state)
      for (const { set, to } of nfa.moves[at] ?? []) {
        const known = bySet.get(set)
        if (known === undefined) bySet.set(set, [to])
        else known.push(to)
      }
    const sets = [...bySet]
    const points = cuts(
      sets.flatMap(([set]) => set.map((point, k) => (k % 2 === 0 ? point : point + 1))),
    )
    const out: Edge[] = []
    const targets = new Map<string, number>()
    for (const [k, first] of points.entries()) {
      const chosen = sets.flatMap(([set], at) => (has(set, first) ? [at] : []))
      if (chosen.length === 0) continue
      const key = chosen.join()
      let to = targets.get(key)
      if (to === undefined) {
        const next = closure(
          nfa,
          chosen.flatMap((at) => sets[at]?.[1] ?? []),
          { isBegin: false, isEnd: false, count },
        )
        to = states.number(next.join(), next)
        // State 0 alone stands before the first character.
        if (to === 0) to = states.number(`again ${next.join()}`, next)
        targets.set(key, to)
      }
      withEdge(out, { first, last: (points[k + 1] ?? first + 1) - 1, to })
    }
    count(points.length * sets.length + state.length)
    edges.push(out)
  }
  subject.spend?.(work)
  return trimmed({ edges, accepts })
}

/** Between min and max characters. */
export const lengthAutomaton = (min: number, max: number, subject: Subject): Automaton => {
  const last = max === Number.POSITIVE_INFINITY ? min : max
  if (last >= MAX_STATES) tooMuch(subject)
  const edges = Array.from({ length: last + 1 }, (_, i): Edge[] => {
    const to = i < last ? i + 1 : max === Number.POSITIVE_INFINITY ? i : -1
    if (to < 0) return []
    return Array.from({ length: ANY.length / 2 }, (_, k) => ({
      first: ANY[2 * k] ?? 0,
      last: ANY[2 * k + 1] ?? 0,
      to,
    }))
  })
  return { edges, accepts: edges.map((_, i) => i >= min) }
}

/** Of these texts alone. */
export const textsAutomaton = (texts: Iterable<string>, subject: Subject): Automaton => {
  const nodes: { next: Map<number, number>; isEnd: boolean }[] = [{ next: new Map(), isEnd: false }]
  for (const text of texts) {
    let at = 0
    for (const one of text) {
      const point = one.codePointAt(0) ?? 0
      const node = nodes[at]
      let to = node?.next.get(point)
      if (to === undefined) {
        to = nodes.length
        if (to >= 8 * MAX_STATES) tooMuch(subject)
        nodes.push({ next: new Map(), isEnd: false })
        node?.next.set(point, to)
      }
      at = to
    }
    const node = nodes[at]
    if (node) node.isEnd = true
  }
  return {
    edges: nodes.map(({ next }) =>
      [...next]
        .map(([point, to]) => ({ first: point, last: point, to }))
        .sort((a, b) => a.first - b.first),
    ),
    accepts: nodes.map(({ isEnd }) => isEnd),
  }
}

const DEAD = -1

const step = ({ edges }: Automaton, state: number, point: number): number => {
  const list = edges[state] ?? []
  let [low, high] = [0, list.length - 1]
  while (low <= high) {
    const middle = (low + high) >> 1
    const edge = list[middle]
    if (edge === undefined || point < edge.first) high = middle - 1
    else if (point > edge.last) low = middle + 1
    else return edge.to
  }
  return DEAD
}

export const matches = (automaton: Automaton, text: string): boolean => {
  let state = automaton.edges.length > 0 ? 0 : DEAD
  for (const one of text) state = step(automaton, state, one.codePointAt(0) ?? 0)
  return automaton.accepts[state] === true
}

export const isEmpty = ({ edges }: Automaton): boolean => edges.length === 0

/** Without the states from which no text ends. */
const trimmed = ({ edges, accepts }: Automaton): Automaton => {
  const from: number[][] = edges.map(() => [])
  for (const [state, list] of edges.entries()) for (const { to } of list) from[to]?.push(state)
  const alive = new Set(accepts.flatMap((isEnd, state) => (isEnd ? [state] : [])))
  const pending = [...alive]
  for (let at = pending.pop(); at !== undefined; at = pending.pop())
    for (const state of from[at] ?? [])
      if (!alive.has(state)) {
        alive.add(state)
        pending.push(state)
      }
  if (!alive.has(0)) return { edges: [], accepts: [] }
  const numbers = new Map([...alive].sort((a, b) => a - b).map((state, i) => [state, i]))
  const kept = [...numbers.keys()]
  return {
    edges: kept.map((state) =>
      (edges[state] ?? []).flatMap((edge) => {
        const to = numbers.get(edge.to)
        return to === undefined ? [] : [{ ...edge, to }]
      }),
    ),
    accepts: kept.map((state) => accepts[state] === true),
  }
}

/** Of the texts that all of `inside` accept and none of `outside`. `inside` is not empty. */
export const combined = (
  inside: readonly Automaton[],
  outside: readonly Automaton[],
  subject: Subject,
): Automaton => {
  if (inside.some(isEmpty)) return { edges: [], accepts: [] }
  if (inside.length === 1 && outside.length === 0 && inside[0]) return inside[0]
  const all = [...inside, ...outside]
  const states = createStates<readonly number[]>(subject)
  const begin = all.map((one) => (isEmpty(one) ? DEAD : 0))
  states.number(begin.join(), begin)
  const edges: Edge[][] = []
  const accepts: boolean[] = []
  let work = 0
  for (let i = 0; i < states.list.length; i++) {
    const state = states.list[i] ?? []
    const isIn = (at: number, k: number) => all[k]?.accepts[at] === true
    accepts.push(state.every((at, k) => isIn(at, k) === k < inside.length))
    const starts = state.flatMap((at, k) =>
      (all[k]?.edges[at] ?? []).flatMap(({ first, last }) => [first, last + 1]),
    )
    const points = cuts(starts)
    work += points.length * all.length + 1
    if (work > MAX_WORK) tooMuch(subject)
    const out: Edge[] = []
    for (const [k, first] of points.entries()) {
      const next = all.map((one, j) => step(one, state[j] ?? DEAD, first))
      if (next.slice(0, inside.length).includes(DEAD)) continue
      const to = states.number(next.join(), next)
      withEdge(out, { first, last: (points[k + 1] ?? first + 1) - 1, to })
    }
    edges.push(out)
  }
  subject.spend?.(work)
  return trimmed({ edges, accepts })
}

/** The same language with the fewest states. */
export const minimal = ({ edges, accepts }: Automaton): Automaton => {
  let classes: readonly number[] = accepts.map((isEnd) => (isEnd ? 1 : 0))
  let count = 0
  const merged = (list: readonly Edge[]): Edge[] => {
    const out: Edge[] = []
    for (const edge of list) withEdge(out, { ...edge, to: classes[edge.to] ?? 0 })
    return out
  }
  for (;;) {
    const numbers = new Map<string, number>()
    const next = edges.map((list, state) => {
      const ways = merged(list).map(({ first, last, to }) => `${first}-${last}:${to}`)
      const key = `${classes[state]} ${ways.join()}`
      const known = numbers.get(key)
      if (known !== undefined) return known
      numbers.set(key, numbers.size)
      return numbers.size - 1
    })
    classes = next
    if (numbers.size === count) break
    count = numbers.size
  }
  // The first of each class stands for it; they were numbered in order, so state 0 stays the first.
  const first = new Map<number, number>()
  for (const [state, one] of classes.entries()) if (!first.has(one)) first.set(one, state)
  const kept = [...first.values()]
  return {
    edges: kept.map((state) => merged(edges[state] ?? [])),
    accepts: kept.map((state) => accepts[state] === true),
  }
}

/** Rules for the texts of an automaton that is not empty; returns the first one's name. */
export const automatonRules = (
  text: GrammarText,
  automaton: Automaton,
  hint: string,
  write: (set: CodePoints) => string,
): string => {
  const names = automaton.edges.map(() => text.reserve(hint))
  for (const [state, list] of automaton.edges.entries()) {
    const byTarget = new Map<number, number[]>()
    for (const { first, last, to } of list)
      byTarget.set(to, [...(byTarget.get(to) ?? []), first, last])
    const branches = [...byTarget].map(
      ([to, ranges]) => `${write(union(ranges))}${isLeaf(automaton, to) ? '' : ` ${names[to]}`}`,
    )
    if (automaton.accepts[state]) branches.push(EMPTY)
    if (state === 0 || !isLeaf(automaton, state))
      text.define(names[state] ?? '', branches.join(' | '))
  }
  return names[0] ?? ''
}

/** It only ends here. */
const isLeaf = ({ edges }: Automaton, state: number): boolean => edges[state]?.length === 0
