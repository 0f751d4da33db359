// All settings of `serve`, from one schema: flags, NEMOTRON_* variables, keys of the config file, help
// text and docs. Flags win over the environment, that over the file, that over the defaults.

import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { RewardSettings } from './readout.js'

/** How a value is written on the command line or in the environment. */
type Kind = 'text' | 'list' | 'integer' | 'number' | 'bytes' | 'switch'

type Option = {
  readonly kind: Kind
  readonly schema: z.ZodType
  readonly help: string
  /** Shown in help where the default is not a value. */
  readonly shownDefault?: string
}

const option = <T extends z.ZodType>(
  kind: Kind,
  schema: T,
  help: string,
  shownDefault?: string,
) => ({ kind, schema, help, ...(shownDefault !== undefined && { shownDefault }) })

const count = (min: number, max = 0x7fffffff) => z.int().min(min).max(max)
const share = z.number().gt(0).max(1)
const seconds = z.number().min(0).max(86_400)

/** What may differ between the models of one server. */
const modelOptions = {
  device: option('text', z.enum(['auto', 'cpu', 'cuda']).default('auto'), 'Where to run.'),
  dtype: option(
    'text',
    z.enum(['auto', 'bf16', 'fp8']).default('auto'),
    'Weights: as stored (auto), or quantised to FP8 while loading.',
  ),
  kv_cache_dtype: option(
    'text',
    z.enum(['auto', 'bf16', 'fp8']).default('auto'),
    'Keys and values in the cache.',
  ),
  kv_cache_memory: option(
    'bytes',
    z
      .int()
      .min(1 << 20)
      .optional(),
    'Bytes for the KV cache, such as 4GiB.',
    'what is left after weights and a reserve',
  ),
  gpu_memory_utilization: option(
    'number',
    share.default(0.9),
    "Share of the device's free memory that may be planned.",
  ),
  tensor_parallel_size: option(
    'integer',
    z
      .int()
      .refine((value) => value === 1, 'only 1 is available for now')
      .default(1),
    'Devices that one model is cut over.',
  ),
  max_model_len: option(
    'integer',
    count(1).optional(),
    'Longest prompt plus answer, in tokens.',
    "the checkpoint's",
  ),
  max_num_seqs: option('integer', count(1, 4096).default(64), 'Most sequences that run at once.'),
  max_num_batched_tokens: option(
    'integer',
    count(1).optional(),
    'Token budget of one step.',
    "the engine's",
  ),
  block_size: option(
    'integer',
    z
      .union([z.literal(16), z.literal(32), z.literal(64), z.literal(128)], {
        error: 'can be 16, 32, 64 or 128',
      })
      .default(64),
    'Tokens in a KV block: 16, 32, 64 or 128.',
  ),
  max_waiting: option(
    'integer',
    count(0, 1 << 20).default(256),
    'Requests that may wait; beyond that, 429.',
  ),
  threads: option(
    'integer',
    count(1, 1024).optional(),
    'CPU threads of an engine.',
    'one per hardware thread',
  ),
} satisfies Record<string, Option>

const serverOptions = {
  model: option(
    'list',
    z.array(z.string().min(1)).default([]),
    'Folder or Hugging Face id. Repeat it to serve several.',
    'the embedded models',
  ),
  served_model_name: option(
    'list',
    z.array(z.string().min(1)).default([]),
    'Name in the API, one for each --model in turn; with one model, all are its names.',
    'the id, or the name of the folder',
  ),
  host: option('text', z.string().min(1).default('127.0.0.1'), 'Address to listen on.'),
  port: option('integer', count(0, 65_535).default(8000), 'Port to listen on; 0: any free one.'),
  api_key: option(
    'list',
    z.array(z.string().min(1)).default([]),
    'Key that clients must send. Repeat it to allow several.',
    'none is needed',
  ),
  ...modelOptions,
  default_thinking: option(
    'switch',
    z.boolean().default(false),
    'Thinking of models that reason, when a request does not say.',
  ),
  drain_timeout: option(
    'number',
    seconds.default(30),
    'Seconds that running requests may take after SIGTERM.',
  ),
  log_level: option(
    'text',
    z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
    'Least level that is logged.',
  ),
} satisfies Record<string, Option>

