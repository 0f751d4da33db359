// openEngine: one checkpoint, loaded and running, behind the typed interface of types.ts.

import { setMaxListeners } from 'node:events'
import { stat } from 'node:fs/promises'
import { type EngineError, EngineFailure } from '../failure.js'
import { isGguf } from '../tokenizer/gguf.js'
import { loadTokenizer } from '../tokenizer/tokenizer.js'
import type { Tokenizer } from '../tokenizer/types.js'
import {
  loadAddon,
  type NativeConfig,
  type NativeInfo,
  type NativeSampling,
  type NativeThinking,
} from './addon.js'
import {
  checkBeside,
  checkCallback,
  checkOptions,
  checkPauseMode,
  checkReload,
  checkRequest,
  checkText,
  withOptionNames,
} from './check-call.js'
import { createDispatcher } from './dispatch.js'
import { fingerprint } from './fingerprint.js'
import { createGrammarCache } from './grammar-cache.js'
import type {
  Delta,
  Engine,
  EngineInfo,
  EngineOptions,
  GenerateRequest,
  MemoryPlan,
  RequestHandle,
  Sampling,
} from './types.js'

// Ids of tokens with these names end a turn, whatever config and generation_config say.
const stopNames = ['<|eot_id|>', '<|eom_id|>', '<|end_of_text|>', '<extra_id_1>']
const thinkBegin = '<think>'
const thinkEnd = '</think>'
// What a thinking budget writes when it is used up.
const thinkCloseText = `\n${thinkEnd}\n\n`

const invalid = (message: string) => new EngineFailure({ code: 'invalid_argument', message })

/** A folder, or a GGUF file; throws an EngineFailure for anything else. */
export const checkFolder = async (
  folder: string | undefined,
  field: 'model' | 'draftModel' | 'folder' = 'model',
): Promise<string> => {
  if (folder === undefined || folder === '')
    throw invalid(`${field} must be the path of a Hugging Face folder`)
  const found = await stat(folder).catch(() => undefined)
  if (found?.isDirectory() || (found?.isFile() && isGguf(folder))) return folder
  throw new EngineFailure({
    code: 'not_found',
    message: `${field} ${folder} is ${found ? 'no folder' : 'not there'}`,
  })
}

const checkVocabulary = (model: string, tokenizer: Tokenizer, config: NativeConfig): void => {
  const id = tokenizer.vocabSize - 1
  if (id < config.vocab) return
  const token = JSON.stringify(tokenizer.decode([id]))
  throw invalid(
    `${model}: tokenizer.json has token ${id} (${token}), but the embedding of config.json has only ${config.vocab} rows (vocab_size)`,
  )
}

/** A draft model's token ids are those of the model that it drafts for, one by one. */
const checkDraft = async (options: EngineOptions, tokenizer: Tokenizer): Promise<void> => {
  const { model, draftModel } = options
  if (draftModel === undefined) return
  const folder = await checkFolder(draftModel, 'draftModel')
  const draft = await loadTokenizer(folder)
  const wrong = (what: string) =>
    invalid(
      `draftModel ${draftModel}: ${what}; it can draft for ${model} only with the same token ids`,
    )
  const shown = (of: Tokenizer, id: number) => JSON.stringify(of.decode([id]))
  for (let id = 0; id < Math.min(draft.vocabSize, tokenizer.vocabSize); id++) {
    const isSame =
      Buffer.compare(draft.bytes(id), tokenizer.bytes(id)) === 0 &&
      draft.isSpecial(id) === tokenizer.isSpecial(id)
    if (!isSame) throw wrong(`token ${id} is ${shown(draft, id)}, expected ${shown(tokenizer, id)}`)
  }
  if (draft.vocabSize !== tokenizer.vocabSize)
    throw wrong(`its tokenizer has ${draft.vocabSize} ids, expected ${tokenizer.vocabSize}`)
}

/** What the engine is asked for, and whether a model of this plan has its weights in another form then. */
const checkedDtype = (options: EngineOptions, config: NativeConfig) => {
  const { dtype = 'auto', model } = options
  if (dtype === 'bf16' && config.quantization !== 'none') {
    throw new EngineFailure({
      code: 'unsupported',
      message: `${model}: its linear layers are stored as FP8 (${config.quantization}); dtype can be auto or fp8`,
    })
  }
  if (!['auto', 'bf16', 'fp8', 'int8', 'int4'].includes(dtype)) {
    throw invalid(`dtype is "${dtype}"; it can be auto, bf16, fp8, int8, int4`)
  }
  const native = dtype === 'auto' || dtype === 'bf16' ? ('stored' as const) : dtype
  const stored = config.quantization === 'none' ? config.dtype.toLowerCase() : 'fp8'
  // What is stored as FP8 or packed is not quantised again.
  const shown = ({ quantizes }: MemoryPlan) =>
    native !== 'stored' && stored !== 'fp8' && quantizes ? native : stored
  return { native, shown }
}

