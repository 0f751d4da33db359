// Grammar text, read and recognised the slow and simple way: an oracle for what compiles to it. Knows
// nothing of the engine's automaton.

type Node =
  | { readonly kind: 'class'; readonly ranges: readonly (readonly [number, number])[] }
  | { readonly kind: 'rule'; readonly name: string }
  | { readonly kind: 'sequence'; readonly parts: readonly Node[] }
  | { readonly kind: 'choice'; readonly branches: readonly Node[] }
  | { readonly kind: 'repeat'; readonly part: Node; readonly min: number; readonly max: number }

export type Grammar = ReadonlyMap<string, Node>

// long: a parser, whose parts share the place where it reads
export const readGrammar = (text: string): Grammar => {
  let at = 0
  const fail = (why: string): never => {
    throw new Error(`grammar: ${why} at ${at}: ${JSON.stringify(text.slice(at, at + 40))}`)
  }
  /** `lines`: line feeds are blanks too. */
  const skip = (lines: boolean) => {
    for (;;) {
      const letter = text[at]
      if (letter === '#') while (at < text.length && text[at] !== '\n') at++
      else if (letter === ' ' || letter === '\t' || letter === '\r' || (lines && letter === '\n'))
        at++
      else return
    }
  }
  const name = (): string => {
    const [found] =
      text.slice(at, at + 100).match(/^[A-Za-z_][A-Za-z0-9_-]*/) ?? fail('a name is missing')
    at += found?.length ?? 0
    return found ?? ''
  }
  const point = (): number => {
    const code = text.codePointAt(at) ?? fail('too short')
    at += String.fromCodePoint(code).length
    if (code !== 0x5c) return code
    const letter = text[at++] ?? ''
    const simple: Record<string, number> = {
      n: 10,
      r: 13,
      t: 9,
      '\\': 92,
      '"': 34,
      ']': 93,
      '-': 45,
      '^': 94,
    }
    if (simple[letter] !== undefined) return simple[letter]
    const digits = { x: 2, u: 4, U: 8 }[letter] ?? fail(`no escape \\${letter}`)
    const value = Number.parseInt(text.slice(at, at + digits), 16)
    at += digits
    return value
  }
  const primary = (): Node | null => {
    const letter = text[at]
    if (letter === '"') {
      at++
      const parts: Node[] = []
      while (text[at] !== '"') {
        const code = point()
        parts.push({ kind: 'class', ranges: [[code, code]] })
      }
      at++
      return { kind: 'sequence', parts }
    }
    if (letter === '[') {
      at++
      const isNegative = text[at] === '^'
      if (isNegative) at++
      const ranges: [number, number][] = []
      while (text[at] !== ']') {
        const first = point()
        if (text[at] === '-' && text[at + 1] !== ']') {
          at++
          ranges.push([first, point()])
        } else ranges.push([first, first])
      }
      at++
      if (!isNegative) return { kind: 'class', ranges }
      const out: [number, number][] = []
      let next = 0
      for (const [first, last] of ranges.sort((a, b) => a[0] - b[0])) {
        if (first > next) out.push([next, first - 1])
        next = Math.max(next, last + 1)
      }
      return { kind: 'class', ranges: [...out, [next, 0x10ffff]] }
    }
    if (letter === '.') {
      at++
      return { kind: 'class', ranges: [[0, 0x10ffff]] }
    }
    if (letter === '(') {
      at++
      const inner = choice(true)
      if (text[at] !== ')') fail("')' is missing")
      at++
      return inner
    }
    if (letter !== undefined && /[A-Za-z_]/.test(letter)) {
      const from = at
      const found = name()
      skip(false)
      if (text.startsWith('::=', at)) {
        at = from
        return null
      }
      return { kind: 'rule', name: found }
    }
    return null
  }
  const counts = (): readonly [number, number] | null => {
    const letter = text[at] ?? ''
    const simple = { '*': [0, Infinity], '+': [1, Infinity], '?': [0, 1] }[letter] as [
      number,
      number,
    ]
    if (simple) {
      at++
      return simple
    }
    const found = text.slice(at, at + 30).match(/^\{(\d+)(,(\d*))?\}/)
    if (!found) return null
    at += found[0].length
    const min = Number(found[1])
    return [min, found[2] === undefined ? min : found[3] === '' ? Infinity : Number(found[3])]
  }
  const sequence = (lines: boolean): Node => {
    const parts: Node[] = []
    for (;;) {
      skip(lines)
      let part = primary()
      if (part === null) break
      for (let count = counts(); count !== null; count = counts())
        part = { kind: 'repeat', part, min: count[0], max: count[1] }
      parts.push(part)
    }
    if (parts.length === 0) fail('an alternative is missing')
    return parts.length === 1 && parts[0] ? parts[0] : { kind: 'sequence', parts }
  }
  const choice = (lines: boolean): Node => {
    const branches = [sequence(lines)]
    for (skip(lines); text[at] === '|'; skip(lines)) {
      at++
      branches.push(sequence(lines))
    }
    return branches.length === 1 && branches[0] ? branches[0] : { kind: 'choice', branches }
  }
  const rules = new Map<string, Node>()
  for (skip(true); at < text.length; skip(true)) {
    const head = name()
    skip(false)
    if (!text.startsWith('::=', at)) fail("'::=' is missing")
    at += 3
    if (rules.has(head)) fail(`the rule ${head} is there twice`)
    rules.set(head, choice(false))
    skip(false)
    if (at < text.length && text[at] !== '\n') fail('a rule does not end')
  }
  const check = (node: Node): void => {
    if (node.kind === 'rule' && !rules.has(node.name))
      throw new Error(`grammar: no rule ${node.name}`)
    if (node.kind === 'sequence') node.parts.forEach(check)
    if (node.kind === 'choice') node.branches.forEach(check)
    if (node.kind === 'repeat') check(node.part)
  }
  for (const body of rules.values()) check(body)
  if (!rules.has('root')) throw new Error('grammar: no root')
  return rules
}

