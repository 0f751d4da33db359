// What quantisation and rounding cost: the distributions of next tokens over fixed texts, of a model as it would be
// served and of its reference, one engine after the other. And the receipt, a file beside the model.

import { createHash } from 'node:crypto'
import { readdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { z } from 'zod'
import { loadAddon, type NativeModelInfo } from '../engine/addon.js'
import { openEngine } from '../engine/engine.js'
import type { Engine, EngineOptions } from '../engine/types.js'
import { EngineFailure } from '../failure.js'
import { ggufParts, isGguf } from '../tokenizer/gguf.js'
import { loadTokenizer } from '../tokenizer/tokenizer.js'
import type { Tokenizer } from '../tokenizer/types.js'
import { VERSION } from '../version.js'
import { TEXTS, TEXTS_VERSION } from './accuracy-texts.js'

/** Choices at load time that change numbers. */
export type Choices = Required<
  Pick<
    EngineOptions,
    'dtype' | 'kvCacheDtype' | 'exactActivations' | 'int8Activations' | 'fp8Activations'
  >
>

type Device = 'cpu' | 'cuda'

/** As exact as the engine is there. */
export const referenceOn = (device: Device): Choices => ({
  dtype: 'auto',
  kvCacheDtype: 'auto',
  exactActivations: device === 'cpu',
  int8Activations: false,
  fp8Activations: false,
})

const Figures = z.object({
  positions: z.number(),
  /** Kullback-Leibler divergence of the measured distribution from the reference's, in nats. */
  kl_mean: z.number(),
  kl_p99: z.number(),
  /** Share of positions at which both have the same likeliest token. */
  top1_agreement: z.number(),
  /** Of the log probability of the token that comes next in the text. */
  logprob_delta_mean: z.number(),
})
type Figures = z.output<typeof Figures>

const Receipt = Figures.extend({
  model: z.string(),
  against: z.string(),
  dtype: z.string(),
  kv_cache_dtype: z.string(),
  exact_activations: z.boolean(),
  int8_activations: z.boolean(),
  fp8_activations: z.boolean(),
  device: z.string(),
  texts: z.number(),
  version: z.string(),
  fingerprint: z.string(),
  /** Of the files that were measured. */
  stamp: z.string(),
  measured: z.string(),
})
export type Receipt = z.output<typeof Receipt>
const Receipts = z.object({ receipts: z.array(Receipt) })

const BLOCK = 16
/** Tokens that are measured in each block, its first: their prompts are cached but for so many. */
const MEASURED = 4
const MOST_TOKENS = 240
/** Enough for a text and for all that is measured at once, of every model. */
const KV_BYTES = 256 << 20
const AT_ONCE = 8

const invalid = (message: string) => new EngineFailure({ code: 'invalid_argument', message })

type Side = {
  readonly folder: string
  readonly info: NativeModelInfo
  readonly tokenizer: Tokenizer
  readonly vocab: number
  /** Of each text. */
  readonly texts: readonly (readonly number[])[]
}

const describeSide = async (folder: string): Promise<Side> => {
  const info = loadAddon().modelInfo(folder, [])
  if ('code' in info) throw new EngineFailure(info)
  const { reward, rewardOutputs, vocab, maxPosition } = info.config
  if (reward === 'classification')
    throw new EngineFailure({
      code: 'unsupported',
      message: `${folder} has a head of ${rewardOutputs} rewards and none of a vocabulary; check compares how likely next tokens are`,
    })
  if (maxPosition <= BLOCK + MEASURED)
    throw invalid(
      `${folder} takes ${maxPosition} tokens; check needs more than ${BLOCK + MEASURED}`,
    )
  const tokenizer = await loadTokenizer(folder)
  const texts: number[][] = []
  const before = tokenizer.bosId === null ? [] : [tokenizer.bosId]
  for (const text of TEXTS) {
    const ids = [...before, ...(await tokenizer.encode(text))]
    texts.push(ids.slice(0, Math.min(MOST_TOKENS, maxPosition)))
  }
  return { folder, info, tokenizer, vocab, texts }
}

const checkSame = (one: Side, other: Side): void => {
  if (one.vocab !== other.vocab)
    throw invalid(
      `${one.folder} has a vocabulary of ${one.vocab} tokens and ${other.folder} one of ${other.vocab}; they have to be the same model`,
    )
  const at = one.texts.findIndex((ids, i) => ids.join() !== other.texts[i]?.join())
  if (at >= 0)
    throw invalid(
      `${one.folder} and ${other.folder} cut text ${at + 1} of check into different tokens; they have to be the same model`,
    )
}

/** Whether weights stay in the form in which they are stored. */
const leavesWeights = ({ info }: Side, dtype: Choices['dtype'], device: Device): boolean => {
  if (dtype === 'auto' || dtype === 'bf16' || info.config.quantization !== 'none') return true
  const bytesOf = (format: string) => info.cpu.find((need) => need.format === format)?.weights
  return device === 'cpu' && bytesOf(dtype) === bytesOf('stored')
}

/** What the weights of a side are once they are loaded. */
const areFp8 = ({ info }: Side, dtype: Choices['dtype']): boolean =>
  info.config.quantization !== 'none' || dtype === 'fp8'

/** Why choices change nothing for this model. One of 8-bit activations the engine refuses itself. */
const idleChoices = (
  side: Side,
  { choices, device }: MeasureOptions,
): Partial<Record<keyof Choices, string>> => {
  const { dtype, kvCacheDtype, fp8Activations } = choices
  const { folder } = side
  const isCuda = device === 'cuda'
  return {
    ...(dtype !== 'auto' &&
      leavesWeights(side, dtype, device) && {
        dtype: `--dtype ${dtype} leaves the weights of ${folder} as they are stored`,
      }),
    ...(kvCacheDtype === 'bf16' &&
      isCuda && { kvCacheDtype: '--kv-cache-dtype bf16 is what CUDA has in any case' }),
    ...(fp8Activations &&
      isCuda &&
      !areFp8(side, dtype) && {
        fp8Activations: `--fp8-activations is for weights in FP8, which those of ${folder} are not`,
      }),
  }
}

/** A choice that changes nothing is no mistake beside others that do. */
const checkChoices = (side: Side, options: MeasureOptions): void => {
  const idle = idleChoices(side, options)
  const [first, ...more] = Object.values(idle)
  if (first === undefined) return
  const reference = referenceOn(options.device)
  const names = Object.keys(reference) as (keyof Choices)[]
  const differs = names.some(
    (name) => idle[name] === undefined && options.choices[name] !== reference[name],
  )
  if (!differs)
    throw invalid(
      `${first}: there is nothing to compare. --against names the folder that it was made of`,
    )
  for (const text of [first, ...more])
    options.say(`${text}: what is compared are the other choices`)
}

/** How many tokens of a text stand before each measured one. The last has to be in the text. */
const measuredIn = (ids: readonly number[]): readonly number[] =>
  Array.from(ids.keys()).filter(
    (count) => count > BLOCK && count % BLOCK > 0 && count % BLOCK <= MEASURED,
  )

const open = (side: Side, choices: Choices, options: MeasureOptions): Promise<Engine> =>
  openEngine(
    {
      ...choices,
      model: side.folder,
      device: options.device,
      ...(options.threads !== undefined && { threads: options.threads }),
      maxModelLen: Math.max(...side.texts.map(({ length }) => length)),
      maxNumSeqs: AT_ONCE,
      maxNumBatchedTokens: 2 * MOST_TOKENS,
      blockSize: BLOCK,
      kvCacheMemory: KV_BYTES,
      // The whole vocabulary is asked for as the scores of a reward model are.
      rewardRows: Array.from({ length: side.vocab }, (_, id) => id),
      onProgress: ({ phase, bytesDone, bytesTotal }) =>
        options.onProgress(`${side.folder}: ${phase}`, bytesDone, bytesTotal),
    },
    side.tokenizer,
  )

/** Of each id, from logits. */
const logProbabilities = (logits: readonly number[]): Float32Array => {
  let most = Number.NEGATIVE_INFINITY
  for (const value of logits) if (value > most) most = value
  let sum = 0
  for (const value of logits) sum += Math.exp(value - most)
  const log = most + Math.log(sum)
  return Float32Array.from(logits, (value) => value - log)
}

/** The first of them where several are. */
const likeliestOf = (values: ArrayLike<number>): number => {
  let best = 0
  for (let i = 1; i < values.length; i++) if ((values[i] ?? 0) > (values[best] ?? 0)) best = i
  return best
}

type Seen = {
  readonly logprobs: Float32Array
  readonly likeliest: number
  /** What comes next in the text. */
  readonly next: number
}

/** Calls `see` for every measured position, in order. */
const run = async (
  side: Side,
  choices: Choices,
  options: MeasureOptions,
  see: (seen: Seen) => void,
): Promise<Pick<Engine['info'], 'device' | 'dtype' | 'fingerprint'>> => {
  const engine = await open(side, choices, options)
  try {
    for (const [i, ids] of side.texts.entries()) {
      const score = async (count: number): Promise<Seen> => {
        const { scores } = await engine.score({ promptTokenIds: ids.slice(0, count) })
        return {
          logprobs: logProbabilities(scores),
          likeliest: likeliestOf(scores),
          next: ids[count] ?? 0,
        }
      }
      const counts = measuredIn(ids)
      const last = counts.at(-1)
      if (last !== undefined) await score(last) // now the others are in the cache
      for (let at = 0; at < counts.length; at += AT_ONCE)
        for (const seen of await Promise.all(counts.slice(at, at + AT_ONCE).map(score))) see(seen)
      if ((i + 1) % 4 === 0) options.say(`${side.folder}: ${i + 1} of ${side.texts.length} texts`)
    }
    return engine.info
  } finally {
    await engine.close()
  }
}

/** Of `other` from `reference`, both log probabilities of each id. */
const divergence = (reference: ArrayLike<number>, other: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < reference.length; i++) {
    const of = reference[i] ?? 0
    sum += Math.exp(of) * (of - (other[i] ?? 0))
  }
  return Math.max(0, sum)
}

