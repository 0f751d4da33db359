// `nemotron-server generate`: one prompt, streamed to the terminal. A server of its own answers, so that the
// answer is the one that a client of `serve` gets.

import { buffer } from 'node:stream/consumers'
import { type Command, Option } from 'commander'
import { pino } from 'pino'
import { z } from 'zod'
import { messageOf } from '../failure.js'
import { isReward, type ServedModel } from '../model/served-model.js'
import { createProgress, NO_PROGRESS } from '../terminal.js'
import { checkOwnRequest, startOwn } from './client.js'
import { collect, integer, integerFrom, number, positiveInteger } from './flags.js'
import { type Host, tell } from './host.js'
import { endBy, onSignals } from './signals.js'

/** Flags that are settings of the server, and those that are fields of the request, by the same names. */
const SETTINGS = {
  device: 'device',
  dtype: 'dtype',
  kvCacheDtype: 'kv_cache_dtype',
  maxModelLen: 'max_model_len',
  threads: 'threads',
} as const
const FIELDS = {
  maxTokens: 'max_tokens',
  minTokens: 'min_tokens',
  temperature: 'temperature',
  topP: 'top_p',
  topK: 'top_k',
  minP: 'min_p',
  repetitionPenalty: 'repetition_penalty',
  presencePenalty: 'presence_penalty',
  frequencyPenalty: 'frequency_penalty',
  reasoningEffort: 'reasoning_effort',
  seed: 'seed',
  stop: 'stop',
  ignoreEos: 'ignore_eos',
} as const

type Flags = {
  readonly model?: string
  readonly raw?: boolean
  readonly system?: string
  readonly special?: boolean
  readonly quiet?: boolean
} & { readonly [name in keyof typeof SETTINGS | keyof typeof FIELDS]?: unknown }

const renamed = (flags: Flags, names: Readonly<Record<string, string>>) =>
  Object.fromEntries(
    Object.entries(names).flatMap(([flag, name]) => {
      const value = flags[flag as keyof Flags]
      return value === undefined ? [] : [[name, value]]
    }),
  )

/** Longest continuation of raw text: nothing in it says where it ends. */
const RAW_TOKENS = 256

/** What a client would send. */
const bodyOf = (model: string, isChat: boolean, prompt: string, flags: Flags) => {
  const common = {
    model,
    ...renamed(flags, FIELDS),
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
    skip_special_tokens: flags.special !== true,
    timings: true,
  }
  if (!isChat)
    return { path: '/v1/completions', body: { max_tokens: RAW_TOKENS, ...common, prompt } }
  const system = flags.system === undefined ? [] : [{ role: 'system', content: flags.system }]
  const messages = [...system, { role: 'user', content: prompt }]
  // The thinking is shown where it stands.
  return {
    path: '/v1/chat/completions',
    body: { ...common, messages, reasoning_format: 'none' },
  }
}

const requestOf = (model: ServedModel, prompt: string, flags: Flags) => {
  const isChat = flags.raw !== true && (model.template.source !== '' || isReward(model))
  if (!isChat && flags.system !== undefined)
    throw new Error(`--system: ${model.id} has no chat template, so its prompt is raw text`)
  return bodyOf(model.id, isChat, prompt, flags)
}

/** What is known to be wrong before a model is loaded. */
const check = async (prompt: string, flags: Flags): Promise<void> => {
  if (flags.raw && flags.system !== undefined) throw new Error('--raw: raw text has no --system')
  const { path, body } = bodyOf('any', flags.raw !== true, prompt, flags)
  await checkOwnRequest(path, body)
}

const Timings = z.looseObject({
  prefill_seconds: z.number(),
  decode_seconds: z.number(),
  cached_tokens: z.number(),
})
const Chunk = z.looseObject({
  choices: z
    .array(
      z.looseObject({
        text: z.string().nullish(),
        delta: z.looseObject({ content: z.string().nullish() }).optional(),
        finish_reason: z.string().nullish(),
        stop_reason: z.union([z.string(), z.number()]).nullish(),
      }),
    )
    .default([]),
  usage: z.looseObject({ prompt_tokens: z.number(), completion_tokens: z.number() }).nullish(),
  timings: Timings.nullish(),
  error: z.looseObject({ message: z.string() }).optional(),
})
type Chunk = z.output<typeof Chunk>

/** The events of an answer; throws what the server says is wrong. */
async function* eventsOf(url: string, body: object, signal: AbortSignal): AsyncGenerator<Chunk> {
  const headers = { 'content-type': 'application/json' }
  const init = { method: 'POST', headers, body: JSON.stringify(body), signal }
  const response = await fetch(url, init)
  const check = (chunk: Chunk): Chunk => {
    if (chunk.error !== undefined) throw new Error(chunk.error.message)
    return chunk
  }
  if (!response.ok || response.body === null) {
    yield check(Chunk.parse(await response.json()))
    return
  }
  let rest = ''
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines)
      if (line.startsWith('data: {')) yield check(Chunk.parse(JSON.parse(line.slice(6))))
  }
}

type Ending = {
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number }
  readonly timings?: z.output<typeof Timings> | undefined
  readonly finish: string
  readonly stopReason?: string | number | null | undefined
}

