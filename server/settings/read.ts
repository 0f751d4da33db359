// Reads the settings of `serve`. Flags win over the environment, that over the config file, that over
// the defaults; what is wrong is named as it was given, with what would be right.

import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { faultText } from '../check.js'
import { fileError, messageOf } from '../failure.js'
import {
  FLAGS,
  type Kind,
  type ModelEntry,
  type modelOptions,
  OPTIONS,
  Settings,
} from './options.js'

export class ConfigError extends Error {}

const UNITS: Record<string, number> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 1024,
  mi: 1024 ** 2,
  gi: 1024 ** 3,
  ti: 1024 ** 4,
}

const parseBytes = (text: string): number | string => {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?$/i.exec(text.trim())
  const unit = UNITS[match?.[2]?.toLowerCase() ?? '']
  return match && unit !== undefined ? Math.round(Number(match[1]) * unit) : text
}

const SWITCH: Record<string, boolean> = { on: true, true: true, off: false, false: false }

/** Text to the value that the schema expects; text that cannot be it stays, for the schema to refuse. */
const fromText = (kind: Kind, text: string): unknown => {
  switch (kind) {
    case 'text':
      return text
    case 'list':
      return text.split(',').map((one) => one.trim())
    case 'integer':
    case 'number':
      return text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : text
    case 'bytes':
      return parseBytes(text)
    case 'switch':
      return SWITCH[text.toLowerCase()] ?? text
  }
}

const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const swap = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, swap))
    }
    row = next
  }
  return row[b.length] ?? 0
}

const closest = (name: string, known: readonly string[]): string | undefined => {
  const [best] = known
    .map((one) => ({ one, far: distance(name, one) }))
    .sort((a, b) => a.far - b.far)
  return best !== undefined && best.far <= 3 ? best.one : undefined
}

type Values = Record<string, unknown>

/** kebab-case and camelCase keys are read as snake_case. */
const snakeCase = (key: string): string =>
  key.replaceAll('-', '_').replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

const isObject = (value: unknown): value is Values =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const normaliseKeys = (values: Values): Values =>
  Object.fromEntries(
    Object.entries(values).map(([key, value]) => [
      snakeCase(key),
      snakeCase(key) === 'models' && Array.isArray(value)
        ? value.map((entry) => (isObject(entry) ? normaliseKeys(entry) : entry))
        : value,
    ]),
  )

/** `'4GiB'` and `'on'` as they are on the command line. */
const withTextsRead = (values: Values): Values =>
  Object.fromEntries(
    Object.entries(values).map(([key, value]) => {
      const kind = OPTIONS[key]?.kind
      const isRead = kind !== undefined && kind !== 'text' && kind !== 'list'
      return [key, isRead && typeof value === 'string' ? fromText(kind, value) : value]
    }),
  )

const readFile = (path: string): Values => {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError(`--config: ${messageOf(fileError(error, path, 'read'))}`)
  }
  let json: unknown
  try {
    json = JSON.parse(text.replace(/^\ufeff/, '')) // a byte order mark, as some editors write it
  } catch (error) {
    throw new ConfigError(`--config ${path}: not JSON: ${messageOf(error)}`)
  }
  if (!isObject(json)) throw new ConfigError(`--config ${path}: expected a JSON object`)
  const values = withTextsRead(normaliseKeys(json))
  for (const [key, value] of Object.entries(values)) {
    if (OPTIONS[key]?.kind === 'list' && typeof value === 'string') values[key] = [value]
    else if (key === 'models' && Array.isArray(value))
      values[key] = value.map((entry) => (isObject(entry) ? withTextsRead(entry) : entry))
  }
  return values
}

/** What Kubernetes and Docker tell a container of a service that is called NAME, in NAME_PORT and others. */
const IS_ADDRESS = /^(?:tcp|udp|sctp):\/\//
const OF_A_SERVICE = /_SERVICE_HOST$|_SERVICE_PORT(?:_|$)|_PORT_\d+_(?:TCP|UDP|SCTP)(?:_|$)/