const createFigures = () => {
  const divergences: number[] = []
  let [agreed, delta] = [0, 0]
  return {
    add: (reference: Seen, other: Seen): void => {
      divergences.push(divergence(reference.logprobs, other.logprobs))
      if (reference.likeliest === other.likeliest) agreed++
      const { next } = other
      delta += Math.abs((reference.logprobs[next] ?? 0) - (other.logprobs[next] ?? 0))
    },
    figures: (): Figures => {
      const positions = divergences.length
      const sorted = divergences.toSorted((a, b) => a - b)
      return {
        positions,
        kl_mean: divergences.reduce((sum, one) => sum + one, 0) / positions,
        kl_p99: sorted[Math.ceil(0.99 * positions) - 1] ?? 0,
        top1_agreement: agreed / positions,
        logprob_delta_mean: delta / positions,
      }
    },
  }
}

const DECIDES = /\.safetensors$|^(?:hf_quant_)?config\.json$/

/** Another one where a file that decides what is computed has been written over: fingerprints are the same for all
 * weights of one shape. */
const stampOf = async (folder: string): Promise<string> => {
  const files = isGguf(folder)
    ? ggufParts(folder)
    : (await readdir(folder)).filter((name) => DECIDES.test(name)).map((name) => join(folder, name))
  const hash = createHash('sha256')
  for (const file of files.toSorted()) {
    const found = await stat(file).catch(() => undefined)
    hash.update(`${basename(file)} ${found?.size} ${found?.mtimeMs}\n`)
  }
  return hash.digest('hex').slice(0, 16)
}

