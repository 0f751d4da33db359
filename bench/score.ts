// npm run bench -- score: what the data tool costs. A file of lines through `nemotron-server score` at a server,
// beside the same conversations scored in one batch by the server's engine itself, as `bench -- reward` does. The
// command is a process of its own and shares the machine with the server, as on a user's.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { encodeInputs, scoreBatch } from '../server/scoring/scoring.js'
import { packagePath } from '../server/version.js'
import { count, readFlags, text, UsageError } from './flags.js'
import { machineLine } from './machine.js'
import { benchModel } from './random-model.js'
import { serveHere } from './serve-here.js'
import { shapeNamed, shapes } from './shapes.js'
import { compare, median, percent } from './stats.js'

const flags = {
  shape: text('NAME', `of: ${Object.keys(shapes).join(', ')}`, '160m'),
  threads: count('of the engine', 2),
  rounds: count('of each measurement', 3),
  lines: count('of the file', 1000),
  prompt: count('characters of each prompt, about as many tokens', 200),
  answer: count('characters of each answer', 100),
  concurrency: count('lines at once', 32),
}

const GOAL = 0.95

type Line = { readonly prompt: string; readonly response: string }

/** Letters that no merge of the bench vocabulary joins, new ones for each line. */
const createLetters = () => {
  let state = 1
  return (length: number): string => {
    let word = ''
    for (let i = 0; i < length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      word += 'bcdfgjklmpqsuvwxyz'[state % 18]
    }
    return word
  }
}

const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

/** The command as people run it. */
const runScore = async (args: readonly string[]): Promise<void> => {
  const command = [packagePath('dist/server/cli.js'), 'score', ...args]
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (data) => {
    said += data
  })
  const [code] = await once(child, 'close')
  if (code !== 0) throw new UsageError(`score failed: ${said.trim()}`)
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('score', 'the data tool beside the engine', flags, args)
  if (!values) return
  const { threads, concurrency } = values
  const shape = shapeNamed(values.shape)
  const served = { model: benchModel(shape), served_model_name: 'm', reward: { rows: [0] } }
  // Without its cache an engine computes the same each time.
  const serving = await serveHere(served.model, { models: [served], threads, prefix_cache: false })
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-bench-'))
  const input = join(folder, 'in.jsonl')
  const output = join(folder, 'out.jsonl')
  const letters = createLetters()
  const makeLines = (many: number): readonly Line[] =>
    Array.from({ length: many }, () => ({
      prompt: letters(values.prompt),
      response: letters(values.answer),
    }))
  const scoreFile = async (lines: readonly Line[]): Promise<number> => {
    writeFileSync(input, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
    rmSync(output, { force: true })
    const given = [input, '-o', output, '--url', `${serving.url}/v1`]
    return timed(() => runScore([...given, '--concurrency', String(concurrency)]))
  }
  try {
    const [model] = await serving.ready
    if (model === undefined) throw new Error('no model was loaded')
    const itemsOf = (lines: readonly Line[]) =>
      encodeInputs(
        model,
        lines.map(({ prompt, response }) => ({
          messages: [{ role: 'user', content: prompt }],
          responses: [response],
        })),
        () => '',
      )
    await scoreFile(makeLines(1))
    const [ours, engine]: [number[], number[]] = [[], []]
    for (let round = 0; round < values.rounds; round++) {
      const items = await itemsOf(makeLines(values.lines))
      const tokens = items.reduce((sum, { ids }) => sum + ids.length, 0)
      engine.push(tokens / (await timed(() => scoreBatch(model.engine, items, {}))))
      // What it takes to start is not what a line takes.
      const start = await scoreFile(makeLines(1))
      ours.push(tokens / ((await scoreFile(makeLines(values.lines))) - start))
    }
    const share = compare(ours, engine)
    console.log(`${machineLine()}\n${shape.name}, ${model.engine.info.device}`)
    console.log(
      `${values.lines} lines of ${values.prompt} + ${values.answer} tokens: score ${median(ours).toFixed(0)} tok/s, the ` +
        `engine ${median(engine).toFixed(0)} tok/s, share ${percent(share.ratio)} ` +
        `(${share.range.map(percent).join(' to ')}), goal >= ${percent(GOAL)} ` +
        `${share.ratio >= GOAL ? 'met' : 'missed'}`,
    )
  } finally {
    await serving.drain()
    rmSync(folder, { recursive: true })
  }
}
