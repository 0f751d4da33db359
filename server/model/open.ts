// From settings to a model that can be served: its folder, tokenizer, template and engine.

import { prepareEngine } from '../engine/engine.js'
import type { Engine, EngineOptions, LoadProgress, MemoryPlan } from '../engine/types.js'
import { about, EngineFailure, messageOf } from '../failure.js'
import type { Metrics } from '../metrics/metrics.js'
import { BUILT_IN, fittingTemplate } from '../prompt/builtin-templates.js'
import { createTemplate, knowsTools } from '../prompt/template.js'
import type { ModelSettings } from '../settings/read.js'
import type { RewardSettings } from '../settings/reward.js'
import { readText } from '../tokenizer/text-file.js'
import { loadTokenizer } from '../tokenizer/tokenizer.js'
import type { Tokenizer } from '../tokenizer/types.js'
import { createGrammars } from './grammars.js'
import { defaultName, namesOfModel, soundsLikeReward } from './identity.js'
import { flagFailure } from './option-flags.js'
import { createPace } from './pace.js'
import { openPackage, type Package } from './package.js'
import { findEntry, makeProfile, type RegistryEntry } from './registry.js'
import { createReadout } from './reward-readout.js'
import type { ServedModel } from './served-model.js'

type TemplateSettings = {
  /** The model's names (identity.ts), the surest first. */
  readonly names: readonly string[]
  readonly file: string | undefined
}

type TemplateSource = {
  readonly source: string
  /** Where it was read, for errors. */
  readonly from: string
  /** It came with the checkpoint or from the user: what it says of the model counts. */
  readonly own: boolean
  /** What renders conversations with tools; undefined: `source`. */
  readonly toolSource?: string | undefined
  readonly warning?: string
}

/** The checkpoint's own template; a built-in one only where it has none, and never silently. */
const findTemplate = async (
  folder: string,
  files: Package,
  settings: TemplateSettings,
  entry: RegistryEntry | undefined,
  tokenizer: Tokenizer,
): Promise<TemplateSource> => {
  const { file } = settings
  if (file !== undefined) {
    const source = await about('--chat-template', readText(file))
    return { source, from: file, own: true }
  }
  const own = await files.template()
  const builtIn = entry?.template && BUILT_IN[entry.template]
  if (own !== undefined) {
    // A checkpoint that does not say how tools are shown has learned its family's form all the same.
    const isKnown = own.toolSource !== undefined || knowsTools(own.source)
    return { toolSource: isKnown ? undefined : builtIn, ...own, own: true }
  }
  const name = fittingTemplate(entry?.template, (token) => tokenizer.special.has(token))
  if (name === undefined)
    return {
      source: '',
      from: '',
      own: false,
      warning: `${folder} has no chat template and none of ours fits its tokens: chat is refused, /v1/completions works`,
    }
  return {
    source: BUILT_IN[name],
    from: name,
    own: false,
    warning: `${folder} has no chat template: the built-in ${name} is used`,
  }
}

/** The template that a model in `folder` speaks by, and what is known of it. */
export const openTemplate = async (
  folder: string,
  settings: TemplateSettings,
  tokenizer: Tokenizer,
  warn: (message: string) => void,
): Promise<Pick<ServedModel, 'template' | 'tokenNames' | 'profile'>> => {
  const files = await openPackage(folder, tokenizer)
  const entry = findEntry(settings.names)
  const { source, toolSource, from, own, warning } = await findTemplate(
    folder,
    files,
    settings,
    entry,
    tokenizer,
  )
  if (warning !== undefined) warn(warning)
  const profile = makeProfile(entry, own ? source : '')
  const { tokenNames } = files
  try {
    const template = createTemplate({
      source,
      toolSource,
      tokenizer,
      tokens: tokenNames,
      reasoning: profile.reasoning !== undefined,
    })
    return { template, tokenNames, profile }
  } catch (error) {
    const why = messageOf(error)
    throw new Error(`${from}: the chat template cannot be used: ${why}`, { cause: error })
  }
}

type LoadHooks = {
  readonly onProgress: (progress: LoadProgress) => void
  readonly onPlan: (plan: MemoryPlan) => void
  readonly warn: (message: string) => void
}

const engineOptions = (
  { folder, draftFolder, settings, utilization }: LoadOptions,
  rewardRows: readonly number[] | undefined,
): EngineOptions => ({
  model: folder,
  device: settings.device,
  dtype: settings.dtype,
  kvCacheDtype: settings.kv_cache_dtype,
  memoryUtilization: utilization,
  draftTokens: settings.draft_tokens,
  ...(draftFolder !== undefined && { draftModel: draftFolder }),
  maxNumSeqs: settings.max_num_seqs,
  tensorParallelSize: settings.tensor_parallel_size,
  blockSize: settings.block_size,
  maxWaiting: settings.max_waiting,
  prefixCache: settings.prefix_cache,
  exactActivations: settings.exact_activations,
  int8Activations: settings.int8_activations,
  fp8Activations: settings.fp8_activations,
  ...(settings.kv_cache_memory !== undefined && { kvCacheMemory: settings.kv_cache_memory }),
  ...(settings.max_model_len !== undefined && { maxModelLen: settings.max_model_len }),
  ...(settings.max_num_batched_tokens !== undefined && {
    maxNumBatchedTokens: settings.max_num_batched_tokens,
  }),
  ...(settings.draft_rows !== undefined && { draftRows: settings.draft_rows }),
  ...(settings.threads !== undefined && { threads: settings.threads }),
  ...(rewardRows !== undefined && { rewardRows }),
})