type MeasureOptions = {
  /** A folder or a GGUF file. */
  readonly folder: string
  /** The reference's; the same where only `choices` differ. */
  readonly against: string
  readonly choices: Choices
  readonly device: Device
  readonly threads?: number | undefined
  /** Of loading: bytes. */
  readonly onProgress: (what: string, done: number, total: number) => void
  readonly say: (text: string) => void
}

/** One model is in memory at a time; of the first its distributions stay, about 400 of them. */
export const measureAccuracy = async (options: MeasureOptions): Promise<Receipt> => {
  const { folder, against, choices } = options
  const stamp = await stampOf(folder)
  const side = await describeSide(folder)
  const reference = folder === against ? side : await describeSide(against)
  checkSame(side, reference)
  if (folder === against) checkChoices(side, options)
  // First the one whose choices the engine may refuse.
  const measured: Seen[] = []
  const info = await run(side, choices, options, (seen) => measured.push(seen))
  const figures = createFigures()
  measured.reverse()
  await run(reference, referenceOn(options.device), options, (seen) => {
    const of = measured.pop()
    if (of !== undefined) figures.add(seen, of)
  })
  return {
    model: folder,
    against,
    dtype: info.dtype,
    kv_cache_dtype: choices.kvCacheDtype,
    exact_activations: choices.exactActivations,
    int8_activations: choices.int8Activations,
    fp8_activations: choices.fp8Activations,
    ...figures.figures(),
    device: info.device,
    texts: TEXTS_VERSION,
    version: VERSION,
    fingerprint: info.fingerprint,
    stamp,
    measured: new Date().toISOString(),
  }
}

