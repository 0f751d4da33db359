// A server on a free port over scripted engines, and small clients to talk to it.

import { createConnection } from 'node:net'
import { Writable } from 'node:stream'
import { pino } from 'pino'
import type { Phase } from '../../server/api/admission.js'
import type { Server, ServerConfig } from '../../server/api/server.js'
import { createApp } from '../../server/app.js'
import { openBatches } from '../../server/batch/batches.js'
import type { GenerateRequest } from '../../server/engine/types.js'
import { soleOwner } from '../../server/http/auth.js'
import { BODY_TIME, createBodies } from '../../server/http/body.js'
import { type Listening, listen } from '../../server/http/listen.js'
import { createMetrics, type Metrics } from '../../server/metrics/metrics.js'
import { createGrammars } from '../../server/model/grammars.js'
import { createPace } from '../../server/model/pace.js'
import { findEntry, makeProfile } from '../../server/model/registry.js'
import { createReadout } from '../../server/model/reward-readout.js'
import type { ServedModel } from '../../server/model/served-model.js'
import { BUILT_IN } from '../../server/prompt/builtin-templates.js'
import { createTemplate } from '../../server/prompt/template.js'
import { beginBatches } from '../../server/server.js'
import type { RewardSettings } from '../../server/settings/reward.js'
import type { Tokenizer } from '../../server/tokenizer/types.js'
import { VERSION } from '../../server/version.js'
import { createByteTokenizer } from './byte-tokenizer.js'
import {
  createScriptedEngine,
  type ScriptedEngine,
  type ScriptedOptions,
} from './scripted-engine.js'

type RewardOptions = {
  readonly score?: (prompt: string) => readonly number[]
  /** A judge: what it writes. */
  readonly judge?: (prompt: string, request: GenerateRequest, choice: number) => string
  readonly labels?: readonly string[]
  readonly readout?: RewardSettings
}

export type HarnessOptions = ScriptedOptions & {
  readonly reward?: RewardOptions
  readonly id?: string
  readonly template?: string
  readonly config?: Partial<ServerConfig>
  readonly phase?: () => Phase
  readonly host?: string
  readonly tokenizer?: Tokenizer
  readonly dataDir?: string
  readonly fileLimit?: number
  readonly cache?: Parameters<Metrics['addModel']>[2]
  /** Milliseconds. */
  readonly bodyTime?: number
}

export type Harness = {
  readonly url: string
  readonly port: number
  readonly engine: ScriptedEngine
  readonly model: ServedModel
  readonly server: Server
  readonly listening: Listening
  /** Log lines of requests. */
  readonly lines: Record<string, unknown>[]
  readonly post: (
    path: string,
    body: unknown,
    headers?: Record<string, string>,
  ) => Promise<Response>
  readonly close: () => Promise<void>
}

const NAMES = { bos_token: '<|begin_of_text|>', eos_token: '<|eot_id|>' }

const CONFIG: ServerConfig = {
  host: '127.0.0.1',
  allowedHosts: [],
  apiKeys: [],
  openMetrics: false,
  allowedOrigins: ['*'],
  bodyLimit: 1 << 20,
  strictParams: false,
  allowPause: true,
  reloadFrom: undefined,
  logprobsMode: 'raw_logprobs',
  defaultThinking: false,
  requestTimeout: 0,
  writeIdleTimeout: 30,
  pingInterval: 15,
  stallTimeout: 30,
}

const CACHE = { kvCacheDtype: 'auto', prefixCache: true }
const JUDGE = { judge: { temperature: 0.6, top_p: 0.95, max_tokens: 64 } }

const readoutOf = (reward: RewardOptions | undefined): RewardSettings | undefined =>
  reward?.judge ? { ...JUDGE, ...reward.readout } : reward?.readout

const makeModel = (
  id: string,
  engine: ScriptedEngine,
  metrics: Metrics,
  options: HarnessOptions,
): ServedModel => {
  const tokenizer = options.tokenizer ?? createByteTokenizer()
  const source = options.template ?? BUILT_IN.nemotron_nano
  const profile = makeProfile(findEntry([id]), source)
  return {
    id,
    aliases: [],
    root: `/models/${id}`,
    created: 1_700_000_000,
    engine,
    tokenizer,
    tokenNames: NAMES,
    template: createTemplate({
      source,
      tokenizer,
      tokens: NAMES,
      reasoning: profile.reasoning !== undefined,
    }),
    profile,
    readout: createReadout(engine.info, readoutOf(options.reward) ?? profile.entry?.reward),
    compileForm: createGrammars(engine),
    pace: createPace(),
    weights: {
      version: options.config?.reloadFrom === undefined ? undefined : 'default',
      folder: undefined,
      change: undefined,
    },
    metrics: metrics.addModel(id, engine, options.cache ?? CACHE),
  }
}

