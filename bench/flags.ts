// The flags of a bench: one table gives names, defaults and help. A wrong flag is a UsageError that says
// what would be right.

import { parseArgs } from 'node:util'

/** A mistake of the caller, or of the world outside: shown as one line, without a stack. */
export class UsageError extends Error {}

type Flag<T> = {
  /** What follows the name in the help; null: nothing does, the flag is a switch. */
  readonly hint: string | null
  readonly help: string
  /** As it would be typed; undefined: there is no default. */
  readonly initial: string | undefined
  /** Throws a text that says what would be right. */
  readonly read: (text: string | undefined) => T
}
/** How the hint of a flag ends that takes several. */
const LIST = ',...'
type Flags = Readonly<Record<string, Flag<unknown>>>
type Values<F extends Flags> = { readonly [K in keyof F]: F[K] extends Flag<infer T> ? T : never }

export const text = (hint: string, help: string, initial: string): Flag<string> => ({
  hint,
  help,
  initial,
  read: (given = initial) => given,
})

export const optional = (hint: string, help: string): Flag<string | undefined> => ({
  hint,
  help,
  initial: undefined,
  read: (given) => given,
})

export const toggle = (help: string): Flag<boolean> => ({
  hint: null,
  help,
  initial: undefined,
  read: (given) => given !== undefined,
})

export const list = (
  hint: string,
  help: string,
  initial: string,
  allowed?: readonly string[],
): Flag<readonly string[]> => ({
  hint: `${hint}${LIST}`,
  help,
  initial,
  read: (given = initial) => {
    const items = given.split(',').filter((item) => item !== '')
    const wrong = items.find((item) => allowed && !allowed.includes(item))
    if (wrong !== undefined) throw `'${wrong}' is none of ${allowed?.join(', ')}`
    return items
  },
})

const positive = (given: string, whole: boolean, least: number): number => {
  const value = Number(given)
  if (given.trim() === '' || !(value >= least) || (whole && !Number.isInteger(value)))
    throw `expected a ${whole ? 'whole ' : ''}number of at least ${least}, not '${given}'`
  return value
}

export const count = (help: string, initial: number, least = 1): Flag<number> => ({
  hint: 'N',
  help,
  initial: String(initial),
  read: (given = String(initial)) => positive(given, true, least),
})

/** Several positive numbers; none: the bench decides. */
export const numbers = (hint: string, help: string): Flag<readonly number[]> => ({
  hint: `${hint}${LIST}`,
  help,
  initial: undefined,
  read: (given = '') =>
    given
      .split(',')
      .filter((item) => item !== '')
      .map((item) => positive(item, hint === 'N', 1e-3)),
})

/** Whole numbers from `least` to `most`, both among them. */
export type Range = { readonly least: number; readonly most: number }

/** One number, or two with a dash between. */
export const range = (help: string, initial: string): Flag<Range> => ({
  hint: 'N|N-M',
  help,
  initial,
  read: (given = initial) => {
    const [least = '', most = least, ...more] = given.split('-')
    const found = { least: positive(least, true, 1), most: positive(most, true, 1) }
    if (more.length > 0 || found.least > found.most)
      throw `expected a number, or two such as 50-200 with the lower first, not '${given}'`
    return found
  },
})

/** No default: the bench decides. */
export const maybeNumber = (hint: string, help: string): Flag<number | undefined> => ({
  hint,
  help,
  initial: undefined,
  read: (given) => (given === undefined ? undefined : positive(given, hint === 'N', 1e-3)),
})

const helpOf = (name: string, about: string, flags: Flags): string => {
  const lines = Object.entries(flags).map(([flag, { hint, help, initial }]) => {
    const left = `  --${flag}${hint === null ? '' : ` ${hint}`}`.padEnd(26)
    return `${left} ${help}${initial === undefined || initial === '' ? '' : `; default ${initial}`}`
  })
  return [`npm run bench -- ${name} [flags]`, `  ${about}`, ...lines].join('\n')
}

/** A list may be written with blanks: `--goodput ttft:500 tpot:50` is `--goodput ttft:500,tpot:50`. */
const joinLists = (args: readonly string[], flags: Flags): readonly string[] => {
  const lists = Object.entries(flags).filter(([, { hint }]) => hint?.endsWith(LIST) === true)
  const names = new Set(lists.map(([flag]) => `--${flag}`))
  const joined: string[] = []
  let open = false
  for (const arg of args) {
    const value = !arg.startsWith('--')
    if (open && value) joined.push(`${joined.pop()},${arg}`)
    else joined.push(arg)
    open = value ? open || names.has(joined.at(-2) ?? '') : false
  }
  return joined
}

/** Files that follow the name of a bench: those, and the arguments after them. */
export const splitFiles = (args: readonly string[]) => {
  const flag = args.findIndex((arg) => arg.startsWith('-'))
  const end = flag === -1 ? args.length : flag
  return { files: args.slice(0, end), rest: args.slice(end) }
}

/** The values; undefined where the help was asked for and printed. */
export const readFlags = <F extends Flags>(
  name: string,
  about: string,
  flags: F,
  args: readonly string[],
): Values<F> | undefined => {
  const types = Object.entries(flags).map(([flag, { hint }]) => {
    const type: 'boolean' | 'string' = hint === null ? 'boolean' : 'string'
    return [flag, { type }] as const
  })
  const options = { ...Object.fromEntries(types), help: { type: 'boolean' as const } }
  const given = ((): Readonly<Record<string, string | boolean | undefined>> => {
    try {
      return parseArgs({ args: [...joinLists(args, flags)], options }).values
    } catch (error) {
      const [first] = (error instanceof Error ? error.message : String(error)).split('. ')
      throw new UsageError(`${first}; --help lists the flags`)
    }
  })()
  if (given.help === true) {
    console.log(helpOf(name, about, flags))
    return undefined
  }
  const values = Object.entries(flags).map(([flag, { read }]) => {
    const value = given[flag]
    try {
      return [flag, read(value === undefined ? undefined : String(value))]
    } catch (why) {
      if (typeof why !== 'string') throw why
      throw new UsageError(`--${flag}: ${why}`)
    }
  })
  return Object.fromEntries(values)
}
