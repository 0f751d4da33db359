// What process.test.ts runs in processes of their own: `child.ts MODE FOLDER`. Each says on standard
// output what it got to; how it ends is what the test looks at.

import { readdirSync } from 'node:fs'
import { openEngine } from '../../server/engine/engine.js'
import type { Engine } from '../../server/engine/types.js'
import { generate, idsOf, isIdle, prompt, smallEngine, until } from './support.js'

const [mode = '', folder = ''] = process.argv.slice(2)
const endless = { maxTokens: 1900, ignoreEos: true }
const open = (): Promise<Engine> => openEngine(smallEngine(folder))
const say = (text: string) => process.stdout.write(`${text}\n`)
const threads = () => readdirSync('/proc/self/task').length

const modes: Readonly<Record<string, () => Promise<void>>> = {
  // The engine idles: nothing keeps the process.
  idle: async () => {
    const engine = await open()
    say(String(idsOf(await generate(engine, { maxTokens: 5, ignoreEos: true })).length))
  },
  // A live request keeps the process until it has ended.
  busy: async () => {
    const engine = await open()
    engine.submit({ promptTokenIds: prompt, sampling: endless }, ({ finish }) => {
      if (finish) say(finish)
    })
  },
  // An engine that is loading keeps the process too.
  loading: async () => {
    void open().then(() => say('loaded'))
  },
  exit: async () => {
    const engine = await open()
    for (let i = 0; i < 4; i++) {
      engine.submit({ promptTokenIds: prompt, sampling: endless }, () => {})
    }
    await until('all run', () => engine.stats().running === 4)
    process.exit(7)
  },
  'exit-loading': async () => {
    const engines = [open(), open(), open()]
    void Promise.allSettled(engines)
    setTimeout(() => process.exit(7), Number(process.argv[4]))
  },
  'exit-closing': async () => {
    const engine = await open()
    engine.submit({ promptTokenIds: prompt, sampling: endless }, () => {})
    void engine.close()
    process.exit(7)
  },
  // Listeners throw: who loads hears of his, the process of the other, and the other request goes on.
  throws: async () => {
    process.on('uncaughtException', (error) => say(error.message))
    const onPlan = () => {
      throw new Error('plan')
    }
    await openEngine({ ...smallEngine(folder), onPlan }).catch((error) => say(error.message))
    const engine = await open()
    engine.submit({ promptTokenIds: prompt, sampling: { maxTokens: 1 } }, () => {
      throw new Error('mine')
    })
    say(String(idsOf(await generate(engine, { maxTokens: 5, ignoreEos: true })).length))
    await engine.close()
  },
  // Engines nobody holds are collected, threads and all.
  dropped: async () => {
    await (await open()).close()
    const before = threads()
    for (let i = 0; i < 3; i++) await generate(await open(), { maxTokens: 3 })
    say(threads() > before ? 'held' : 'not held')
    await until('the threads end', () => {
      globalThis.gc?.()
      return threads() <= before
    })
    say('collected')
  },
  // Without work it uses no processor.
  rest: async () => {
    const engine = await open()
    await generate(engine, { maxTokens: 3 })
    await until('idle', () => isIdle(engine))
    await new Promise((resolve) => setTimeout(resolve, 200))
    const from = process.cpuUsage()
    await new Promise((resolve) => setTimeout(resolve, 1000))
    const { user, system } = process.cpuUsage(from)
    say(String((user + system) / 1000))
    await engine.close()
  },
}

await modes[mode]?.()