const tokenTable = (tokenizer: Tokenizer) => {
  const tokens = Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.bytes(id))
  let end = 0
  return {
    tokenBytes: Uint8Array.from(Buffer.concat(tokens)),
    tokenEnds: Uint32Array.from(tokens, (token) => {
      end += token.length
      return end
    }),
    tokenSpecial: Uint8Array.from(tokens, (_, id) => (tokenizer.isSpecial(id) ? 1 : 0)),
  }
}

const int32s = (field: string, values: ArrayLike<number>): Int32Array => {
  const result = Int32Array.from(values)
  for (let i = 0; i < result.length; i++) {
    if (result[i] !== values[i])
      throw invalid(`${field}[${i}] must be a token id, found ${values[i]}`)
  }
  return result
}

const seed64 = (seed: number | bigint | undefined): bigint => {
  if (seed === undefined) return crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n
  return BigInt.asUintN(64, BigInt(seed))
}

/** As output_text.h numbers them. */
const STOP_SCOPES = ['all', 'answer', 'afterThinking', 'afterBlock'] as const

const stopScopeOf = (scope: Sampling['stopScope'] = 'all'): number => {
  const at = STOP_SCOPES.indexOf(scope)
  if (at < 0) throw invalid(`sampling.stopScope must be one of ${STOP_SCOPES.join(', ')}`)
  return at
}

const nativeSampling = (
  sampling: Sampling,
  thinking: NativeThinking | undefined,
): NativeSampling => {
  const {
    stopTokenIds,
    allowedTokenIds,
    logprobIds,
    badWordIds,
    logitBias,
    seed,
    stopScope,
    thinkingOpen,
    mayThink,
    ...rest
  } = sampling
  return {
    ...rest,
    stopScope: stopScopeOf(stopScope),
    seed: seed64(seed),
    stopTokenIds: stopTokenIds && int32s('sampling.stopTokenIds', stopTokenIds),
    allowedTokenIds: allowedTokenIds && int32s('sampling.allowedTokenIds', allowedTokenIds),
    logprobIds: logprobIds && int32s('sampling.logprobIds', logprobIds),
    badWordIds: badWordIds?.map((ids, i) => int32s(`sampling.badWordIds[${i}]`, ids)),
    logitBiasIds: logitBias && int32s('sampling.logitBias', [...logitBias.keys()]),
    logitBias: logitBias && Float32Array.from(logitBias.values()),
    ...thinking,
  }
}

/** A push on one side, an async iterator on the other. */
const createDeltaQueue = (onLeave: () => void) => {
  const ready: Delta[] = []
  let ended = false
  const waiting: ((result: IteratorResult<Delta, undefined>) => void)[] = []
  const done = { done: true, value: undefined } as const
  const finish = () => {
    ended = true
    for (const resolve of waiting.splice(0)) resolve(done)
  }
  const iterator: AsyncIterableIterator<Delta> = {
    [Symbol.asyncIterator]: () => iterator,
    next: () => {
      const value = ready.shift()
      if (value) return Promise.resolve({ done: false, value })
      if (ended) return Promise.resolve(done)
      return new Promise((resolve) => waiting.push(resolve))
    },
    return: () => {
      if (!ended) onLeave()
      ready.length = 0
      finish()
      return Promise.resolve(done)
    },
  }
  return {
    iterator,
    push: (value: Delta) => {
      if (ended) return
      const resolve = waiting.shift()
      if (resolve) resolve({ done: false, value })
      else ready.push(value)
    },
    end: finish,
  }
}

/** Calls `abort` when the signal fires; returns how to stop listening. */
const onAbort = (signal: AbortSignal | undefined, abort: () => void): (() => void) => {
  if (!signal) return () => {}
  if (signal.aborted) abort()
  setMaxListeners(0, signal) // one signal may stop any number of requests
  signal.addEventListener('abort', abort, { once: true })
  return () => signal.removeEventListener('abort', abort)
}

/** What the engine says names its options as C++ does. */
const failureOf = ({ code, message }: EngineError): EngineFailure =>
  new EngineFailure({ code, message: withOptionNames(message, (option) => option) })