const fileOptions = {
  tls_cert: option('text', z.string().optional(), 'File with the TLS certificate (PEM).'),
  tls_key: option('text', z.string().optional(), 'File with its private key (PEM).'),
  chat_template: option(
    'text',
    z.string().optional(),
    "File with a Jinja chat template, instead of the checkpoint's.",
  ),
  allowed_origins: option(
    'list',
    z.array(z.string()).default(['*']),
    'Origins that browsers may call from.',
  ),
  request_timeout: option('number', seconds.default(0), 'Longest time for a request; 0: no limit.'),
  write_idle_timeout: option(
    'number',
    seconds.min(1).default(30),
    'Seconds after which a stream that nobody reads is cut off.',
  ),
  ping_interval: option(
    'number',
    seconds.min(1).default(15),
    'Seconds of silence after which a stream gets `: ping`.',
  ),
  stall_timeout: option(
    'number',
    seconds.min(1).default(60),
    'Seconds without a step, while there is work, after which /health is 503.',
  ),
  body_limit: option('bytes', count(1024).default(16 << 20), 'Largest request body.'),
  prefix_cache: option('switch', z.boolean().default(true), 'Share blocks between prompts.'),
  strict_params: option(
    'switch',
    z.boolean().default(false),
    'Unknown request fields are a 400 instead of being ignored.',
  ),
} satisfies Record<string, Option>

type Shape<T extends Record<string, { readonly schema: z.ZodType }>> = {
  [K in keyof T]: T[K]['schema']
}
const shapeOf = <T extends Record<string, { readonly schema: z.ZodType }>>(options: T): Shape<T> =>
  Object.fromEntries(Object.entries(options).map(([key, one]) => [key, one.schema])) as Shape<T>

/** Without defaults: what an entry does not say, the server's own setting says. */
const optionalShape = Object.fromEntries(
  Object.entries(shapeOf(modelOptions)).map(([key, schema]) => [
    key,
    (schema instanceof z.ZodDefault ? schema.unwrap() : schema).optional(),
  ]),
) as unknown as {
  [K in keyof typeof modelOptions]: z.ZodOptional<(typeof modelOptions)[K]['schema']>
}

const ModelEntry = z.strictObject({
  ...optionalShape,
  model: z.string().min(1),
  served_model_name: z.union([z.string().min(1), z.array(z.string().min(1))]).optional(),
  chat_template: z.string().optional(),
  /** How a reward is read, where neither the checkpoint nor models/registry.json says it. */
  reward: z.strictObject({ ...RewardSettings.shape, row: z.int().min(0).optional() }).optional(),
})
export type ModelEntry = z.output<typeof ModelEntry>

const Settings = z.strictObject({
  ...shapeOf(serverOptions),
  ...shapeOf(fileOptions),
  models: z.array(ModelEntry).default([]),
})
export type Settings = z.output<typeof Settings>

const OPTIONS: Readonly<Record<string, Option>> = { ...serverOptions, ...fileOptions }

export type Flag = {
  readonly key: string
  readonly flag: string
  readonly env: string
  readonly repeat: boolean
  readonly help: string
}

const ARGUMENT: Record<Kind, string> = {
  text: '<text>',
  list: '<text>',
  integer: '<n>',
  number: '<x>',
  bytes: '<bytes>',
  switch: '<on|off>',
}

/** The values an enum allows, from the schema itself. */
const choices = (schema: z.ZodType): readonly string[] | undefined => {
  const json = z.toJSONSchema(schema, { unrepresentable: 'any', io: 'input' })
  return Array.isArray(json.enum) ? json.enum.map(String) : undefined
}

