// `nemotron-server generate`: one prompt, streamed to the terminal.

import { text } from 'node:stream/consumers'
import { type Command, Option } from 'commander'
import { openEngine } from '../engine/engine.js'
import type { Delta, EngineOptions, Sampling, Timings } from '../engine/types.js'
import { tell } from '../log.js'
import { namesOfModel } from '../model/identity.js'
import { openTemplate } from '../model/open.js'
import { findEntry } from '../model/registry.js'
import type { Message } from '../prompt/conversation.js'
import { encodeSegments, encodeText } from '../prompt/encode.js'
import { createProgress } from '../terminal.js'
import { loadTokenizer } from '../tokenizer/tokenizer.js'
import type { Tokenizer } from '../tokenizer/types.js'
import { bigInteger, collect, integer, number } from './flags.js'

/** Flags that are sampling fields, by the same names. */
const SAMPLING = [
  'maxTokens',
  'minTokens',
  'temperature',
  'topP',
  'topK',
  'minP',
  'repetitionPenalty',
  'presencePenalty',
  'frequencyPenalty',
  'seed',
  'stop',
  'ignoreEos',
  'lookupTokens',
] as const satisfies readonly (keyof Sampling)[]

type Flags = Pick<
  EngineOptions,
  'model' | 'device' | 'dtype' | 'kvCacheDtype' | 'maxModelLen' | 'threads'
> &
  Pick<Sampling, (typeof SAMPLING)[number]> & {
    readonly chat?: boolean
    readonly system?: string
    readonly special?: boolean
    readonly quiet?: boolean
  }

const samplingOf = (flags: Flags): Sampling => ({
  ...Object.fromEntries(SAMPLING.flatMap((key) => (key in flags ? [[key, flags[key]]] : []))),
  skipSpecialTokens: !flags.special,
})

/** One user turn by the model's own template, ready for the answer. */
const encodeTurn = async (
  tokenizer: Tokenizer,
  prompt: string,
  { model, system }: Flags,
): Promise<readonly number[]> => {
  const settings = { names: namesOfModel(model), file: undefined }
  const { template } = await openTemplate(model, settings, tokenizer, tell)
  const messages: Message[] = [
    ...(system === undefined ? [] : [{ role: 'system' as const, content: system }]),
    { role: 'user', content: prompt },
  ]
  const request = { messages, addGenerationPrompt: true, continueFinal: false, keepThinking: false }
  return encodeSegments(template.render({ ...request, kwargs: {}, prefill: '' }), tokenizer)
}

const summary = (prompt: number, generated: number, last: Delta | undefined): string => {
  const timings: Timings | undefined = last?.timings
  if (!timings) return `${prompt} prompt tokens, ${generated} generated`
  const { cachedTokens, prefillSeconds, decodeSeconds, draftedTokens, acceptedTokens } = timings
  const cached = cachedTokens > 0 ? ` (${cachedTokens} cached)` : ''
  // The first token comes out of the prefill.
  const rate = decodeSeconds > 0 && generated > 1 ? (generated - 1) / decodeSeconds : undefined
  return [
    `${prompt} prompt tokens${cached} in ${prefillSeconds.toFixed(3)} s`,
    `${generated} generated in ${decodeSeconds.toFixed(3)} s${rate ? ` (${rate.toFixed(1)} tokens/s)` : ''}`,
    ...(draftedTokens > 0 ? [`${acceptedTokens} of ${draftedTokens} drafts accepted`] : []),
    `ended by ${last?.finish}${last?.stopReason === undefined ? '' : ` ${JSON.stringify(last.stopReason)}`}`,
  ].join(', ')
}

const startEngine = async (flags: Flags, tokenizer: Tokenizer) => {
  const progress = createProgress()
  const rewardRow = findEntry(namesOfModel(flags.model))?.reward_row
  const { model, device, dtype, kvCacheDtype, maxModelLen, threads, quiet } = flags
  const engine = await openEngine(
    {
      model,
      maxNumSeqs: 1,
      ...(device && { device }),
      ...(dtype && { dtype }),
      ...(kvCacheDtype && { kvCacheDtype }),
      ...(maxModelLen && { maxModelLen }),
      ...(threads && { threads }),
      ...(rewardRow !== undefined && { rewardRow }),
      ...(!quiet && {
        onPlan: (plan) => tell(plan.table.trimEnd()),
        onProgress: ({ phase, bytesDone, bytesTotal }) =>
          progress.update(phase, bytesDone, bytesTotal),
      }),
    },
    tokenizer,
  ).finally(progress.finish)
  if (!quiet) tell(`${engine.info.device} (${engine.info.deviceNote})`)
  return engine
}