/** The options as the addon takes them, and nothing that is known before weights are read speaks against them. */
const checkedOptions = async (
  { onProgress: _, onPlan: __, ...options }: EngineOptions,
  tokenizer: Tokenizer,
) => {
  const addon = loadAddon()
  const { model, rewardRows = [] } = options
  const described = addon.modelInfo(model, rewardRows)
  if ('code' in described) throw failureOf(described)
  checkVocabulary(model, tokenizer, described.config)
  const dtype = checkedDtype(options, described.config)
  await checkDraft(options, tokenizer)
  const stopIds = stopNames.flatMap((name) => tokenizer.special.get(name) ?? [])
  const given = {
    ...options,
    dtype: dtype.native,
    rewardRows: Int32Array.from(rewardRows),
    stopIds: Int32Array.from(stopIds),
  }
  const refused = addon.checkEngine(given)
  if (refused !== undefined) throw failureOf(refused)
  return { given, shownDtype: dtype.shown, layout: described.layout }
}

const openNative = async (
  options: EngineOptions,
  { given, shownDtype, layout }: Awaited<ReturnType<typeof checkedOptions>>,
  tokenizer: Tokenizer,
) => {
  const addon = loadAddon()
  const { onProgress, onPlan } = options
  let fault: { readonly error: unknown } | undefined
  const listen = (call: () => void): void => {
    try {
      call()
    } catch (error) {
      fault ??= { error }
    }
  }
  const dispatcher = createDispatcher(addon.packedNames)
  const native = await addon
    .createEngine(
      { ...given, ...tokenTable(tokenizer) },
      {
        onProgress: (phase, bytesDone, bytesTotal) =>
          listen(() => onProgress?.({ phase, bytesDone, bytesTotal })),
        onPlan: (plan) => listen(() => onPlan?.(plan)),
        onDeltas: dispatcher.onDeltas,
      },
    )
    .catch((error) => {
      throw error instanceof Error ? error : failureOf(error)
    })
  if (fault !== undefined) {
    await native.close()
    throw fault.error
  }
  const info = native.info()
  const shown = shownDtype(info.plan)
  const print = fingerprint(layout, shown)
  return { native, dispatcher, info: describe(info, options, shown, print) }
}

const describe = (
  info: NativeInfo,
  { model, draftModel = '' }: EngineOptions,
  dtype: string,
  fingerprint: string,
): EngineInfo => {
  const { config, draft } = info
  return {
    model,
    architecture: config.architecture,
    device: info.device,
    deviceNote: info.deviceNote,
    dtype,
    maxModelLen: info.maxModelLen,
    maxNumSeqs: info.maxNumSeqs,
    places: info.places,
    maxNumBatchedTokens: info.maxNumBatchedTokens,
    vocabSize: config.vocab,
    bosTokenId: config.bosId < 0 ? null : config.bosId,
    eosTokenIds: config.eosIds,
    generation: config.generation,
    rewardLabels: config.reward === 'none' ? null : config.rewardLabels,
    rewardKind: config.reward,
    rewardOutputs: config.rewardOutputs,
    plan: info.plan,
    load: info.load,
    ranks: info.ranks,
    draft: draft && {
      model: draftModel,
      architecture: draft.config.architecture,
      tokens: draft.tokens,
      rows: draft.rows,
      load: draft.load,
    },
    fingerprint,
  }
}

type Send = (
  kind: 'generate' | 'score',
  request: GenerateRequest,
  onDelta: (delta: Delta) => void,
) => RequestHandle

const generate =
  (send: Send): Engine['generate'] =>
  (request, options = {}) => {
    checkBeside(options)
    const { signal } = options
    let live = request?.n ?? 1
    const queue = createDeltaQueue(() => leave())
    const handle = send('generate', request, (delta) => {
      queue.push(delta)
      if (delta.finish && --live === 0) {
        stopListening()
        queue.end()
      }
    })
    const stopListening = onAbort(signal, handle.abort)
    const leave = () => {
      stopListening()
      handle.abort()
    }
    return queue.iterator
  }

const score =
  (send: Send): Engine['score'] =>
  (request, options = {}) =>
    new Promise((resolve, reject) => {
      checkBeside(options)
      const { signal } = options
      const aborted = { code: 'aborted', message: 'the request was aborted' } as const
      const handle = send('score', request, (delta) => {
        if (!delta.finish) return
        stopListening()
        if (delta.scores && delta.timings) {
          resolve({ scores: delta.scores, timings: delta.timings })
        } else {
          reject(new EngineFailure(delta.error ?? aborted))
        }
      })
      const stopListening = onAbort(signal, () => {
        handle.abort()
        reject(new EngineFailure(aborted))
      })
    })

type Opened = Awaited<ReturnType<typeof openNative>>