/** Where the receipts of a model are kept. */
export const receiptsFile = (folder: string): string =>
  isGguf(folder) ? `${folder}.accuracy.json` : join(folder, 'nemotron-accuracy.json')

/** A file that is missing, or that another version wrote in another form, has none. */
const receiptsOf = async (folder: string): Promise<readonly Receipt[]> => {
  try {
    const text = await readFile(receiptsFile(folder), 'utf8')
    return Receipts.safeParse(JSON.parse(text)).data?.receipts ?? []
  } catch {
    return []
  }
}

type Same = Pick<
  Receipt,
  | 'fingerprint'
  | 'device'
  | 'kv_cache_dtype'
  | 'exact_activations'
  | 'int8_activations'
  | 'fp8_activations'
>

/** What of a device's name changes numbers: not its threads, nor how many ranks there are. */
const kindOf = (device: string): string =>
  device.replace(/^\d+ x |, (?:\d+ threads?|ranks by [^)]*)/g, '')

const isOf = (receipt: Same, same: Same): boolean =>
  receipt.fingerprint === same.fingerprint &&
  kindOf(receipt.device) === kindOf(same.device) &&
  receipt.kv_cache_dtype === same.kv_cache_dtype &&
  receipt.exact_activations === same.exact_activations &&
  receipt.int8_activations === same.int8_activations &&
  receipt.fp8_activations === same.fp8_activations

/** Takes the place of an older one of the same choices on such a device. Rejects where the folder cannot be written. */
export const keepReceipt = async (receipt: Receipt): Promise<void> => {
  const file = receiptsFile(receipt.model)
  const others = (await receiptsOf(receipt.model)).filter((one) => !isOf(one, receipt))
  const part = `${file}.${process.pid}.part`
  await writeFile(part, `${JSON.stringify({ receipts: [...others, receipt] }, null, 2)}\n`)
  await rename(part, file)
}

/** What was measured of a model as it has been loaded. `same`: the settings that it was loaded with, and the device's name. */
export const findReceipt = async (folder: string, same: Same): Promise<Receipt | undefined> => {
  const receipt = (await receiptsOf(folder)).find((one) => isOf(one, same))
  if (receipt === undefined) return undefined
  return receipt.stamp === (await stampOf(folder)) ? receipt : undefined
}

const figure = (value: number): string => value.toPrecision(3)

export const receiptText = (receipt: Receipt): string => {
  const { kl_mean, kl_p99, top1_agreement, logprob_delta_mean, positions } = receipt
  return (
    `KL ${figure(kl_mean)} (p99 ${figure(kl_p99)}), same likeliest token ${(100 * top1_agreement).toFixed(1)} %, ` +
    `mean |delta logprob| ${figure(logprob_delta_mean)}, over ${positions} positions`
  )
}