/** Aborts on the first Ctrl-C and when the reader of our output is gone; a second Ctrl-C kills. */
const interruption = (): AbortSignal => {
  const controller = new AbortController()
  process.once('SIGINT', () => controller.abort())
  process.stdout.on('error', () => controller.abort())
  return controller.signal
}

const run = async (given: string, flags: Flags): Promise<void> => {
  const prompt = given === '-' ? await text(process.stdin) : given
  const tokenizer = await loadTokenizer(flags.model)
  const promptTokenIds = flags.chat
    ? await encodeTurn(tokenizer, prompt, flags)
    : await encodeText(tokenizer, prompt, true)
  const engine = await startEngine(flags, tokenizer)
  const { quiet } = flags
  const signal = interruption()
  let generated = 0
  let last: Delta | undefined
  try {
    const request = { promptTokenIds, sampling: samplingOf(flags) }
    for await (const delta of engine.generate(request, { signal })) {
      process.stdout.write(delta.text)
      generated += delta.tokenIds.length
      last = delta
    }
  } finally {
    await engine.close()
  }
  process.stdout.write('\n')
  if (last?.error) throw new Error(last.error.message)
  if (!quiet) tell(summary(promptTokenIds.length, generated, last))
  if (signal.aborted) process.exitCode = 130
}

export const addGenerateCommand = (program: Command): void => {
  program
    .command('generate')
    .description('Continue a prompt and stream the text to the terminal.')
    .argument(
      '<prompt>',
      'raw text; special tokens such as <|eot_id|> are parsed; -: standard input',
    )
    .requiredOption('--model <folder>', 'a Hugging Face folder')
    .option('--chat', "the prompt is a user's message: plain text in the model's chat template")
    .addOption(
      new Option('--system <text>', 'with "detailed thinking on" Nemotron models reason').implies({
        chat: true,
      }),
    )
    .option('--max-tokens <n>', 'longest output', integer, 256)
    .option('--min-tokens <n>', 'shortest output', integer)
    .option('--temperature <t>', '0: the likeliest token each time', number, 0)
    .option('--top-p <p>', 'draw from the likeliest tokens of this probability', number)
    .option('--top-k <k>', 'draw from this many likeliest tokens', integer)
    .option('--min-p <p>', "draw from tokens with this share of the likeliest one's", number)
    .option('--repetition-penalty <x>', 'above 1: repeat less', number)
    .option('--presence-penalty <x>', '-2 to 2', number)
    .option('--frequency-penalty <x>', '-2 to 2', number)
    .option('--seed <n>', 'the same draws again', bigInteger)
    .option('--stop <text>', 'end before this text (may repeat)', collect)
    .option('--ignore-eos', 'go on after the end of a turn')
    .option('--special', 'show special tokens of the output')
    .option('--lookup-tokens <n>', 'drafts a step from the prompt itself (lossless)', integer)
    .addOption(new Option('--device <kind>', 'where to run').choices(['auto', 'cpu', 'cuda']))
    .addOption(new Option('--dtype <type>', 'of the weights').choices(['auto', 'bf16', 'fp8']))
    .addOption(
      new Option('--kv-cache-dtype <type>', 'of the KV cache').choices(['auto', 'bf16', 'fp8']),
    )
    .option('--max-model-len <n>', 'longest sequence', integer)
    .option('--threads <n>', 'of the CPU', integer)
    .option('--quiet', 'only the text')
    .action(async (prompt: string, flags: Flags) => {
      await run(prompt, flags).catch((error) => {
        tell(`error: ${error instanceof Error ? error.message : String(error)}`)
        process.exitCode = 1
      })
    })
}
