// npm run bench -- grammar: what a constrained answer costs. First the grammar alone, at a vocabulary of
// 128,256 tokens (bench/grammar/ in C++). Then decoding with a schema beside decoding without, in process.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openEngine } from '../server/engine/engine.js'
import type { Engine, Grammar } from '../server/engine/types.js'
import { type AnswerForm, answerGrammar } from '../server/grammar/answer-grammar.js'
import { createGrammarTexts } from '../server/grammar/grammar-texts.js'
import { count, readFlags, text, toggle, UsageError } from './flags.js'
import { buildBench, type Clock, machineLine } from './machine.js'
import { benchModel, randomPrompt } from './random-model.js'
import { type Shape, shapeNamed, shapes } from './shapes.js'
import { compare, digits, median, spread, table } from './stats.js'

const flags = {
  shape: text('NAME', `of decoding: ${Object.keys(shapes).join(', ')}`, '160m'),
  threads: count('of the engine', 1),
  rounds: count('of each measurement', 5),
  tokens: count('of each answer', 128, 8),
  'cpu-clock': toggle(
    'decoding by processor time of this process, for a machine that is not quiet',
  ),
}

const FIELDS = 100
const PROMPT_TOKENS = 32
const KV_BYTES = 256 << 20
const PARAM = 'response_format'

const kinds: readonly object[] = [
  { type: 'string' },
  { type: 'integer', minimum: 0, maximum: 120 },
  { type: 'number' },
  { enum: ['red', 'green', 'blue'] },
  { type: 'string', maxLength: 1000 },
  { type: 'array', items: { type: 'string' }, maxItems: 10 },
  { type: 'string', format: 'date' },
  { type: 'object', properties: { x: { type: 'number' }, y: { type: ['boolean', 'null'] } } },
]

/** `name`: what its fields are called; another name is another grammar. */
const schemaOf = (name: string) => {
  const fields = Array.from({ length: FIELDS }, (_, i) => [`${name}_${i}`, kinds[i % kinds.length]])
  const properties = Object.fromEntries(fields)
  return { type: 'object', properties, required: Object.keys(properties) }
}
const formOf = (name: string) => ({ kind: 'schema', schema: schemaOf(name) }) as const

type Row = readonly [what: string, goal: string, figure: string, verdict: string]

/** Values under a bound; `value` is the one that counts. */
const boundRow = (what: string, value: number, goal: number, unit: string, more = ''): Row => [
  what,
  `<= ${goal} ${unit}`,
  `${digits(value)} ${unit}${more}`,
  value <= goal ? 'met' : 'missed',
]

type Times = {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}
/** What grammar_bench prints; times in microseconds. */
type Masks = {
  readonly tokens: number
  readonly nodes: number
  readonly grammar_bytes: number
  readonly memory_bytes: number
  readonly tree: Times
  readonly compile: Times
  readonly first: Times
  /** The slowest first visit of each text. */
  readonly slowest: Times
  readonly cached: Times
  readonly take: Times
  readonly thinking: Times
}