const defaultText = ({ schema, shownDefault, kind }: Option): string | undefined => {
  if (shownDefault !== undefined) return shownDefault
  const value = schema.safeParse(undefined).data
  if (value === undefined) return undefined
  return kind === 'switch' ? (value ? 'on' : 'off') : String(value)
}

const flagOf = ([key, one]: readonly [string, Option]): Flag => {
  const allowed = choices(one.schema)
  const argument = allowed ? `<${allowed.join('|')}>` : ARGUMENT[one.kind]
  const standard = defaultText(one)
  return {
    key,
    flag: `--${key.replaceAll('_', '-')} ${argument}`,
    env: `NEMOTRON_${key.toUpperCase()}`,
    repeat: one.kind === 'list',
    help: one.help + (standard === undefined ? '' : ` (default: ${standard})`),
  }
}

/** What the command line offers; --config comes beside it. */
export const FLAGS: readonly Flag[] = Object.entries(serverOptions).map(flagOf)
/** What the config file alone has. */
export const FILE_KEYS: readonly Flag[] = Object.entries(fileOptions).map(flagOf)

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

const normaliseKeys = (values: Values): Values =>
  Object.fromEntries(
    Object.entries(values).map(([key, value]) => [
      snakeCase(key),
      snakeCase(key) === 'models' && Array.isArray(value)
        ? value.map((entry) =>
            typeof entry === 'object' && entry !== null ? normaliseKeys(entry as Values) : entry,
          )
        : value,
    ]),
  )

const readFile = (path: string): Values => {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError(`--config ${path}: ${error instanceof Error ? error.message : error}`)
  }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw new ConfigError(
      `--config ${path}: not JSON: ${error instanceof Error ? error.message : error}`,
    )
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new ConfigError(`--config ${path}: expected a JSON object`)
  const values = normaliseKeys(json as Values)
  for (const [key, value] of Object.entries(values)) {
    const known = OPTIONS[key]
    if (known === undefined) continue
    if (known.kind === 'list' && typeof value === 'string') values[key] = [value]
    else if (known.kind !== 'text' && typeof value === 'string')
      values[key] = fromText(known.kind, value)
  }
  return values
}

const readEnv = (env: NodeJS.ProcessEnv): Values => {
  const values: Values = {}
  for (const { key, env: name } of FLAGS) {
    const text = env[name]
    const kind = OPTIONS[key]?.kind
    if (text !== undefined && text !== '' && kind !== undefined) values[key] = fromText(kind, text)
  }
  return values
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
        const meant = closest(key, known)
        return `${sources.file ?? 'settings'}: unknown key '${key}'${meant ? ` (did you mean '${meant}'?)` : ''}`
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
  switch (issue.code) {
    case 'invalid_value':
      return `${name} can be ${issue.values.join(', ')}; ${found}`
    case 'too_small':
      return `${name} must be at least ${issue.minimum}; ${found}`
    case 'too_big':
      return `${name} must be at most ${issue.maximum}; ${found}`
    case 'invalid_type':
      return `${name} must be ${{ text: 'text', list: 'text', integer: 'a whole number', number: 'a number', bytes: 'a number of bytes, such as 4GiB', switch: 'on or off' }[OPTIONS[key]?.kind ?? 'text']}; ${found}`
    default:
      return `${name}: ${issue.message}; ${found}`
  }
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
    throw new ConfigError('tls_cert and tls_key go together: one of them is missing')
  const names = settings.served_model_name.length
  const models = settings.model.length
  if (models > 1 && names > 0 && names !== models)
    throw new ConfigError(
      `--served-model-name: ${names} names for ${models} models; give one for each, or none`,
    )
  return settings
}

/** Settings of one model: its own entry first, then the server's. */
export type ModelSettings = Pick<
  Settings,
  keyof typeof modelOptions | 'chat_template' | 'prefix_cache'
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