/** A reward model beside the chat model, named tiny-reward. */
const rewardEngine = ({ score, judge, labels }: RewardOptions): ScriptedEngine => {
  if (judge !== undefined)
    return createScriptedEngine({
      answer: (...given) => ({ pieces: [judge(...given)] }),
      info: { model: 'tiny-reward', maxModelLen: 512 },
    })
  return createScriptedEngine({
    ...(score && { score }),
    info: {
      model: 'tiny-reward',
      rewardLabels: labels ?? ['reward'],
      rewardKind: labels ? 'classification' : 'lm_head_rows',
      rewardOutputs: labels?.length ?? 1,
      maxModelLen: 512,
    },
  })
}

export const startHarness = async (options: HarnessOptions = {}): Promise<Harness> => {
  const engine = createScriptedEngine(options)
  const metrics = createMetrics()
  const { reward, ...rest } = options
  const model = makeModel(options.id ?? 'tiny-reasoner', engine, metrics, rest)
  const models = [model]
  if (reward) {
    const { config = {}, tokenizer } = options
    const own = { reward, config, ...(tokenizer && { tokenizer }) }
    models.push(makeModel('tiny-reward', rewardEngine(reward), metrics, own))
  }
  const lines: Record<string, unknown>[] = []
  const sink = new Writable({
    write(chunk, _encoding, done) {
      lines.push(JSON.parse(String(chunk)))
      done()
    },
  })
  const log = pino({ level: 'debug' }, sink)
  const { dataDir: folder, fileLimit = 1 << 20, bodyTime = BODY_TIME } = options
  const bodyLimit = options.config?.bodyLimit ?? CONFIG.bodyLimit
  const batches =
    folder === undefined
      ? undefined
      : await openBatches({
          ...{ folder, fileLimit, bodyLimit, log },
          soleOwner: soleOwner(options.config?.apiKeys ?? []),
        })
  if (batches) metrics.addBatches(batches.progress)
  const server: Server = {
    config: { ...CONFIG, ...options.config },
    log,
    metrics,
    traces: undefined,
    version: VERSION,
    bodies: createBodies(bodyLimit, bodyTime),
    batches,
    live: new Set(),
    phase: options.phase ?? (() => ({ name: 'ready' })),
    models: () => models,
  }
  const listening = await listen({
    fetch: createApp(server).fetch,
    log: server.log,
    host: options.host ?? '127.0.0.1',
    port: 0,
    writeIdle: server.config.writeIdleTimeout * 1000,
    bodyTime,
  })
  beginBatches(server)
  return {
    url: listening.url,
    port: listening.port,
    ...{ engine, model, server, listening, lines },
    post: (path, body, headers = {}) =>
      fetch(`${listening.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    close: async () => {
      listening.cut()
      await listening.stop()
      await batches?.close()
      await engine.close()
    },
  }
}

export const chatBody = (more: Record<string, unknown> = {}) => ({
  model: 'tiny-reasoner',
  messages: [{ role: 'user', content: 'Hello' }],
  ...more,
})

/** The data of a stream, and what else was in it. */
export const readEvents = async (response: Response) => {
  const text = await response.text()
  const blocks = text.split('\n\n').filter((block) => block !== '')
  const data = blocks.filter((block) => block.startsWith('data: ')).map((block) => block.slice(6))
  return {
    text,
    done: data.at(-1) === '[DONE]',
    comments: blocks.filter((block) => block.startsWith(':')),
    chunks: data.filter((one) => one !== '[DONE]').map((one) => JSON.parse(one)),
  }
}

/** Sends bytes, collects what comes until the other side closes. */
export const rawRequest = (
  port: number,
  bytes: string | Buffer,
  /** What is sent a moment later. */
  later?: () => string,
): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = createConnection(port, '127.0.0.1', () => {
      socket.write(bytes)
      if (later) setTimeout(() => socket.write(later()), 100)
    })
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk
    })
    socket.on('close', () => resolve(text))
    socket.on('error', reject)
  })

export const until = async (
  condition: () => boolean | Promise<boolean>,
  what: string,
): Promise<void> => {
  // Long: on a busy machine a process alone may take ten seconds to start.
  for (let i = 0; i < 4000; i++) {
    if (await condition()) return
    await new Promise((done) => setTimeout(done, 10))
  }
  throw new Error(`never happened: ${what}`)
}

export const readAnswer = async (response: Response) => JSON.parse(await response.text())
