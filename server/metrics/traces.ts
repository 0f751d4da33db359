// Traces for OpenTelemetry: a request's span with what its engines did below it, made when it has ended from
// what its log has. Sizes, times and settings alone, never content.

import type { Attributes, Context, DiagLogger, TextMapGetter, Tracer } from '@opentelemetry/api'
import type { Logger } from 'pino'
import type { EngineWork, RequestLog } from '../log.js'

/** An HTTP request that has ended. */
type EndedRequest = {
  readonly requestId: string
  readonly method: string
  /** As routes are written, such as /v1/models/:id; undefined: there is none. */
  readonly route: string | undefined
  readonly path: string
  /** 499: its client left. */
  readonly status: number
  /** On the clock of performance.now(). */
  readonly since: number
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly record: RequestLog
}

export type Traces = {
  /** The id of its trace; undefined where it is not sampled. */
  readonly requestDone: (request: EndedRequest) => string | undefined
  /** Sends what is left, for a few seconds at most. */
  readonly close: () => Promise<void>
}

type TraceOptions = {
  /** Where spans are posted; undefined: where the standard variables say. */
  readonly endpoint: string | undefined
  readonly env: NodeJS.ProcessEnv
  readonly version: string
  readonly log: Pick<Logger, 'warn'>
}

const CLOSE_MS = 3000
const WARN_EVERY_MS = 60_000
const PROTOCOL = 'http/protobuf'

/** Why the standard variables cannot be followed; undefined: they can. */
export const tracesProblem = ({ env }: Pick<TraceOptions, 'env'>): string | undefined => {
  for (const name of ['OTEL_EXPORTER_OTLP_TRACES_PROTOCOL', 'OTEL_EXPORTER_OTLP_PROTOCOL']) {
    const { [name]: given = '' } = env
    if (given !== '' && given !== PROTOCOL)
      return `${name} is '${given}': this server sends traces as ${PROTOCOL} alone, which collectors take on port 4318`
  }
  for (const name of ['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', 'OTEL_EXPORTER_OTLP_ENDPOINT']) {
    const { [name]: given = '' } = env
    if (given !== '' && !/^https?:\/\/[^/]/.test(given))
      return `${name} is '${given}', which is no URL such as http://localhost:4318`
  }
  const { OTEL_TRACES_EXPORTER: exporter = '' } = env
  if (!['', 'otlp', 'none'].includes(exporter))
    return `OTEL_TRACES_EXPORTER is '${exporter}': it can be otlp or none`
  return undefined
}

/** Whether a collector is named, and nothing says that it shall not be used. */
export const wantsTraces = ({ endpoint, env }: Pick<TraceOptions, 'endpoint' | 'env'>): boolean => {
  const given =
    endpoint || env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT || env.OTEL_EXPORTER_OTLP_ENDPOINT
  const isOff = env.OTEL_SDK_DISABLED?.toLowerCase() === 'true'
  return Boolean(given) && !isOff && env.OTEL_TRACES_EXPORTER !== 'none'
}

/** Of the semantic conventions for generative AI; those without a word for it get a word of ours. */
const operationOf = ({ kind }: EngineWork, route: string | undefined): string => {
  if (kind === 'score') return 'score'
  return route === '/v1/completions' ? 'text_completion' : 'chat'
}

const workAttributes = (work: EngineWork, operation: string, { line }: RequestLog): Attributes => {
  const { sampling = {}, choices, finishes } = work
  const attributes: Record<string, Attributes[string]> = {
    'gen_ai.operation.name': operation,
    'gen_ai.provider.name': 'nemotron-server',
    'gen_ai.request.model': work.model,
    'gen_ai.response.model': work.model,
    'gen_ai.request.max_tokens': sampling.maxTokens,
    'gen_ai.request.temperature': sampling.temperature,
    'gen_ai.request.top_p': sampling.topP,
    'gen_ai.request.top_k': sampling.topK,
    'gen_ai.request.choice.count': choices > 1 ? choices : undefined,
    'gen_ai.usage.input_tokens': work.promptTokens,
    'gen_ai.usage.output_tokens': work.completionTokens,
    'gen_ai.usage.cache_read.input_tokens': work.cachedTokens,
    'gen_ai.response.finish_reasons': finishes.length > 0 ? [...finishes] : undefined,
  }
  if (typeof line.stream === 'boolean') attributes['gen_ai.request.stream'] = line.stream
  if (line.stream === true && typeof line.ttft_s === 'number')
    attributes['gen_ai.response.time_to_first_chunk'] = line.ttft_s
  return attributes
}

/** performance.now() to milliseconds since 1970. */
const wallTime = (at: number): number => performance.timeOrigin + at