/** Whether the whole text is the grammar's; it may not be left recursive. */
export const recognises = (grammar: Grammar, text: string): boolean => {
  const points = Array.from(text, (one) => one.codePointAt(0) ?? 0)
  const memo = new Map<Node, Map<number, ReadonlySet<number>>>()
  const ends = (node: Node, from: number): ReadonlySet<number> => {
    let mine = memo.get(node)
    if (mine === undefined) {
      mine = new Map()
      memo.set(node, mine)
    }
    const known = mine.get(from)
    if (known !== undefined) return known
    const found = find(node, from)
    mine.set(from, found)
    return found
  }
  const find = (node: Node, from: number): ReadonlySet<number> => {
    switch (node.kind) {
      case 'class': {
        const point = points[from]
        const isIn = point !== undefined && node.ranges.some(([a, b]) => a <= point && point <= b)
        return new Set(isIn ? [from + 1] : [])
      }
      case 'rule':
        return ends(grammar.get(node.name) as Node, from)
      case 'sequence': {
        let at: ReadonlySet<number> = new Set([from])
        for (const part of node.parts) at = new Set([...at].flatMap((one) => [...ends(part, one)]))
        return at
      }
      case 'choice':
        return new Set(node.branches.flatMap((branch) => [...ends(branch, from)]))
      case 'repeat': {
        const all = new Set<number>()
        let at: ReadonlySet<number> = new Set([from])
        for (let i = 0; i <= node.max && at.size > 0; i++) {
          if (i >= node.min) {
            const fresh = [...at].filter((one) => !all.has(one))
            if (fresh.length === 0 && i > node.min) break
            for (const one of fresh) all.add(one)
            at = new Set(fresh)
          }
          if (i === node.max) break
          at = new Set([...at].flatMap((one) => [...ends(node.part, one)]))
        }
        return all
      }
    }
  }
  return ends(grammar.get('root') as Node, 0).has(points.length)
}

/** A random text of the grammar; `random` gives numbers from 0 to 1. Long ones are brought to an end by
 * the shortest way. */
export const randomText = (grammar: Grammar, random: () => number, budget = 400): string => {
  const costs = new Map<string, number>()
  const cost = (node: Node): number => {
    switch (node.kind) {
      case 'class':
        return 1
      case 'rule':
        return costs.get(node.name) ?? Infinity
      case 'sequence':
        return node.parts.reduce((sum, part) => sum + cost(part), 0)
      case 'choice':
        return Math.min(...node.branches.map(cost)) + 1
      case 'repeat':
        return node.min === 0 ? 0 : node.min * cost(node.part)
    }
  }
  for (let isNew = true; isNew; ) {
    isNew = false
    for (const [name, body] of grammar) {
      const found = cost(body) + 1
      if (found < (costs.get(name) ?? Infinity)) {
        costs.set(name, found)
        isNew = true
      }
    }
  }
  let left = budget
  let out = ''
  const write = (node: Node): void => {
    switch (node.kind) {
      case 'class': {
        left--
        const range = node.ranges[Math.floor(random() * node.ranges.length)] ?? [0, 0]
        // Mostly what people write.
        const last = random() < 0.9 ? Math.max(range[0], Math.min(range[1], 0x7e)) : range[1]
        let point = range[0] + Math.floor(random() * (last - range[0] + 1))
        if (point >= 0xd800 && point <= 0xdfff) point = range[0]
        out += String.fromCodePoint(point)
        return
      }
      case 'rule':
        write(grammar.get(node.name) as Node)
        return
      case 'sequence':
        for (const part of node.parts) write(part)
        return
      case 'choice': {
        const costsOf = node.branches.map(cost)
        const least = Math.min(...costsOf)
        const open = node.branches.filter((_, i) =>
          left > 0 ? costsOf[i] !== Infinity : costsOf[i] === least,
        )
        write(open[Math.floor(random() * open.length)] as Node)
        return
      }
      case 'repeat': {
        let count = node.min
        if (cost(node.part) === Infinity) return
        while (left > 0 && count < node.max && random() < 0.6) count++
        for (let i = 0; i < count && (i < node.min || left > 0); i++) write(node.part)
      }
    }
  }
  write(grammar.get('root') as Node)
  return out
}
