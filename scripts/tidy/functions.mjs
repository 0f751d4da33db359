// Finds the functions of a source file, how long they are and how many parameters they take: a scan of
// brackets over text whose comments and strings are blanked, which is enough for sources that clang-format
// and biome have laid out.

const BRACKETS = { ')': '(', ']': '[', '}': '{' }
const isWord = (letter) => letter !== undefined && /[\w$]/.test(letter)

/** Where a string that begins at `from` ends, past its closing quote. */
const endOfString = (text, from, quote) => {
  let i = from + 1
  while (i < text.length && text[i] !== quote) i += text[i] === '\\' ? 2 : 1
  return i + 1
}

const endOfTemplate = (text, from) => {
  let i = from + 1
  for (let depth = 0; i < text.length && (depth > 0 || text[i] !== '`'); i++) {
    if (text[i] === '\\') i++
    else if (text.startsWith('${', i) || (depth > 0 && text[i] === '{')) depth++
    else if (depth > 0 && text[i] === '}') depth--
    if (text.startsWith('${', i)) i++
  }
  return i + 1
}

const endOfRegex = (text, from) => {
  let i = from + 1
  for (let inClass = false; text[i] !== '/' || inClass; i++) {
    if (text[i] === undefined || text[i] === '\n') return i
    if (text[i] === '\\') i++
    else if (text[i] === '[') inClass = true
    else if (text[i] === ']') inClass = false
  }
  return i + 1
}