/** What is said of a reward head, and what the registry knows where nothing is said. */
export const rewardSettings = (
  given: RewardSettings | undefined,
  entry: RegistryEntry | undefined,
): RewardSettings | undefined => {
  const known = entry?.reward
  if (given === undefined || known === undefined) return given ?? known
  // Attributes and weights name each other: they are taken together.
  const isNamed = given.attributes !== undefined || given.weights !== undefined
  const { rows, question, judge } = { ...known, ...given }
  const { attributes, weights } = isNamed ? given : known
  return { rows, question, judge, attributes, weights }
}

/** Said loudly where a model is called a reward model and nothing says how its reward is read. */
export const rewardDoubt = (
  { info }: Engine,
  reward: RewardSettings | undefined,
  names: readonly string[],
): string | undefined =>
  info.rewardKind !== 'none' || reward?.judge !== undefined || !soundsLikeReward(names)
    ? undefined
    : `${names[0]} is called a reward model (${names.join(', ')}), but neither its config.json nor ` +
      'models/registry.json says how its reward is read: IT IS SERVED AS A CHAT MODEL. Where it is a ' +
      'reward model, give its entry in the config file `"reward": {"rows": ...}` or `"reward": {"judge": ...}` (docs/http.md), ' +
      'or createEngine the same `reward` (docs/api.md).'

/** A reward model may be stored as one that writes: then its name alone says what it is. */
export const checkDraftNames = (names: readonly string[]): void => {
  const entry = findEntry(names)
  if (entry?.reward?.rows === undefined) return
  throw new EngineFailure({
    code: 'invalid_argument',
    message: `draftModel ${names[0]}: is the reward model ${entry.name}, which writes no text; expected a model that does`,
  })
}

/** The engine does not outlive a read-out that does not fit its head. */
export const openReadout = async (engine: Engine, settings: RewardSettings | undefined) => {
  try {
    return createReadout(engine.info, settings)
  } catch (error) {
    await engine.close()
    throw error
  }
}

type LoadOptions = {
  readonly settings: ModelSettings
  /** Where its files lie. */
  readonly folder: string
  /** The same of its draft model; undefined: it has none. */
  readonly draftFolder?: string | undefined
  /** Share of the free memory that this model may plan. */
  readonly utilization: number
  readonly metrics: Metrics
  readonly hooks: LoadHooks
}

/** What is wrong with the options of an engine is told as settings. */
const inFlags = async <T>(act: () => Promise<T>): Promise<T> => {
  try {
    return await act()
  } catch (error) {
    throw flagFailure(error)
  }
}

/** What loads the engine of a model. */
const prepareFrom = (
  options: LoadOptions,
  rewardRows: readonly number[] | undefined,
  tokenizer: Tokenizer,
): Promise<() => Promise<Engine>> => {
  const { settings, draftFolder, hooks } = options
  const { draft_model: draft } = settings
  const { onProgress, onPlan } = hooks
  return inFlags(async () => {
    if (draft !== undefined) checkDraftNames(namesOfModel(draft, draftFolder ?? draft))
    const engine = { ...engineOptions(options, rewardRows), onProgress, onPlan }
    return prepareEngine(engine, tokenizer)
  })
}

/** A model of which all is checked that can be before its weights are read. */
export type PreparedModel = Pick<ServedModel, 'id' | 'aliases'> & {
  readonly load: () => Promise<ServedModel>
}

export const prepareModel = async (options: LoadOptions): Promise<PreparedModel> => {
  const { settings, folder, metrics, hooks } = options
  const [id = defaultName(settings.model, folder), ...aliases] = settings.names
  const names = namesOfModel(settings.model, folder, settings.names)
  const tokenizer = await loadTokenizer(folder)
  const { template, tokenNames, profile } = await openTemplate(
    folder,
    { names, file: settings.chat_template },
    tokenizer,
    hooks.warn,
  )
  const reward = rewardSettings(settings.reward, profile.entry)
  const open = await prepareFrom(options, reward?.rows, tokenizer)
  const load = async (): Promise<ServedModel> => {
    const engine = await inFlags(open)
    const doubt = rewardDoubt(engine, reward, names)
    if (doubt !== undefined) hooks.warn(doubt)
    const readout = await openReadout(engine, reward)
    return {
      id,
      aliases,
      root: settings.model,
      created: Math.floor(Date.now() / 1000),
      engine,
      tokenizer,
      template,
      tokenNames,
      profile,
      readout,
      compileForm: createGrammars(engine),
      pace: createPace(),
      weights: { version: undefined, folder: undefined, change: undefined },
      metrics: metrics.addModel(id, engine, {
        kvCacheDtype: settings.kv_cache_dtype,
        prefixCache: settings.prefix_cache,
      }),
    }
  }
  return { id, aliases, load }
}
