// A server's life: listen at once, load the models, serve, drain, stop.

import { readFileSync, statSync } from 'node:fs'
import { createSecureContext, type SecureContextOptions } from 'node:tls'
import type { Logger } from 'pino'
import type { z } from 'zod'
import type { Phase } from './api/admission.js'
import { createAsk, inBackgroundOf, linesAtOnce } from './api/batches/ask.js'
import { CONNECTED_MS, drainServer } from './api/drain.js'
import { ChatRequest, CompletionRequest } from './api/openai/schema.js'
import type { Server, ServerConfig } from './api/server.js'
import { watchStalls } from './api/stall.js'
import { UNSERVED, UNSERVED_OF_COMPLETIONS } from './api/unserved-fields.js'
import { batchable, createApp, routes } from './app.js'
import { type Batches, openBatches } from './batch/batches.js'
import { checkBody } from './check.js'
import { about, fileError, messageOf } from './failure.js'
import { soleOwner } from './http/auth.js'
import { BODY_TIME, createBodies } from './http/body.js'
import { isLoopback } from './http/door.js'
import { type Listening, listen } from './http/listen.js'
import { createMetrics, type Metrics } from './metrics/metrics.js'
import { openTraces, type Traces, tracesProblem, wantsTraces } from './metrics/traces.js'
import { findReceipt, receiptText } from './model/accuracy.js'
import { embeddedModels } from './model/embedded.js'
import { fetchModel } from './model/fetch.js'
import { type PreparedModel, prepareModel } from './model/open.js'
import type { ServedModel } from './model/served-model.js'
import { widenedTexts } from './model/widened.js'
import type { Settings } from './settings/options.js'
import { ConfigError, type ModelSettings, modelSettings } from './settings/read.js'
import type { Progress } from './terminal.js'
import { VERSION } from './version.js'

export type Serving = {
  readonly url: string
  /** Resolves when every model is loaded; rejects when one cannot be. */
  readonly ready: Promise<readonly ServedModel[]>
  /** Readiness off; after the drain delay new connections are refused, so that a proxy tries another
   * server; running requests finish until the drain timeout, then everything is freed. Rejects, with all
   * else done, when a device or a rank hangs, or a load of other weights takes long: its memory cannot be freed. */
  readonly drain: () => Promise<void>
}

type ServeOptions = {
  readonly settings: Settings
  readonly log: Logger
  readonly progress: Progress
  /** For people. */
  readonly tell: (text: string) => void
  /** Who asks is this process alone, and is done when it drains. */
  readonly isOwn?: boolean
  /** Throws what is wrong with the names that the models will have, before any is loaded. */
  readonly checkNames?: (names: readonly string[]) => void
}

const serverConfig = (settings: Settings): ServerConfig => ({
  host: settings.host,
  allowedHosts: settings.allowed_hosts,
  apiKeys: settings.api_key,
  openMetrics: settings.open_metrics,
  allowedOrigins: settings.allowed_origins,
  bodyLimit: settings.body_limit,
  strictParams: settings.strict_params,
  allowPause: settings.allow_pause,
  reloadFrom: settings.reload_from,
  logprobsMode: settings.logprobs_mode,
  defaultThinking: settings.default_thinking,
  requestTimeout: settings.request_timeout,
  writeIdleTimeout: settings.write_idle_timeout,
  pingInterval: settings.ping_interval,
  stallTimeout: settings.stall_timeout,
})

/** What is wrong with it is told now, not to the first who trains. */
const checkReloadFrom = ({ reload_from: path }: Settings): void => {
  if (path === undefined) return
  const found = statSync(path, { throwIfNoEntry: false })
  if (!found?.isDirectory())
    throw new ConfigError(
      `--reload-from ${path}: ${found ? 'it is no folder' : 'there is no such folder'}`,
    )
}

/** What `npm start` serves. */
const embeddedSettings = (settings: Settings): readonly ModelSettings[] => {
  const list = embeddedModels()
  if (list.length === 0)
    throw new ConfigError('This package carries no models: name one with --model FOLDER.')
  if (settings.served_model_name.length > list.length)
    throw new ConfigError(
      `--served-model-name: ${settings.served_model_name.length} names for the ${list.length} embedded models.`,
    )
  return list.map(({ folder, memory }, i) => ({
    ...settings,
    model: folder,
    names: settings.served_model_name.slice(i, i + 1),
    kv_cache_memory: settings.kv_cache_memory ?? memory,
  }))
}