const summary = ({ usage, timings, finish, stopReason }: Ending): string => {
  const { prompt_tokens: prompt, completion_tokens: generated } = usage
  const by = `ended by ${finish}${stopReason == null ? '' : ` ${JSON.stringify(stopReason)}`}`
  if (timings === undefined) return `${prompt} prompt tokens, ${generated} generated, ${by}`
  const { prefill_seconds, decode_seconds, cached_tokens } = timings
  const cached = cached_tokens > 0 ? ` (${cached_tokens} cached)` : ''
  // The first token comes out of the prefill.
  const rate = decode_seconds > 0 && generated > 1 ? (generated - 1) / decode_seconds : undefined
  return [
    `${prompt} prompt tokens${cached} in ${prefill_seconds.toFixed(3)} s`,
    `${generated} generated in ${decode_seconds.toFixed(3)} s${rate ? ` (${rate.toFixed(1)} tokens/s)` : ''}`,
    by,
  ].join(', ')
}

/** Writes the answer as it comes; says how it ended. */
const stream = async (
  { stdout }: Host,
  url: string,
  body: object,
  signal: AbortSignal,
): Promise<Ending> => {
  let ending: Ending = { usage: { prompt_tokens: 0, completion_tokens: 0 }, finish: 'abort' }
  try {
    for await (const { choices, usage, timings } of eventsOf(url, body, signal)) {
      const [choice] = choices
      stdout.write(choice?.text ?? choice?.delta?.content ?? '')
      ending = {
        ...ending,
        ...(usage && { usage }),
        ...(timings && { timings }),
        ...(choice?.finish_reason && {
          finish: choice.finish_reason,
          stopReason: choice.stop_reason,
        }),
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
  return ending
}

/** Aborts on the first Ctrl-C and when the reader of our output is gone; a second Ctrl-C kills. */
const interruption = (host: Host): AbortSignal => {
  const controller = new AbortController()
  onSignals(host, ['SIGINT'], {
    first: () => controller.abort(),
    again: (signal) => endBy(host, signal),
  })
  host.stdout.on('error', () => controller.abort())
  return controller.signal
}

const start = (flags: Flags, host: Host) => {
  const settings = Object.entries(renamed(flags, SETTINGS)).map(([key, value]) => [
    key,
    String(value),
  ])
  const model = flags.model === undefined ? [] : [flags.model]
  const given = { ...Object.fromEntries(settings), model, max_num_seqs: '1' }
  const level = flags.quiet ? 'silent' : 'warn'
  return startOwn(given, host.env, {
    log: pino({ level, base: null }, host.stderr),
    progress: flags.quiet ? NO_PROGRESS : createProgress(host.stderr),
    tell: flags.quiet ? () => {} : (line) => tell(host, line.trimEnd()),
  })
}

const readStandardInput = async ({ stdin }: Host): Promise<string> => {
  const bytes = await buffer(stdin)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new Error('standard input is not valid UTF-8: convert it first')
  }
}

const run = async (given: string, flags: Flags, host: Host): Promise<void> => {
  const prompt = given === '-' ? await readStandardInput(host) : given
  await check(prompt, flags)
  const serving = await start(flags, host)
  try {
    const models = await serving.ready
    const model = models.find((one) => !isReward(one)) ?? models[0]
    if (model === undefined) throw new Error('no model was loaded')
    const { device, deviceNote } = model.engine.info
    if (!flags.quiet) tell(host, `${device} (${deviceNote})`)
    const { path, body } = requestOf(model, prompt, flags)
    const signal = interruption(host)
    const ending = await stream(host, serving.url + path, body, signal)
    host.stdout.write('\n')
    if (!flags.quiet) tell(host, summary(ending))
    if (signal.aborted) host.exitCode = 130
  } finally {
    await serving.drain()
  }
}

export const addGenerateCommand = (program: Command, host: Host): void => {
  program
    .command('generate')
    .description('Answer a prompt as `serve` would, and stream the text to the terminal.')
    .argument('<prompt>', "a user's message; -: standard input")
    .option('--model <folder or id>', 'default: NEMOTRON_MODEL, else the embedded chat model')
    .option('--raw', 'continue the text instead; names such as <|eot_id|> in it are parsed')
    .option('--system <text>', 'what the model is told before')
    .option('--reasoning-effort <effort>', 'none: no thinking; high: thinking; default: off')
    .option('--max-tokens <n>', 'longest output; of raw text: 256', integerFrom(0))
    .option('--min-tokens <n>', 'shortest output', integerFrom(0))
    .option('--temperature <t>', '0: the likeliest token each time', number)
    .option('--top-p <p>', 'draw from the likeliest tokens of this probability', number)
    .option('--top-k <k>', 'draw from this many likeliest tokens', integerFrom(-1))
    .option('--min-p <p>', "draw from tokens with this share of the likeliest one's", number)
    .option('--repetition-penalty <x>', 'above 1: repeat less', number)
    .option('--presence-penalty <x>', '-2 to 2', number)
    .option('--frequency-penalty <x>', '-2 to 2', number)
    .option('--seed <n>', 'the same draws again', integer)
    .option('--stop <text>', 'end before this text (may repeat)', collect)
    .option('--ignore-eos', 'go on after the end of a turn')
    .option('--special', 'show special tokens of the output')
    .addOption(new Option('--device <kind>', 'where to run').choices(['auto', 'cpu', 'cuda']))
    .addOption(
      new Option('--dtype <type>', 'of the weights').choices([
        'auto',
        'bf16',
        'fp8',
        'int8',
        'int4',
      ]),
    )
    .addOption(
      new Option('--kv-cache-dtype <type>', 'of the KV cache').choices(['auto', 'bf16', 'fp8']),
    )
    .option('--max-model-len <n>', 'longest sequence', positiveInteger)
    .option('--threads <n>', 'of the CPU', positiveInteger)
    .option('--quiet', 'only the text')
    .action(async (prompt: string, flags: Flags) => {
      await run(prompt, flags, host).catch((error) => {
        tell(host, `error: ${messageOf(error)}`)
        host.exitCode = 1
      })
    })
}
