// What a caller of the typed API gave, before anything is done with it: every field is known and of its
// type. Types tell that to callers who compile; the others get an EngineFailure that names the field.

import { EngineFailure } from '../failure.js'
import type { EngineOptions, GenerateRequest, Sampling, ScoreRequest } from './types.js'

type Check = { readonly expected: string; readonly is: (value: unknown) => boolean }

const isNumber = (value: unknown) => typeof value === 'number'
const isList = (value: unknown): value is ArrayLike<unknown> =>
  Array.isArray(value) || ArrayBuffer.isView(value)

const text: Check = { expected: 'a string', is: (value) => typeof value === 'string' }
const flag: Check = { expected: 'a boolean', is: (value) => typeof value === 'boolean' }
const number: Check = { expected: 'a number', is: Number.isFinite }
const callback: Check = { expected: 'a function', is: (value) => typeof value === 'function' }
const object: Check = {
  expected: 'an object',
  is: (value) => typeof value === 'object' && value !== null && !isList(value),
}
const integer = (min: number, max = Number.MAX_SAFE_INTEGER): Check => ({
  expected:
    max < Number.MAX_SAFE_INTEGER
      ? `an integer from ${min} to ${max}`
      : `an integer of at least ${min}`,
  is: (value) =>
    Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max,
})
const ids: Check = {
  expected: 'a list of token ids',
  // A typed array has nothing else; which numbers are ids is checked where they are copied.
  is: (value) => ArrayBuffer.isView(value) || (Array.isArray(value) && value.every(isNumber)),
}
const someIds: Check = {
  expected: 'a list of at least one token id',
  is: (value) => ids.is(value) && (value as ArrayLike<number>).length > 0,
}
const idLists: Check = {
  expected: 'a list of lists of token ids',
  is: (value) => Array.isArray(value) && value.every(ids.is),
}
const texts: Check = {
  expected: 'a list of strings',
  is: (value) => Array.isArray(value) && value.every(text.is),
}
const bias: Check = {
  expected: 'a Map from token ids to numbers',
  is: (value) =>
    value instanceof Map && [...value].every(([id, one]) => isNumber(id) && isNumber(one)),
}
const seed: Check = {
  expected: 'an integer of 64 bits',
  is: (value) =>
    typeof value === 'bigint'
      ? value === BigInt.asUintN(64, value) || value === BigInt.asIntN(64, value)
      : Number.isSafeInteger(value),
}

type Checks<T> = Readonly<Record<keyof T, Check>>

/** As the settings of the server. */
const MAX_THREADS = 1024

const OPTIONS: Checks<EngineOptions> = {
  model: text,
  device: text,
  deviceIndex: integer(0),
  dtype: text,
  kvCacheDtype: text,
  kvCacheMemory: integer(1),
  memoryUtilization: number,
  maxModelLen: integer(1),
  tensorParallelSize: integer(1),
  maxNumSeqs: integer(1),
  maxNumBatchedTokens: integer(1),
  blockSize: integer(1),
  maxWaiting: integer(0),
  maxWaitingTokens: integer(0),
  threads: integer(1, MAX_THREADS),
  prefixCache: flag,
  draftModel: text,
  draftTokens: integer(1),
  draftRows: integer(2),
  rewardRows: ids,
  isa: text,
  exactActivations: flag,
  int8Activations: flag,
  fp8Activations: flag,
  debugChecks: flag,
  onProgress: callback,
  onPlan: callback,
}

const OPTION_NAMES = (Object.keys(OPTIONS) as (keyof EngineOptions)[]).map((option) => ({
  option,
  native: option.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
}))

/** A name that is also a word of English names an option only where it begins a message. */
const NAMED = new RegExp(
  OPTION_NAMES.map(({ option, native }) =>
    native === option && option !== 'dtype'
      ? `^${option}(?=:)`
      : `(?<![\\w/.-])(?:${option}|${native})(?![\\w/-])`,
  ).join('|'),
  'g',
)

/** What an engine says of its options, by the names that whoever reads it gave them by. */
export const withOptionNames = (
  message: string,
  nameOf: (option: keyof EngineOptions) => string,
): string =>
  message.replace(NAMED, (found) => {
    const one = OPTION_NAMES.find(({ option, native }) => found === option || found === native)
    return one === undefined ? found : nameOf(one.option)
  })