const wantedModels = (settings: Settings): readonly ModelSettings[] => {
  const listed = modelSettings(settings)
  return listed.length > 0 ? listed : embeddedSettings(settings)
}

const checkNames = (names: readonly string[]): void => {
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined)
    throw new ConfigError(`Two models are called '${twice}': give them --served-model-name.`)
}

const pem = (flag: '--tls-cert' | '--tls-key', path: string): string => {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError(`${flag} ${messageOf(fileError(error, path, 'read'))}`)
  }
  // Node takes an empty text for none.
  if (text.trim() === '') throw new ConfigError(`${flag} ${path} is empty`)
  return text
}

/** Checked here, where it is known which file was meant. */
const tlsOf = ({ tls_cert: cert, tls_key: key }: Settings) => {
  if (cert === undefined || key === undefined) return {}
  const tls = { cert: pem('--tls-cert', cert), key: pem('--tls-key', key) }
  const check = (what: string, options: SecureContextOptions) => {
    try {
      createSecureContext(options)
    } catch (error) {
      throw new ConfigError(`${what}: ${messageOf(error)}`)
    }
  }
  check(`--tls-cert ${cert} is no certificate in PEM form`, { cert: tls.cert })
  check(`--tls-key ${key} is no private key in PEM form without a passphrase`, { key: tls.key })
  check(`--tls-key ${key} does not belong to --tls-cert ${cert}`, tls)
  return { tls }
}

/** What --data-dir holds. */
const openData = async (
  settings: Settings,
  log: Logger,
  metrics: Metrics,
): Promise<Batches | undefined> => {
  const { data_dir: folder, file_limit: fileLimit, body_limit: bodyLimit } = settings
  if (folder === undefined) return undefined
  try {
    const batches = await openBatches({
      ...{ folder, fileLimit, bodyLimit, log },
      soleOwner: soleOwner(settings.api_key),
    })
    metrics.addBatches(batches.progress)
    return batches
  } catch (error) {
    throw new ConfigError(`--data-dir: ${messageOf(error)}`)
  }
}

const openTelemetry = async (settings: Settings, log: Logger): Promise<Traces | undefined> => {
  const wanted = { endpoint: settings.otlp_traces_endpoint, env: process.env }
  if (!wantsTraces(wanted)) return undefined
  const problem = tracesProblem(wanted)
  if (problem !== undefined) throw new ConfigError(problem)
  return await openTraces({ ...wanted, version: VERSION, log })
}

const REQUESTS = {
  '/v1/chat/completions': { schema: ChatRequest, unserved: UNSERVED },
  '/v1/completions': { schema: CompletionRequest, unserved: UNSERVED_OF_COMPLETIONS },
} as const

/** Throws what is refused of a request whatever the models are. */
export const checkRequest = (path: string, body: object): void => {
  const { schema, unserved } = REQUESTS[path as keyof typeof REQUESTS]
  checkBody<z.ZodObject>(schema, body, { isStrict: false, unserved })
}

/** From now on lines are asked, where there is a --data-dir. */
export const beginBatches = (server: Server): void => {
  const background = inBackgroundOf(server)
  server.batches?.begin({
    ask: createAsk(background, batchable(routes(background))),
    atOnce: linesAtOnce(server),
  })
}

/** Why the socket cannot be had, by the setting that would change it. */
const listenError = (error: unknown, { host, port }: Settings): unknown => {
  if (!(error instanceof Error) || !('code' in error)) return error
  const why = {
    EADDRINUSE: `--port ${port}: the port is in use on ${host}: another server listens there; choose another, or 0 for any free one`,
    EACCES: `--port ${port}: not allowed to listen there: ports below 1024 need a privilege`,
    EADDRNOTAVAIL: `--host ${host}: no address of this machine; 0.0.0.0 is all of them`,
    ENOTFOUND: `--host ${host}: no such name`,
    EAI_AGAIN: `--host ${host}: the name cannot be looked up`,
  }[String(error.code)]
  return why === undefined ? error : new ConfigError(`${why} (${error.code})`)
}