const readEnv = (env: NodeJS.ProcessEnv): Values => {
  const values: Values = {}
  for (const { key, env: name } of FLAGS) {
    const text = env[name]
    const kind = OPTIONS[key]?.kind
    // An empty key opens the server to everyone: nobody means that.
    if (text === '' && key === 'api_key')
      throw new ConfigError(
        `${name} is set and empty: give a key, or unset it for a server without`,
      )
    // Kubernetes' own, of a Service that is called nemotron.
    if (key === 'port' && text !== undefined && IS_ADDRESS.test(text)) continue
    if (text !== undefined && text !== '' && kind !== undefined) values[key] = fromText(kind, text)
  }
  return values
}

/** Variables that others than the settings read. */
const OTHER_VARIABLES = [
  'NEMOTRON_ADDON',
  'NEMOTRON_CONFIG',
  'NEMOTRON_CUDA',
  'NEMOTRON_CUDA_LIBRARY',
  'NEMOTRON_CUDA_GRAPHS',
  'NEMOTRON_CUDA_PDL',
  'NEMOTRON_CUDA_SYNC',
  'NEMOTRON_CUBLASLT',
  'NEMOTRON_NCCL',
  'NEMOTRON_PROMPT_ATTENTION',
  'NEMOTRON_DECODE_PRODUCTS',
  'NEMOTRON_PROMPT_PRODUCTS',
  'NEMOTRON_TEST_LONG',
]

/** A line for every NEMOTRON_ variable that nobody reads: it is probably misspelt. */
export const unknownVariables = (env: NodeJS.ProcessEnv): readonly string[] => {
  const known = [...FLAGS.map((flag) => flag.env), ...OTHER_VARIABLES]
  const isOfAService = (name: string): boolean =>
    OF_A_SERVICE.test(name) || (name.endsWith('_PORT') && IS_ADDRESS.test(env[name] ?? ''))
  return Object.keys(env)
    .filter((name) => name.startsWith('NEMOTRON_') && !known.includes(name) && !isOfAService(name))
    .map((name) => {
      const meant = closest(name, known)
      return `${name} is set and nothing reads it${meant ? ` (did you mean ${meant}?)` : ''}`
    })
}

export type FlagValues = Readonly<Record<string, string | readonly string[] | undefined>>

const readFlags = (flags: FlagValues): Values => {
  const values: Values = {}
  for (const { key } of FLAGS) {
    const given = flags[key]
    const kind = OPTIONS[key]?.kind
    if (given === undefined || kind === undefined) continue
    values[key] = typeof given === 'string' ? fromText(kind, given) : given
  }
  return values
}

type Sources = { readonly flags: Values; readonly env: Values; readonly file: string | undefined }

/** The setting by the name under which it was given. */
const nameOf = (path: readonly PropertyKey[], sources: Sources): string => {
  const [key = '', ...rest] = path.map(String)
  if (key in sources.flags) return `--${key.replaceAll('_', '-')}`
  if (key in sources.env) return `NEMOTRON_${key.toUpperCase()}`
  return `${sources.file ?? 'settings'}: ${[key, ...rest].join('.')}`
}

