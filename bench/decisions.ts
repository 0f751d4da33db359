// npm run bench -- decisions: questions over one conversation, beside the conversation alone; and one more
// question about a conversation that is cached, beside a step of decoding. Over HTTP, in this process.

import { count, readFlags, text } from './flags.js'
import { machineLine } from './machine.js'
import { benchWords, benchWordsModel } from './random-model.js'
import { serveHere } from './serve-here.js'
import { shapeNamed, shapes } from './shapes.js'
import { compare, spread, times } from './stats.js'

const flags = {
  shape: text('NAME', `of: ${Object.keys(shapes).join(', ')}`, '160m'),
  threads: count('of the engine', 2),
  rounds: count('of each measurement', 5),
  prompt: count('tokens that the questions share', 2000),
  questions: count('asked at once', 10),
  cached: count('tokens before the one more question', 1000),
}

const GOAL = 1.3
const GOAL_CACHED = 1.5
const STEPS = 32

/** As many words are as many tokens. The same seed, the same words. */
const words = (length: number, seed: number): string =>
  Array.from({ length }, (_, i) => benchWords[(seed * 7919 + i * 31) % benchWords.length]).join(' ')

const question = (seed: number) => ({ type: 'predicate', instructions: words(8, seed) })

const poster = (url: string) => async (path: string, body: object) => {
  const start = performance.now()
  const response = await fetch(`${url}/v1/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'm', ...body }),
  })
  const answer = await response.text()
  if (response.status !== 200) throw new Error(`${path}: ${answer}`)
  const ms = performance.now() - start
  const { timings, usage } = JSON.parse(answer)
  const computed = usage.input_tokens - usage.input_tokens_details?.cached_tokens
  return { ms, computed, decode: 1000 * (timings?.decode_seconds ?? 0) }
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('decisions', 'questions beside a prompt and a step', flags, args)
  if (!values) return
  const shape = shapeNamed(values.shape)
  const serving = await serveHere(benchWordsModel(shape), {
    ...{ threads: values.threads, kv_cache_memory: '512MiB' },
    max_model_len: Math.min(shape.maxPosition, values.prompt + values.cached + 1024),
  })
  const post = poster(serving.url)
  const chat = (content: string, tokens: number) =>
    post('chat/completions', {
      messages: [{ role: 'user', content }],
      ...{ max_tokens: tokens, temperature: 0, ignore_eos: true, timings: true },
    })
  const decide = (input: string, questions: readonly object[]) =>
    post('decisions', { input, questions })
  let seed = 1
  const fresh = (length: number) => `${seed++} ${words(length, seed)}`
  await decide(fresh(64), [question(seed)])
  await chat(fresh(64), 2)
  const [asked, alone, more, step]: [number[], number[], number[], number[]] = [[], [], [], []]
  const rows: Record<'asked' | 'more', number[]> = { asked: [], more: [] }
  for (let round = 0; round < values.rounds; round++) {
    const many = Array.from({ length: values.questions }, () => question(seed++))
    const all = await decide(fresh(values.prompt), many)
    asked.push(all.ms)
    rows.asked.push(all.computed)
    alone.push((await chat(fresh(values.prompt), 1)).ms)
    const known = fresh(values.cached)
    await decide(known, [question(seed++)])
    const one = await decide(known, [question(seed++)])
    more.push(one.ms)
    rows.more.push(one.computed)
    step.push((await chat(known, 1 + STEPS)).decode / STEPS)
  }
  await serving.drain()
  const told = (what: string, ratio: ReturnType<typeof compare>, goal: number) =>
    `${what}, ${times(ratio)}, goal <= ${goal}x ${ratio.ratio <= goal ? 'met' : 'missed'}`
  console.log(
    [
      machineLine(),
      `${shape.name}, ${values.threads} threads`,
      told(
        `${values.questions} questions over ${values.prompt} tokens: ${spread(asked, 'ms')} for ` +
          `${rows.asked[0]} tokens that were not cached, ` +
          `the prompt alone: ${spread(alone, 'ms')}`,
        compare(asked, alone),
        GOAL,
      ),
      told(
        `one more question behind ${values.cached} cached tokens: ${spread(more, 'ms')} for ` +
          `${rows.more[0]}, ` +
          `a step of decoding: ${spread(step, 'ms')}`,
        compare(more, step),
        GOAL_CACHED,
      ),
    ].join('\n'),
  )
}