const openSocket = async (server: Server, settings: Settings): Promise<Listening> => {
  try {
    return await listen({
      fetch: createApp(server).fetch,
      log: server.log,
      host: settings.host,
      port: settings.port,
      writeIdle: server.config.writeIdleTimeout * 1000,
      bodyTime: BODY_TIME,
      ...tlsOf(settings),
    })
  } catch (error) {
    await server.batches?.close()
    throw listenError(error, settings)
  }
}

/** What a checkpoint has and its model does not is named: it may be what somebody trained. */
const unusedText = (name: string, tensors: readonly string[]): string => {
  const shown = tensors.slice(0, 10).join(', ')
  return `${name}: ${tensors.length} tensors of the checkpoint are not used: ${shown}${tensors.length > 10 ? ', ...' : ''}`
}

type Loading = Pick<ServeOptions, 'settings' | 'log' | 'progress' | 'tell'> & {
  readonly metrics: Metrics
  /** What is being done with which model. */
  readonly say: (detail: string) => void
}

type Ranks = ServedModel['engine']['info']['ranks']

const seconds = (value: number): string => `${value.toFixed(1)} s`

/** What loading took: a phase is over when the slowest rank is done with it. */
const loadText = (name: string, ranks: Ranks): string => {
  const slowest = (phase: 'openSeconds' | 'packSeconds' | 'prepareSeconds') =>
    Math.max(...ranks.map(({ load }) => load[phase]))
  const gigabytes = (ranks[0]?.load.bytes ?? 0) / 1e9
  const pack = slowest('packSeconds')
  const rate = pack > 0 ? `, ${(gigabytes / pack).toFixed(2)} GB/s` : ''
  return (
    `${name}: loaded: open ${seconds(slowest('openSeconds'))}; ` +
    `read and pack ${gigabytes.toFixed(2)} GB, ${seconds(pack)}${rate}; ` +
    `prepare ${seconds(slowest('prepareSeconds'))}`
  )
}

/** What loading took on one of several ranks. */
const rankText = (name: string, rank: number, { device, plan, load }: Ranks[number]): string => {
  const parts = `open ${seconds(load.openSeconds)}, pack ${seconds(load.packSeconds)}, prepare ${seconds(load.prepareSeconds)}`
  return `${name}: rank ${rank}, ${device}: ${(plan.weights / 2 ** 20).toFixed(1)} MiB of weights; ${parts}`
}

const nameOf = ({ names: [name], model }: ModelSettings): string => name ?? model

/** `left`: models still to load, this one among them: those that come later need their share too. */
const prepareOne = async (
  one: ModelSettings,
  left: number,
  { log, progress, tell, metrics, say }: Loading,
): Promise<{ readonly prepared: PreparedModel; readonly folder: string }> => {
  const name = nameOf(one)
  say(`${name}: finding its files`)
  const folder = await fetchModel(one.model, process.env, progress, tell)
  const draft = one.draft_model
  if (draft !== undefined) say(`${name}: finding the files of its draft model`)
  const draftFolder =
    draft === undefined
      ? undefined
      : await about('--draft-model', fetchModel(draft, process.env, progress, tell))
  say(`${name}: reading its tokenizer`)
  const prepared = await prepareModel({
    settings: one,
    folder,
    draftFolder,
    utilization: one.gpu_memory_utilization / left,
    metrics,
    hooks: {
      onProgress: ({ phase: part, bytesDone, bytesTotal }) => {
        say(`${name}: ${part}, ${bytesDone} of ${bytesTotal} bytes`)
        progress.update(`${name}: ${part}`, bytesDone, bytesTotal)
      },
      onPlan: (plan) => {
        progress.finish()
        tell(
          `${name}: ${one.model}${one.tensor_parallel_size > 1 ? `, on each of ${one.tensor_parallel_size} ranks` : ''}\n${plan.table}`,
        )
        for (const text of widenedTexts(plan.widenedTensors)) log.warn(`${name}: ${text}`)
        if (plan.unusedTensors.length > 0) log.warn(unusedText(name, plan.unusedTensors))
      },
      warn: (message) => {
        progress.finish()
        log.warn(message)
      },
    },
  })
  return { prepared, folder }
}