/** What stops the steps for a while. */
const stopping = (
  native: Opened['native'],
  dispatcher: Opened['dispatcher'],
): Pick<Engine, 'pause' | 'resume' | 'isPaused' | 'goesOn' | 'drain' | 'reload'> => {
  /** What was asked for by pause() and resume(). */
  let wanted: 'none' | 'later' | 'all' = 'none'
  /** Of the last pause that waits: those that go on to their end. Who has come since is held. */
  let ending: readonly number[] = []
  let began = 0
  /** Loads of other weights under way: a stop of their own, which is no pause. */
  let loads = 0
  const want = (next: typeof wanted) => {
    if (next === 'later' && wanted !== 'later') {
      ending = dispatcher.live()
      began = performance.now()
    }
    wanted = next
    native.pause(next)
  }
  const abortAll = async (ids: readonly number[]) => {
    for (const id of ids) native.abort(id)
    await dispatcher.ended(ids)
  }
  return {
    pause: async (mode) => {
      checkPauseMode(mode)
      want(mode === 'wait' ? 'later' : 'all')
      if (mode === 'abort') await abortAll(dispatcher.live())
      if (mode === 'wait') await dispatcher.ended(ending)
    },
    resume: () => want('none'),
    isPaused: () => wanted !== 'none',
    goesOn: (since) => wanted === 'later' && since < began,
    drain: () => {
      wanted = 'none'
      native.drain()
    },
    reload: async (folder, options = {}) => {
      checkText('folder', folder)
      checkReload(options)
      const old = dispatcher.live()
      loads++
      native.stopSteps(true)
      try {
        const found = await checkFolder(folder, 'folder')
        await native.reload(found).catch((error) => {
          throw error instanceof Error ? error : new EngineFailure(error)
        })
        if (options.abort) await abortAll(old)
      } finally {
        loads--
        // No token of the new weights comes before who waits for this promise has gone on.
        native.stopSteps(loads > 0)
      }
    },
  }
}

const run = (
  { native, dispatcher, info }: Opened,
  words: Tokenizer,
  thinkClose: Int32Array,
): Engine => {
  const grammars = createGrammarCache((text) => native.compileGrammar(text))
  const control = stopping(native, dispatcher)
  let nextId = 1
  let closing: Promise<void> | undefined

  const thinking = (sampling: Sampling, request: GenerateRequest): NativeThinking | undefined => {
    const { thinkingBudget, thinkingOpen, mayThink = thinkingBudget !== undefined } = sampling
    if (thinkingBudget === undefined && request.grammar === undefined) return undefined
    const ends = () => {
      const text = words.decode(request.promptTokenIds)
      return text.lastIndexOf(thinkBegin) > text.lastIndexOf(thinkEnd)
    }
    const thinkOpen = thinkingOpen ?? ends()
    if (thinkingBudget === undefined && !thinkOpen && !mayThink) return undefined
    return { thinkOpen, thinkBegin, thinkEnd, thinkClose }
  }

  const send: Send = (kind, request, onDelta) => {
    checkRequest(kind, request)
    const { promptTokenIds, sampling = {}, n = 1, since, ...rest } = request
    const id = nextId++
    const error = native.submit({
      ...rest,
      n,
      id,
      kind,
      goesOn: since !== undefined && control.goesOn(since),
      prompt: int32s('promptTokenIds', promptTokenIds),
      sampling:
        kind === 'generate' ? nativeSampling(sampling, thinking(sampling, request)) : undefined,
    })
    if (error) throw new EngineFailure(error)
    // Deltas come through the event loop: none can be lost before this.
    dispatcher.add(native, id, n, sampling.stop ?? [], onDelta)
    return { id, abort: () => native.abort(id) }
  }

  return {
    info,
    submit: (request, onDelta) => {
      checkCallback('onDelta', onDelta)
      return send('generate', request, onDelta)
    },
    generate: generate(send),
    score: score(send),
    compileGrammar: (text) => {
      checkText('text', text)
      return grammars.get(text)
    },
    stats: () => native.stats(),
    isFull: () => native.isFull(),
    ...control,
    close: () => {
      closing ??= native.close()
      return closing
    },
  }
}

/** What there is to do once all is checked that can be before weights are read: load them. As openEngine(). */
export const prepareEngine = async (
  options: EngineOptions,
  tokenizer?: Tokenizer,
): Promise<() => Promise<Engine>> => {
  checkOptions(options)
  const folder = await checkFolder(options.model)
  const words = tokenizer ?? (await loadTokenizer(folder))
  const checked = await checkedOptions(options, words)
  return async () => {
    const thinkClose = Int32Array.from(await words.encode(thinkCloseText, { special: true }))
    return run(await openNative(options, checked, words), words, thinkClose)
  }
}

/**
 * Loads a checkpoint. Rejects with an EngineFailure whose message names file, field, what was found
 * and what was expected. `tokenizer`: when the caller has loaded it already.
 */
export const openEngine = async (options: EngineOptions, tokenizer?: Tokenizer): Promise<Engine> =>
  (await prepareEngine(options, tokenizer))()