/** Queue, prefill and decode, one after another. */
const addStages = (tracer: Tracer, { stages }: EngineWork, parent: Context): void => {
  if (stages === undefined) return
  let at = stages.startedAt
  for (const [name, seconds] of [
    ['queue', stages.queueSeconds],
    ['prefill', stages.prefillSeconds],
    ['decode', stages.decodeSeconds],
  ] as const) {
    const startTime = wallTime(at)
    at += seconds * 1000
    tracer.startSpan(name, { startTime }, parent).end(wallTime(at))
  }
}

/** What an operator would look for; undefined: it went well. */
const errorType = ({ status, record: { line } }: EndedRequest): string | undefined => {
  if (typeof line.error === 'string') return line.error
  if (status === 499 || line.gone !== undefined) return 'client_closed_request'
  return status >= 400 ? String(status) : undefined
}

const httpAttributes = (request: EndedRequest): Attributes => ({
  'http.request.method': request.method,
  'http.route': request.route,
  'url.path': request.path,
  'http.response.status_code': request.status,
  'error.type': errorType(request),
  'nemotron.request_id': request.requestId,
})

/** What the packages have to say, in our log: a collector that is away says so once a minute. */
const createDiagnosis = (log: TraceOptions['log']): DiagLogger => {
  let saidAt = Number.NEGATIVE_INFINITY
  const say = (message: string, ...more: readonly unknown[]) => {
    if (performance.now() - saidAt < WARN_EVERY_MS) return
    saidAt = performance.now()
    log.warn(`traces: ${[message, ...more.map(String)].join(' ')}`)
  }
  const nothing = () => {}
  return { error: say, warn: say, info: nothing, debug: nothing, verbose: nothing }
}

type Api = typeof import('@opentelemetry/api')

/** Headers as a propagator reads them. */
const HEADERS: TextMapGetter<EndedRequest['headers']> = {
  keys: (headers) => Object.keys(headers),
  get: (headers, name) => {
    const value = headers[name]
    return value === undefined || typeof value === 'string' ? value : [...value]
  },
}

/** The packages are loaded here: a server that sends no traces has none of them in memory. */
const openProvider = async (
  { endpoint, version, log }: TraceOptions,
  { diag, DiagLogLevel }: Api,
) => {
  const { OTLPTraceExporter } = await import('@opentelemetry/exporter-trace-otlp-proto')
  const { detectResources, defaultResource, envDetector, resourceFromAttributes } = await import(
    '@opentelemetry/resources'
  )
  const { BasicTracerProvider, BatchSpanProcessor } = await import('@opentelemetry/sdk-trace-base')
  const logLevel = DiagLogLevel.WARN
  diag.setLogger(createDiagnosis(log), { logLevel, suppressOverrideMessage: true })
  const ours = resourceFromAttributes({
    'service.name': 'nemotron-server',
    'service.version': version,
  })
  const given = detectResources({ detectors: [envDetector] })
  const exporter = new OTLPTraceExporter(endpoint === undefined ? {} : { url: endpoint })
  return new BasicTracerProvider({
    resource: defaultResource().merge(ours).merge(given),
    spanProcessors: [new BatchSpanProcessor(exporter)],
  })
}

export const openTraces = async (options: TraceOptions): Promise<Traces> => {
  const api = await import('@opentelemetry/api')
  const { W3CTraceContextPropagator } = await import('@opentelemetry/core')
  const { ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } = api
  const provider = await openProvider(options, api)
  const tracer = provider.getTracer('nemotron-server', options.version)
  const propagator = new W3CTraceContextPropagator()

  const addWork = (work: EngineWork, request: EndedRequest, parent: Context): void => {
    const operation = operationOf(work, request.route)
    const span = tracer.startSpan(
      `${operation} ${work.model}`,
      {
        kind: SpanKind.INTERNAL,
        startTime: wallTime(work.startedAt),
        attributes: workAttributes(work, operation, request.record),
      },
      parent,
    )
    addStages(tracer, work, trace.setSpan(parent, span))
    span.end(wallTime(work.endedAt))
  }

  return {
    requestDone: (request) => {
      const { method, route, status, since, headers, record } = request
      const given = propagator.extract(ROOT_CONTEXT, headers, HEADERS)
      const span = tracer.startSpan(
        route === undefined ? method : `${method} ${route}`,
        {
          kind: SpanKind.SERVER,
          startTime: wallTime(since),
          attributes: httpAttributes(request),
        },
        given,
      )
      if (!span.isRecording()) return undefined
      const within = trace.setSpan(given, span)
      for (const work of record.work) addWork(work, request, within)
      if (status >= 500 || record.isBroken) span.setStatus({ code: SpanStatusCode.ERROR })
      span.end()
      return span.spanContext().traceId
    },
    close: async () => {
      const left = new Promise<void>((resolve) => setTimeout(resolve, CLOSE_MS).unref())
      await Promise.race([provider.shutdown().catch(() => {}), left])
    },
  }
}