const SAMPLING: Checks<Sampling> = {
  maxTokens: number,
  minTokens: number,
  temperature: number,
  topP: number,
  topK: number,
  minP: number,
  repetitionPenalty: number,
  presencePenalty: number,
  frequencyPenalty: number,
  seed,
  ignoreEos: flag,
  logprobs: number,
  logprobIds: ids,
  processedLogprobs: flag,
  promptLogprobs: number,
  stopTokenIds: ids,
  stop: texts,
  includeStop: flag,
  stopScope: text,
  skipSpecialTokens: flag,
  logitBias: bias,
  badWordIds: idLists,
  allowedTokenIds: someIds,
  thinkingBudget: number,
  thinkingOpen: flag,
  mayThink: flag,
  lookupTokens: number,
}

const SCORE: Checks<ScoreRequest> = {
  promptTokenIds: ids,
  priority: number,
  cacheSalt: text,
  admitted: flag,
  since: number,
  background: flag,
}

const GENERATE: Checks<GenerateRequest> = {
  ...SCORE,
  n: number,
  sampling: object,
  grammar: object,
  grammarAfter: texts,
}

const shown = (value: unknown): string => {
  if (typeof value === 'string') return JSON.stringify(value)
  if (typeof value === 'function') return 'a function'
  if (isList(value)) return 'a list'
  return typeof value === 'object' && value !== null ? 'an object' : String(value)
}

const fail = (message: string): never => {
  throw new EngineFailure({ code: 'invalid_argument', message })
}

const require = (check: Check, name: string, value: unknown): void => {
  if (!check.is(value)) fail(`${name} must be ${check.expected}, found ${shown(value)}`)
}

/** `what` is the object's name, `prefix` goes before its fields. An undefined field is absent. */
const checkFields = <T>(what: string, prefix: string, value: unknown, checks: Checks<T>): void => {
  require(object, what, value)
  for (const [key, one] of Object.entries(value as object)) {
    const check = (checks as Readonly<Record<string, Check>>)[key]
    if (check === undefined)
      fail(`${prefix}${key} is no field of ${what}: ${Object.keys(checks).join(', ')}`)
    else if (one !== undefined) require(check, `${prefix}${key}`, one)
  }
}

export const checkOptions = (options: unknown): void => checkFields('options', '', options, OPTIONS)

export const checkRequest = (kind: 'generate' | 'score', request: unknown): void => {
  checkFields('the request', '', request, kind === 'generate' ? GENERATE : SCORE)
  const { promptTokenIds, sampling } = request as Partial<GenerateRequest>
  require(ids, 'promptTokenIds', promptTokenIds)
  if (sampling !== undefined) checkFields('sampling', 'sampling.', sampling, SAMPLING)
}

const pauseMode: Check = {
  expected: "'abort', 'wait' or 'keep'",
  is: (value) => ['abort', 'wait', 'keep'].includes(value as string),
}

export const checkPauseMode = (mode: unknown): void => require(pauseMode, 'mode', mode)

export const checkText = (name: string, value: unknown): void => require(text, name, value)

export const checkCallback = (name: string, value: unknown): void => require(callback, name, value)

const signal: Check = {
  expected: 'an AbortSignal',
  is: (value) => value instanceof AbortSignal,
}

/** What goes beside a request: `{ signal }`. */
export const checkBeside = (options: unknown): void =>
  checkFields<{ signal: AbortSignal }>('options', '', options, { signal })

export const checkReload = (options: unknown): void =>
  checkFields<{ abort: boolean }>('options', '', options, { abort: flag })

/** A call whose fields another part checks. */
export const checkCall = (name: string, call: unknown): void => require(object, name, call)

const PARTS = ['encode', 'encodeParts', 'decode', 'bytes', 'idOf', 'isSpecial'] as const
const tokenizer: Check = {
  expected: 'what loadTokenizer() gives',
  is: (value) =>
    object.is(value) &&
    PARTS.every((part) => typeof (value as Record<string, unknown>)[part] === 'function'),
}

export const checkTokenizer = (value: unknown): void => {
  if (value !== undefined) require(tokenizer, 'tokenizer', value)
}
