// What the load generator takes by itself: streams of a scripted server that has its answers ready.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createTarget, runLoad } from '../load-generator.js'
import { machineLine } from '../machine.js'
import { nodeFlags, runnable } from '../source.js'
import { percent } from '../stats.js'

const TOKENS = 256
const STREAMS = [1, 32, 256]
/** Tokens that the scripted server gives each stream before it looks at the next: as steps of an engine. */
const chunk = `data: ${JSON.stringify({
  id: 'chatcmpl-0123456789abcdef0123456789abcdef',
  ...{ object: 'chat.completion.chunk', created: 1_700_000_000, model: 'scripted' },
  choices: [{ index: 0, delta: { content: ' word' }, logprobs: null, finish_reason: null }],
})}\n\n`
const end =
  `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 1, completion_tokens: TOKENS } })}\n\n` +
  'data: [DONE]\n\n'

/** One write for each token, as a server streams. */
const child = async (): Promise<void> => {
  const server = createServer((request, response) => {
    request.resume()
    request.on('end', () => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      let left = TOKENS
      const step = (): void => {
        if (left-- === 0) response.end(end)
        else {
          response.write(chunk)
          setImmediate(step)
        }
      }
      step()
    })
  })
  server.listen(0, '127.0.0.1', () => process.send?.((server.address() as AddressInfo).port))
}

/** By how many streams at once. */
type Limit = { readonly streams: number; readonly tokensPerSecond: number; readonly busy: number }

export const ownLimits = async (): Promise<readonly Limit[]> => {
  const server: ChildProcess = fork(runnable('bench/serve/own-limit.ts'), ['scripted'], {
    execArgv: [...nodeFlags],
  })
  const [port] = await once(server, 'message')
  const target = createTarget(`http://127.0.0.1:${port}/v1`, undefined, 'chat')
  const load = (requests: number, concurrency: number) =>
    runLoad(target, {
      conversation: (i) =>
        i < requests ? ([last]) => (last === undefined ? {} : undefined) : undefined,
      concurrency,
    })
  await load(64, 32)
  const limits: Limit[] = []
  for (const streams of STREAMS) {
    const { outcomes, seconds, busy } = await load(Math.max(64, 4 * streams), streams)
    const failed = outcomes.find(({ error }) => error !== undefined)
    if (failed !== undefined) throw new Error(`the scripted server: ${failed.error}`)
    const tokens = outcomes.reduce((sum, { outputTokens }) => sum + outputTokens, 0)
    limits.push({ streams, tokensPerSecond: tokens / seconds, busy })
  }
  target.agent.destroy()
  server.kill()
  return limits
}

export const runOwnLimit = async (): Promise<void> => {
  console.log(machineLine())
  for (const { streams, tokensPerSecond, busy } of await ownLimits())
    console.log(
      `load generator, ${String(streams).padStart(3)} streams of a scripted server: ` +
        `${tokensPerSecond.toFixed(0)} tok/s, its thread ${percent(busy)} busy`,
    )
}

if (process.argv[2] === 'scripted') await child()