const explain = (issue: z.core.$ZodIssue, values: Values, sources: Sources): string => {
  const name = nameOf(issue.path, sources)
  if (issue.code === 'unrecognized_keys') {
    const known = [...Object.keys(OPTIONS), 'models']
    return issue.keys
      .map((key) => {
        const isOption = issue.path.length === 0 || issue.path.length === 2
        const meant = isOption ? closest(key, known) : undefined
        const place = [...issue.path, key].map(String).join('.')
        return `${sources.file ?? 'settings'}: unknown key '${place}'${meant ? ` (did you mean '${meant}'?)` : ''}`
      })
      .join('; ')
  }
  const given = issue.path.reduce<unknown>(
    (value, key) =>
      typeof value === 'object' && value !== null ? (value as Values)[String(key)] : undefined,
    values,
  )
  const found = `found ${JSON.stringify(given)}`
  const key = String(issue.path[0])
  const inWords = () => faultText(new z.ZodError([issue]), values, (path) => nameOf(path, sources))
  switch (issue.code) {
    case 'invalid_value':
      return `${name} can be ${issue.values.join(', ')}; ${found}`
    case 'too_small':
      if (issue.origin === 'string') return `${name} must not be empty`
      return `${name} must be at least ${issue.minimum}; ${found}`
    case 'too_big':
      return `${name} must be at most ${issue.maximum}; ${found}`
    case 'invalid_type':
      if (OPTIONS[key] === undefined) return inWords()
      return `${name} must be ${{ text: 'text', list: 'text', integer: 'a whole number', number: 'a number', bytes: 'a number of bytes, such as 4GiB', switch: 'on or off' }[OPTIONS[key].kind]}; ${found}`
    case 'invalid_union':
    case 'invalid_key':
      return inWords()
    default:
      // A key is told to nobody.
      return `${name}: ${issue.message}${key === 'api_key' ? '' : `; ${found}`}`
  }
}

/** Those that are made from folders are not known yet. */
const checkNames = (settings: Settings): void => {
  const models = modelSettings(settings)
  const names =
    models.length === 0 ? settings.served_model_name : models.flatMap((model) => model.names)
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined)
    throw new ConfigError(`--served-model-name: '${twice}' is given twice: a name is one model's`)
}

/** Throws a ConfigError that says what would be right. */
export const readSettings = (
  flags: FlagValues,
  env: NodeJS.ProcessEnv,
  configFile: string | undefined = env.NEMOTRON_CONFIG,
): Settings => {
  const fromFlags = readFlags(flags)
  const fromEnv = readEnv(env)
  const values = {
    ...(configFile === undefined ? {} : readFile(configFile)),
    ...fromEnv,
    ...fromFlags,
  }
  const sources = { flags: fromFlags, env: fromEnv, file: configFile }
  const result = Settings.safeParse(values)
  if (!result.success) {
    throw new ConfigError(
      result.error.issues.map((issue) => explain(issue, values, sources)).join('\n'),
    )
  }
  const settings = result.data
  if ((settings.tls_cert === undefined) !== (settings.tls_key === undefined))
    throw new ConfigError('--tls-cert and --tls-key go together: one of them is missing')
  const names = settings.served_model_name.length
  const models = settings.model.length
  if (models > 1 && names > 0 && names !== models)
    throw new ConfigError(
      `--served-model-name: ${names} names for ${models} models; give one for each, or none`,
    )
  checkNames(settings)
  return settings
}

/** Settings of one model: its own entry first, then the server's. */
export type ModelSettings = Pick<
  Settings,
  | keyof typeof modelOptions
  | 'chat_template'
  | 'prefix_cache'
  | 'exact_activations'
  | 'int8_activations'
  | 'fp8_activations'
> & {
  readonly reward?: ModelEntry['reward']
  readonly model: string
  readonly names: readonly string[]
}

const merge = (
  settings: Settings,
  entry: Partial<ModelEntry>,
  model: string,
  names: readonly string[],
): ModelSettings => {
  const { served_model_name, ...own } = entry
  const rest = Object.fromEntries(
    Object.entries(own).filter(([, value]) => value !== undefined),
  ) as Partial<ModelSettings>
  const given =
    served_model_name === undefined
      ? names
      : typeof served_model_name === 'string'
        ? [served_model_name]
        : served_model_name
  return { ...settings, ...rest, model, names: given }
}

/** The models to serve, in order; empty: the embedded ones. */
export const modelSettings = (settings: Settings): readonly ModelSettings[] => {
  const { model, models, served_model_name: names } = settings
  if (model.length === 0) {
    return models.map((entry, i) =>
      merge(settings, entry, entry.model, models.length === 1 ? names : names.slice(i, i + 1)),
    )
  }
  return model.map((name, i) => {
    const entry = models.find((one) => one.model === name) ?? {}
    return merge(settings, entry, name, model.length === 1 ? names : names.slice(i, i + 1))
  })
}