const loadOne = async (
  one: ModelSettings,
  { prepared, folder }: Awaited<ReturnType<typeof prepareOne>>,
  { settings, progress, tell }: Loading,
): Promise<ServedModel> => {
  const name = nameOf(one)
  const model = await prepared.load()
  progress.finish()
  if (settings.reload_from !== undefined) model.weights.version = 'default'
  const { ranks, device, deviceNote, fingerprint, draft: drafts } = model.engine.info
  tell(`${name}: ${device}: ${deviceNote}`)
  const receipt = await findReceipt(folder, { ...one, device, fingerprint })
  if (receipt !== undefined)
    tell(`${name}: check measured on ${receipt.measured.slice(0, 10)}: ${receiptText(receipt)}`)
  if (drafts)
    tell(
      `${name}: ${one.draft_model} guesses ${drafts.tokens} tokens at most, in steps of ${drafts.rows} rows`,
    )
  tell(loadText(name, ranks))
  if (ranks.length > 1) for (const [rank, one] of ranks.entries()) tell(rankText(name, rank, one))
  return model
}

/** All or none: what is loaded when another one fails is closed again. Nothing is loaded while there is one of which
 * it is known that it cannot be. */
const loadAll = async (
  wanted: readonly ModelSettings[],
  checkWanted: (names: readonly string[]) => void,
  loading: Loading,
): Promise<readonly ServedModel[]> => {
  const loaded: ServedModel[] = []
  try {
    const all: [ModelSettings, Awaited<ReturnType<typeof prepareOne>>][] = []
    for (const [i, one] of wanted.entries())
      all.push([one, await prepareOne(one, wanted.length - i, loading)])
    const names = all.flatMap(([, { prepared }]) => [prepared.id, ...prepared.aliases])
    checkNames(names)
    checkWanted(names)
    for (const [one, prepared] of all) loaded.push(await loadOne(one, prepared, loading))
    return loaded
  } catch (error) {
    await Promise.all(loaded.map((model) => model.engine.close()))
    throw error
  } finally {
    loading.progress.finish()
  }
}

const checkWhoMay = (settings: ServeOptions['settings'], log: ServeOptions['log']) => {
  checkReloadFrom(settings)
  if (settings.api_key.length === 0 && !isLoopback(settings.host))
    log.warn(`anyone who reaches ${settings.host} can use this server: no --api-key is set`)
}

export const startServer = async (options: ServeOptions): Promise<Serving> => {
  const { settings, log } = options
  const wanted = wantedModels(settings)
  checkWhoMay(settings, log)
  let phase: Phase = { name: 'loading', detail: 'starting' }
  let models: readonly ServedModel[] = []
  /** A server that drains meanwhile stays so. */
  const fromLoading = (next: Phase) => {
    if (phase.name === 'loading') phase = next
  }
  const metrics = createMetrics()
  const traces = await openTelemetry(settings, log)
  const batches = await openData(settings, log, metrics)
  const server: Server = {
    config: serverConfig(settings),
    log,
    metrics,
    traces,
    version: VERSION,
    bodies: createBodies(settings.body_limit, BODY_TIME),
    batches,
    live: new Set(),
    phase: () => phase,
    models: () => models,
  }
  const listening = await openSocket(server, settings)

  const stopWatching = watchStalls(server)
  const load = async () => {
    const say = (detail: string) => fromLoading({ name: 'loading', detail })
    try {
      models = await loadAll(wanted, options.checkNames ?? (() => {}), { ...options, metrics, say })
    } catch (error) {
      fromLoading({ name: 'failed', detail: messageOf(error) })
      throw error
    }
    fromLoading({ name: 'ready' })
    beginBatches(server)
    return models
  }

  const drain = async () => {
    const setPhase = (next: Phase) => {
      phase = next
    }
    const { drain_delay: delay, drain_timeout: timeout } = settings
    const connected = options.isOwn ? 0 : CONNECTED_MS
    const leaving = { listening, setPhase, delay, timeout, connected }
    await drainServer(server, leaving).finally(stopWatching)
  }

  return { url: listening.url, ready: load(), drain }
}
