// The settings of `serve`: one schema from which flags, NEMOTRON_* variables, keys of the config file,
// help text and docs are made. Reading them is read.ts's.

import { z } from 'zod'
import { RewardSettings } from './reward.js'

/** How a value is written on the command line or in the environment. */
export type Kind = 'text' | 'list' | 'integer' | 'number' | 'bytes' | 'switch'

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

const hostName = z
  .string()
  .min(1)
  .regex(/^(?:\*|\[[\da-f:.]+\]|[^\s/:@[\]]+)$/i, {
    error: 'expected a name alone, such as api.example.com, or *',
  })
  .toLowerCase()

const origin = z
  .string()
  .min(1)
  .regex(/^(?:\*|loopback|null|[a-z][\w+.-]*:\/\/[^\s/?#@]+)$/i, {
    error: 'expected a scheme and a host, such as https://app.example.com, or loopback, or *',
  })
  .toLowerCase()

/** What may differ between the models of one server. */
export const modelOptions = {
  device: option('text', z.enum(['auto', 'cpu', 'cuda']).default('auto'), 'Where to run.'),
  dtype: option(
    'text',
    z.enum(['auto', 'bf16', 'fp8', 'int8', 'int4']).default('auto'),
    'Weights: as stored (auto), or quantised to FP8, 8 or 4 bits while loading.',
  ),
  kv_cache_dtype: option(
    'text',
    z.enum(['auto', 'bf16', 'fp8']).default('auto'),
    'Keys and values in the cache: auto is F16 on the CPU, BF16 on CUDA.',
  ),
  kv_cache_memory: option(
    'bytes',
    z
      .int()
      .min(1 << 20)
      .optional(),
    'Bytes for the KV cache of each device, such as 4GiB.',
    'what is left after weights and a reserve',
  ),
  gpu_memory_utilization: option(
    'number',
    share.default(0.9),
    "Share of the device's free memory that may be planned.",
  ),
  tensor_parallel_size: option(
    'integer',
    count(1, 8).default(1),
    'Devices that one model is cut over: GPUs, or shares of the threads of the CPU.',
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
    z.literal([16, 32, 64, 128]).default(64),
    'Tokens in a KV block: 16, 32, 64 or 128.',
  ),
  max_waiting: option(
    'integer',
    count(0, 1 << 20).default(256),
    'Requests that may wait; beyond that, 429.',
  ),
  draft_model: option(
    'text',
    z.string().min(1).optional(),
    'Folder or Hugging Face id of a small model with the same token ids: it guesses tokens, answers stay the same.',
    'none',
  ),
  draft_tokens: option(
    'integer',
    count(1, 32).default(5),
    'Guesses of the draft model for one sequence in a step, at most.',
  ),
  draft_rows: option(
    'integer',
    count(2).optional(),
    'Rows of a step in which the draft model guesses; fuller batches go without.',
    '32 on a GPU, 16 on a CPU, 4 there with packed weights',
  ),
  threads: option(
    'integer',
    count(1, 1024).optional(),
    'CPU threads of an engine.',
    'one for each processor that it may run on, at most what a CPU quota leaves it',
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
    z
      .array(
        z
          .string()
          .min(1)
          .regex(/^[\x21-\x7e]+$/, {
            error: 'no header can carry it: it must be printable ASCII without spaces',
          }),
      )
      .default([]),
    'Key that clients must send. Repeat it to allow several.',
    'none is needed',
  ),
  open_metrics: option(
    'switch',
    z.boolean().default(false),
    'GET /metrics needs no key, for scrapers that can send none.',
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
  drain_delay: option(
    'number',
    seconds.default(0),
    'Seconds after SIGTERM in which work is still taken while /health is 503, so that proxies look away.',
  ),
  log_level: option(
    'text',
    z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
    'Least level that is logged.',
  ),
  otlp_traces_endpoint: option(
    'text',
    z
      .url({ protocol: /^https?$/, error: 'is a URL such as http://localhost:4318/v1/traces' })
      .optional(),
    'Where traces of OpenTelemetry are posted (OTLP, http/protobuf).',
    'what OTEL_EXPORTER_OTLP_ENDPOINT says, else none are sent',
  ),
  tls_cert: option('text', z.string().optional(), 'File with the TLS certificate (PEM).'),
  tls_key: option('text', z.string().optional(), 'File with its private key (PEM).'),
  chat_template: option(
    'text',
    z.string().optional(),
    "File with a Jinja chat template, instead of the checkpoint's.",
  ),
  allowed_hosts: option(
    'list',
    z.array(hostName).default([]),
    'Names by which clients may call a server on the loopback interface, beside localhost; * is any.',
    'none',
  ),
  allowed_origins: option(
    'list',
    z.array(origin).default(['loopback']),
    'Origins whose pages may call: loopback is every page of this machine, * is every page.',
  ),
  request_timeout: option('number', seconds.default(0), 'Longest time for a request; 0: no limit.'),
  write_idle_timeout: option(
    'number',
    seconds.min(1).default(30),
    'Seconds after which a client that stops, to read its answer or to send its request, is cut off.',
  ),
  ping_interval: option(
    'number',
    seconds.min(1).default(15),
    'Seconds of silence after which a stream gets `: ping`.',
  ),
  stall_timeout: option(
    'number',
    seconds.min(1).default(8),
    'Seconds in which no layer of a step was finished, while there is work, after which /health is 503.',
  ),
  body_limit: option('bytes', count(1024).default(16 << 20), 'Largest request body.'),
  data_dir: option(
    'text',
    z.string().min(1).optional(),
    'Folder in which files and batches are kept: turns /v1/files and /v1/batches on.',
    'none',
  ),
  file_limit: option(
    'bytes',
    z
      .int()
      .min(1024)
      .default(1 << 30),
    'Largest file of /v1/files.',
  ),
  prefix_cache: option('switch', z.boolean().default(true), 'Share blocks between prompts.'),
  exact_activations: option(
    'switch',
    z.boolean().default(false),
    'On the CPU, products as with float32 activations, for reference work: prompts take twice as long.',
  ),
  int8_activations: option(
    'switch',
    z.boolean().default(false),
    'On the CPU with weights in groups (GGUF, int8, int4), activations in 8 bits: answers come faster, less accurate.',
  ),
  fp8_activations: option(
    'switch',
    z.boolean().default(false),
    'On CUDA with FP8 weights, activations of prompts in FP8 too: faster, less accurate.',
  ),
  reload_from: option(
    'text',
    z.string().min(1).optional(),
    'Clients may have weights loaded from folders below this one: POST /update_weights_from_disk.',
    'none are loaded',
  ),
  logprobs_mode: option(
    'text',
    z.enum(['raw_logprobs', 'processed_logprobs']).default('raw_logprobs'),
    'What log probabilities are of where a request does not say: the raw logits, or what is drawn from.',
  ),
  allow_pause: option(
    'switch',
    z.boolean().default(false),
    'Clients may stop all requests: POST /pause, POST /resume, GET /is_paused.',
  ),
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

export const ModelEntry = z.strictObject({
  ...optionalShape,
  model: z.string().min(1),
  served_model_name: z.union([z.string().min(1), z.array(z.string().min(1))]).optional(),
  chat_template: z.string().optional(),
  /** How a reward is read, where neither the checkpoint nor models/registry.json says it. */
  reward: RewardSettings.optional(),
})
export type ModelEntry = z.output<typeof ModelEntry>

export const Settings = z.strictObject({
  ...shapeOf(serverOptions),
  models: z.array(ModelEntry).default([]),
})
export type Settings = z.output<typeof Settings>

export const OPTIONS: Readonly<Record<string, Option>> = serverOptions

type Flag = {
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

/** What the command line offers; --config comes beside it. The file alone has `models`. */
export const FLAGS: readonly Flag[] = Object.entries(serverOptions).map(flagOf)