const measureMasks = (grammarText: string, rounds: number): Masks => {
  const program = buildBench('grammar_bench')
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-bench-'))
  try {
    const file = join(folder, 'grammar')
    writeFileSync(file, grammarText)
    return JSON.parse(execFileSync(program, [file, String(rounds)], { encoding: 'utf8' }))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Milliseconds. */
const timed = async (work: () => unknown): Promise<number> => {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/** The text of the schema from the thread that makes it, which stays for a while as in a server that is asked for
 * schemas, in milliseconds; then text and grammar of the same question again, in microseconds. */
const measureTexts = async (engine: Engine, rounds: number) => {
  const texts = createGrammarTexts()
  const ask = async (form: AnswerForm) => engine.compileGrammar(await texts(form, PARAM))
  const start = await timed(() => texts({ kind: 'object' }, PARAM))
  const [made, known]: [number[], number[]] = [[], []]
  for (let round = 0; round < rounds; round++) {
    const form = formOf(`made${round}`)
    made.push(await timed(() => texts(form, PARAM)))
    await ask(form)
    for (let i = 0; i < 20; i++) known.push(1000 * (await timed(() => ask(form))))
  }
  return { start, made, known }
}

const spreadText = ({ p50, p99, max }: Times, unit: string, per: number): string =>
  ` (p50 ${digits(p50 / per)}, p99 ${digits(p99 / per)}, max ${digits(max / per)} ${unit})`

const grammarRows = async (engine: Engine, rounds: number): Promise<readonly Row[]> => {
  const grammarText = answerGrammar(formOf('field_name'), PARAM)
  const masks = measureMasks(grammarText, rounds)
  const { start, made, known } = await measureTexts(engine, rounds)
  const { tree, compile, first, slowest, cached, take, thinking } = masks
  const size = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`
  const compiled = compile.p50 / 1000
  return [
    [
      'tree of the vocabulary, once',
      '',
      `${digits(tree.p50 / 1000)} ms`,
      `${masks.tokens} tokens, ${masks.nodes} nodes`,
    ],
    boundRow(
      `compile, ${FIELDS} fields`,
      median(made) + compiled,
      50,
      'ms',
      ` (text ${spread(made, 'ms')} + engine ${digits(compiled)} ms; the thread starts in ${digits(start)} ms)`,
    ),
    boundRow('the same again', median(known), 100, 'us', ` (max ${digits(Math.max(...known))})`),
    boundRow('mask, first visit, p99', first.p99 / 1000, 2, 'ms', spreadText(first, 'ms', 1000)),
    boundRow('the slowest of a text', slowest.p50 / 1000, 2, 'ms', spreadText(slowest, 'ms', 1000)),
    boundRow('mask, cached, p99', cached.p99, 50, 'us', spreadText(cached, 'us', 1)),
    [
      'mask of thinking, first of a request',
      '',
      `${digits(thinking.p50)} us${spreadText(thinking, 'us', 1)}`,
      '',
    ],
    [
      'taking a token in',
      '',
      `${digits(take.p50)} us${spreadText(take, 'us', 1)}`,
      `${first.count} states`,
    ],
    [
      'memory',
      '',
      size(masks.grammar_bytes + masks.memory_bytes),
      'of the grammar and what it found out',
    ],
  ]
}

type Player = { readonly grammar: Grammar | undefined; readonly seed: number }

const secondsOf = (clock: Clock): number => {
  if (clock === 'wall') return performance.now() / 1000
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

type Setup = {
  readonly engine: Engine
  readonly shape: Shape
  readonly rounds: number
  /** Of each answer. */
  readonly tokens: number
  readonly clock: Clock
}

/** Tokens a second of all of them together, while all are decoding. */
const decode = async (
  { engine, shape, tokens: maxTokens, clock }: Setup,
  players: readonly Player[],
): Promise<number> => {
  let [begun, tokens] = [0, 0]
  let [start, end] = [Number.NaN, Number.NaN]
  const play = async ({ grammar, seed }: Player): Promise<void> => {
    const promptTokenIds = randomPrompt(PROMPT_TOKENS, shape.vocab, seed)
    const sampling = { maxTokens, temperature: 1, seed, ignoreEos: true }
    let own = 0
    const request = { promptTokenIds, sampling, ...(grammar !== undefined && { grammar }) }
    for await (const { tokenIds, finish } of engine.generate(request)) {
      const isCounted = begun === players.length && Number.isNaN(end)
      if (own === 0) {
        begun++
        if (begun === players.length) start = secondsOf(clock)
      }
      own += tokenIds.length
      if (isCounted) tokens += tokenIds.length
      if (finish === undefined) continue
      if (finish !== 'length')
        throw new Error(`an answer ended with '${finish}' behind ${own} tokens, not ${maxTokens}`)
      if (Number.isNaN(end)) end = secondsOf(clock)
    }
  }
  await Promise.all(players.map(play))
  return tokens / (end - start)
}

/** Of `streams` sequences, every `nth` has a schema. New: nobody has asked for it; known: the answers of
 * the same round have been through it once. */
const decodeRows = async (
  setup: Setup,
  [streams, nth, goal]: readonly [streams: number, nth: number, goal: number],
): Promise<readonly Row[]> => {
  const rates: Record<'free' | 'new' | 'known', number[]> = { free: [], new: [], known: [] }
  const play = async (grammar: Grammar | undefined, seed: number): Promise<number> => {
    const players = Array.from({ length: streams }, (_, i) => ({
      grammar: i % nth === 0 ? grammar : undefined,
      seed: seed * streams + i + 1,
    }))
    return decode(setup, players)
  }
  await play(undefined, 0)
  for (let round = 1; round <= setup.rounds; round++) {
    const schema = formOf(`of_${streams}_in_${round}`)
    const grammar = await setup.engine.compileGrammar(answerGrammar(schema, PARAM))
    const free = async () => rates.free.push(await play(undefined, round))
    const constrained = async () => {
      rates.new.push(await play(grammar, round))
      rates.known.push(await play(grammar, round))
    }
    for (const turn of round % 2 === 0 ? [free, constrained] : [constrained, free]) await turn()
  }
  const share = (value: number): string => `${(100 * value).toFixed(1)} %`
  return (['new', 'known'] as const).map((kind): Row => {
    const { ratio, range } = compare(rates[kind], rates.free)
    return [
      `decode ${streams}, ${streams / nth} with a ${kind} schema`,
      `>= ${share(goal)}`,
      `${share(ratio)} (${range.map(share).join(' to ')}; ${digits(median(rates[kind]))} of ` +
        `${digits(median(rates.free))} tok/s)`,
      ratio >= goal ? 'met' : 'missed',
    ]
  })
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('grammar', 'compiling, masks and decoding with a schema', flags, args)
  if (!values) return
  const shape = shapeNamed(values.shape)
  const clock: Clock = values['cpu-clock'] ? 'cpu' : 'wall'
  if (clock === 'cpu' && values.threads !== 1)
    throw new UsageError('--cpu-clock needs --threads 1: threads that wait also take time')
  const engine = await openEngine({
    ...{ model: benchModel(shape), threads: values.threads, kvCacheMemory: KV_BYTES },
    prefixCache: false,
  })
  const setup: Setup = { engine, shape, clock, rounds: values.rounds, tokens: values.tokens }
  try {
    const rows: Row[] = [...(await grammarRows(engine, values.rounds))]
    rows.push(...(await decodeRows(setup, [1, 1, 0.97])))
    rows.push(...(await decodeRows(setup, [32, 2, 0.95])))
    console.log(machineLine())
    console.log(
      `decode: ${shape.name}, ${shape.vocab} ids, ${engine.info.device}, engine threads: ${values.threads}, ` +
        `${values.tokens} tokens behind ${PROMPT_TOKENS}, ${values.rounds} rounds, ` +
        `tokens per ${clock === 'cpu' ? 'CPU ' : ''}second`,
    )
    console.log(table([['what', 'goal', 'figure', ''], ...rows]))
  } finally {
    await engine.close()
  }
}