/** A slash after these begins a regular expression, not a division. */
const beforeRegex = (text, at) => {
  const before = text.slice(0, at).trimEnd()
  return before === '' || /(?:[(,=:[!&|?{};>]|\breturn|\btypeof)$/.test(before.slice(-10))
}

/** The end of what is no code at `i`, or `i`. */
const endOfNonCode = (text, i, isCxx) => {
  if (text.startsWith('//', i)) return Math.max(i, text.indexOf('\n', i)) || text.length
  if (text.startsWith('/*', i)) return text.indexOf('*/', i) + 2
  const raw = isCxx && /^R"([^(]*)\(/.exec(text.slice(i, i + 20))
  if (raw) return text.indexOf(`)${raw[1]}"`, i) + raw[1].length + 2
  if (text[i] === '"') return endOfString(text, i, '"')
  // In C++ a quote inside a number is a separator.
  if (text[i] === "'" && !(isCxx && isWord(text[i - 1]))) return endOfString(text, i, "'")
  if (!isCxx && text[i] === '`') return endOfTemplate(text, i)
  if (!isCxx && text[i] === '/' && beforeRegex(text, i)) return endOfRegex(text, i)
  return i
}

/** The same text with comments and the insides of strings as spaces; lines stay where they are. */
export const blank = (text, isCxx) => {
  let out = ''
  for (let i = 0; i < text.length; ) {
    const end = endOfNonCode(text, i, isCxx)
    if (end > i) out += text.slice(i, end).replace(/[^\n]/g, ' ')
    else out += text[i]
    i = Math.max(end, i + 1)
  }
  return out
}

/** Pairs of brackets: opening -> closing and closing -> opening. */
const pairsOf = (code) => {
  const pairs = new Map()
  const open = []
  for (let i = 0; i < code.length; i++) {
    if ('([{'.includes(code[i])) open.push(i)
    else if (')]}'.includes(code[i])) {
      while (open.length > 0 && code[open.at(-1)] !== BRACKETS[code[i]]) open.pop()
      const start = open.pop()
      if (start === undefined) continue
      pairs.set(start, i)
      pairs.set(i, start)
    }
  }
  return pairs
}

/** Parameters between two brackets. */
const countParameters = (code, open, close) => {
  const list = code.slice(open + 1, close).replace(/=>/g, '  ')
  if (list.trim() === '' || list.trim() === 'void') return 0
  let depth = 0
  let count = 1
  for (const [i, letter] of [...list].entries()) {
    if ('([{<'.includes(letter)) depth++
    else if (')]}>'.includes(letter)) depth--
    else if (letter === ',' && depth === 0 && list.slice(i + 1).trim() !== '') count++
  }
  return count
}

const lastNonSpace = (code, before) => {
  let i = before - 1
  while (i >= 0 && /\s/.test(code[i])) i--
  return i
}

/** Where the statement or argument begins that holds `at`: balanced brackets before it are skipped. */
const startOfHead = (code, pairs, at) => {
  for (let i = at - 1; i >= 0; i--) {
    if (code[i] === ';' || '([{'.includes(code[i])) return i + 1
    if (!')]}'.includes(code[i])) continue
    const open = pairs.get(i)
    if (open === undefined) return i + 1
    // A block ends here, unless it is the value of a member or a default: `a_{x},` or `= {}`.
    const isValue = isWord(code[open - 1]) || /[=(,:?]\s*$/.test(code.slice(0, open).slice(-3))
    if (code[i] === '}' && !isValue) return i + 1
    i = open
  }
  return 0
}

const CONTROL =
  /^(?:else\s+)?(?:if|for|while|switch|catch|else|do|try|namespace|struct|class|union|enum|extern|return|case)\b/
const NO_NAME =
  /^(?:__launch_bounds__|__attribute__|alignas|decltype|noexcept|requires|__align__|sizeof|volatile)$/

/** A C++ function body at `{`: its name, its first character and its parameters; or undefined. */
const cxxFunction = (code, pairs, brace) => {
  if (!/\s/.test(code[brace - 1] ?? '')) return undefined // a value: `a_{1}`
  const start = startOfHead(code, pairs, brace)
  const first = start + code.slice(start, brace).search(/\S|$/)
  const head = code.slice(first, brace)
  const lambda = /\](?:\s*\([\s\S]*\))?\s*(?:mutable|noexcept|\s|->[^{;]*)*$/.exec(head)
  if (lambda && /[[,=&\w\s*)]$/.test(head.slice(0, lambda.index + 1).slice(-2, -1) || '[')) {
    const close = first + lambda.index
    const capture = pairs.get(close)
    const open = code.indexOf('(', close)
    const before = capture === undefined ? 'x' : (code[lastNonSpace(code, capture)] ?? '')
    if (capture !== undefined && !isWord(before) && before !== ']') {
      const name = /(\w+)\s*=\s*$/.exec(code.slice(first, capture))?.[1] ?? 'lambda'
      const count = open > 0 && open < brace ? countParameters(code, open, pairs.get(open)) : 0
      return { name, first: capture, count }
    }
  }
  if (CONTROL.test(head) || head.trim() === '') return undefined
  for (let i = first; i < brace; i++) {
    if (code[i] === '=' && !code.slice(first, i).endsWith('operator')) return undefined
    if (code[i] === '<' && /template\s*$/.test(code.slice(first, i))) {
      for (let depth = 1; depth > 0 && i < brace; ) {
        i++
        depth += code[i] === '<' ? 1 : code[i] === '>' ? -1 : 0
      }
      continue
    }
    if (code[i] !== '(') continue
    const name = /([\w:~]+|operator[^\w\s]+)\s*$/.exec(code.slice(first, i))?.[1]
    const close = pairs.get(i)
    if (name === undefined || close === undefined) return undefined
    if (!NO_NAME.test(name)) return { name, first, count: countParameters(code, i, close) }
    i = close
  }
  return undefined
}

/** Where the parameters of the TypeScript function at `{` end: the closing bracket, or undefined. */
const endOfParameters = (code, pairs, end) => {
  if (code[end] === ')') {
    const open = pairs.get(end)
    const before = open === undefined ? -1 : lastNonSpace(code, open)
    const isType = code[before] === ':' && code[lastNonSpace(code, before)] === ')'
    return isType ? lastNonSpace(code, before) : end
  }
  // A return type stands between.
  for (let i = end; i >= 0; i--) {
    if (code[i] === ';' || (code[i] === '=' && code[i + 1] !== '>')) return undefined
    if (')]}'.includes(code[i])) i = pairs.get(i) ?? -1
    else if ('([{'.includes(code[i])) return undefined
    else if (code[i] === ':' && code[lastNonSpace(code, i)] === ')') return lastNonSpace(code, i)
  }
  return undefined
}

const tsFunction = (code, pairs, brace) => {
  const end = lastNonSpace(code, brace)
  const isArrow = code.slice(end - 1, end + 1) === '=>'
  const close = endOfParameters(code, pairs, isArrow ? lastNonSpace(code, end - 1) : end)
  const open = close === undefined ? undefined : pairs.get(close)
  if (open === undefined) return undefined
  const before = code.slice(Math.max(0, open - 300), open)
  const named =
    /function\s*\*?\s*([\w$]*)\s*(?:<[^()]*>)?\s*$/.exec(before) ??
    (isArrow
      ? /(?:const|let)\s+([\w$]+)(?:\s*:[^=;]*)?\s*=\s*(?:async\s*)?(?:<[^()]*>)?\s*$/.exec(before)
      : /(?:^|\n)\s*(?:async\s+)?([\w$]+)\s*$/.exec(before)) ??
    (isArrow ? /([\w$]+)\s*:\s*(?:async\s*)?$/.exec(before) : null)
  if (!isArrow && (!named || /^(?:if|for|while|switch|catch|else)$/.test(named[1])))
    return undefined
  const first = named ? open - named[0].trimStart().length : open
  return { name: named?.[1] || 'anonymous', first, count: countParameters(code, open, close) }
}

/** Every function: name, first and last line (from 1), number of parameters. */
export const functionsOf = (text, isCxx) => {
  const code = blank(text, isCxx).replace(/^[ \t]*#.*(?:\\\n.*)*$/gm, (line) =>
    isCxx ? line.replace(/[^\n]/g, ' ') : line,
  )
  const pairs = pairsOf(code)
  const lineOf = (index) => code.slice(0, index).split('\n').length
  const found = []
  for (let brace = code.indexOf('{'); brace >= 0; brace = code.indexOf('{', brace + 1)) {
    const close = pairs.get(brace)
    if (close === undefined) continue
    const one = isCxx ? cxxFunction(code, pairs, brace) : tsFunction(code, pairs, brace)
    if (!one) continue
    const isKernel = isCxx && /__global__|__device__/.test(code.slice(one.first, brace))
    const { name, count } = one
    found.push({ name, count, isKernel, first: lineOf(one.first), last: lineOf(close) })
  }
  return found
}
