// Keeps user text from becoming a control token: names such as <|eot_id|> are swapped for marks before
// a template sees the text, and come back as plain text after the prompt was cut at its own names.

import { badRequest } from '../http/errors.js'

const MAX_DEPTH = 64
const MARK = '\uE000' // private use; one in user text is itself swapped, so every MARK left is ours
const END = '\uE001'
const MARKED = /\uE000(\d+)\uE001/g

export type Neutraliser = {
  readonly hide: (text: string, extra?: boolean) => string
  readonly restore: (text: string) => string
  /** Strings anywhere inside a JSON value; keys are left alone. */
  readonly hideDeep: (value: unknown) => unknown
}

const escapeName = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')

/** Alternatives, longest first, so that a name that begins another does not win. */
export const namesPattern = (names: readonly string[]): RegExp =>
  new RegExp(
    [...names]
      .sort((a, b) => b.length - a.length)
      .map(escapeName)
      .join('|') || '(?!)',
    'g',
  )

/** `extra`: names that are hidden only when asked. */
export const createNeutraliser = (
  names: readonly string[],
  extra: readonly string[],
): Neutraliser => {
  const all = [MARK, ...names, ...extra]
  const index = new Map(all.map((name, i) => [name, i]))
  const usual = namesPattern([MARK, ...names])
  const wider = namesPattern(all)
  const mark = (name: string): string => `${MARK}${index.get(name)}${END}`

  const hide = (text: string, withExtra = false): string =>
    text.replace(withExtra ? wider : usual, mark)
  const hideDeep = (value: unknown, depth = 0): unknown => {
    if (typeof value === 'string') return hide(value)
    if (typeof value !== 'object' || value === null) return value
    if (depth > MAX_DEPTH) throw badRequest(`A value is nested more than ${MAX_DEPTH} levels deep.`)
    if (Array.isArray(value)) return value.map((one) => hideDeep(one, depth + 1))
    return Object.fromEntries(
      Object.entries(value).map(([key, one]) => [key, hideDeep(one, depth + 1)]),
    )
  }
  return {
    hide,
    hideDeep,
    restore: (text) =>
      text.includes(MARK) ? text.replace(MARKED, (_, i: string) => all[Number(i)] ?? '') : text,
  }
}

/** Marks a place in a text, for `continue_final_message`. Never made by hide(). */
export const CUT = `${MARK}cut${END}`
