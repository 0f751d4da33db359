// npm run bench -- frames: how soon the page can be used, and how smoothly it shows an answer that comes fast. A real
// Chromium, with nothing cached, shows the page of a real server; the answer is scripted, so that it comes at the rate that was
// asked for, and in Markdown, with thinking and code. Frames are those that the browser calls requestAnimationFrame for; a
// long task held the page for over 50 ms. The page can be used when a message can be typed, to a model that it knows.

import { existsSync } from 'node:fs'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { chromium, type Page } from 'playwright-core'
import { count, optional, readFlags, UsageError } from './flags.js'
import { machineLine } from './machine.js'
import { startServerProcess } from './server-process.js'
import { nodeArgs } from './source.js'
import { median, quantile, table } from './stats.js'

const flags = {
  rate: count('tokens a second', 200),
  tokens: count('of an answer', 2000),
  rounds: count('answers, each in a new page', 3),
  chromium: optional('FILE', 'default: CHROMIUM, or where Debian and Google put it'),
}

const GOAL = 60
const MOST = { kilobytes: 80, seconds: 1 }
const PATHS = ['chromium', 'chromium-browser', 'google-chrome'].map((name) => `/usr/bin/${name}`)

const TEXT = `## Sums of a list

A loop adds **each** element to what came before. With \`reduce\` it is one line:

\`\`\`js
const sum = (list) => list.reduce((all, one) => all + one, 0)
\`\`\`

1. It begins with *nothing*.
2. Each element is added once, and the order does not matter for whole numbers.
3. The result of an empty list is 0.

`
/** Words with the space before them: about a token each. */
const WORDS = TEXT.match(/\s*\S+|\s+$/g) ?? []

const chunk = (text: string, finish: string | null) =>
  `data: ${JSON.stringify({
    id: 'chatcmpl-0',
    ...{ object: 'chat.completion.chunk', created: 1_700_000_000, model: 'tiny-reasoner' },
    choices: [{ index: 0, delta: { content: text }, logprobs: null, finish_reason: finish }],
  })}\n\n`

/** Tokens at their times, whatever the machine did between: several together after a pause. */
const stream = (response: ServerResponse, rate: number, tokens: number): void => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  const start = performance.now()
  let sent = 0
  const timer = setInterval(() => {
    const due = Math.min(tokens, Math.floor(((performance.now() - start) / 1000) * rate))
    for (; sent < due; sent++) response.write(chunk(WORDS[sent % WORDS.length] ?? '', null))
    if (sent < tokens) return
    clearInterval(timer)
    response.end(`${chunk('', 'length')}data: [DONE]\n\n`)
  }, 1000 / rate)
  response.on('close', () => clearInterval(timer))
}

/** The server at `url`, but its chats. */
const startScripted = async (url: string, rate: number, tokens: number) => {
  const { hostname, port } = new URL(url)
  const pass = (incoming: IncomingMessage, response: ServerResponse) => {
    const { method, url: path, headers } = incoming
    if (method === 'POST' && path === '/v1/chat/completions') {
      incoming.resume()
      incoming.on('end', () => stream(response, rate, tokens))
      return
    }
    const far = request({ hostname, port, method, path, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(response)
    })
    far.on('error', () => response.destroy())
    incoming.pipe(far)
  }
  const server = createServer(pass)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port: own } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${own}`,
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

type Seen = { readonly frames: readonly number[]; readonly long: readonly number[] }
/** Bytes that came over the network before the page could be used, and milliseconds until then. */
type First = { readonly bytes: number; readonly usable: number }

/** Runs in the page from its beginning on. */
const WATCH_START = `
  const look = () => {
    if (!document.querySelector('textarea[aria-label="Message"]')) return requestAnimationFrame(look)
    const parts = ['navigation', 'resource'].flatMap((type) => performance.getEntriesByType(type))
    const bytes = parts.reduce((sum, part) => sum + part.transferSize, 0)
    window.first = { bytes, usable: performance.now() }
  }
  requestAnimationFrame(look)
`

/** Runs in the page, and gives what that found when it has. */
const FIRST = `new Promise((resolve) => {
  const look = () => (window.first ? resolve(window.first) : requestAnimationFrame(look))
  look()
})`

/** Runs in the page: milliseconds between frames, and of long tasks, until stopped. */
const WATCH = `
  window.seen = { frames: [], long: [] }
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.seen.long.push(entry.duration)
  }).observe({ type: 'longtask' })
  let last = performance.now()
  const next = (now) => {
    window.seen.frames.push(now - last)
    last = now
    if (!window.seen.isOver) requestAnimationFrame(next)
  }
  requestAnimationFrame(next)
`

const watch = async (page: Page, url: string, seconds: number): Promise<Seen & First> => {
  await page.addInitScript(WATCH_START)
  await page.goto(url)
  const message = page.getByLabel('Message', { exact: true })
  // Evaluated, not waited for: the page's policy forbids the eval of waitForFunction.
  const first = await page.evaluate<First>(FIRST)
  await message.fill('How is a list summed up?')
  await message.press('Enter')
  await page.locator('.turn.answer .prose').waitFor()
  await page.evaluate(WATCH)
  await page
    .getByRole('button', { name: 'Regenerate' })
    .waitFor({ timeout: 3000 * seconds + 30_000 })
  return { ...first, ...(await page.evaluate<Seen>('(window.seen.isOver = true, window.seen)')) }
}

const rowOf = ({ frames, long, bytes, usable }: Seen & First, i: number): string[] => {
  const seconds = frames.reduce((sum, ms) => sum + ms, 0) / 1000
  return [
    String(i + 1),
    (bytes / 1000).toFixed(1),
    usable.toFixed(0),
    seconds.toFixed(1),
    (frames.length / seconds).toFixed(1),
    quantile(frames, 0.99).toFixed(0),
    Math.max(...frames).toFixed(0),
    String(long.length),
    Math.max(0, ...long).toFixed(0),
  ]
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags(
    'frames',
    'how soon the page can be used, and how smoothly it shows an answer',
    flags,
    args,
  )
  if (!values) return
  const { rate, tokens, rounds } = values
  const executablePath =
    values.chromium ?? process.env.CHROMIUM ?? PATHS.find((path) => existsSync(path))
  if (executablePath === undefined)
    throw new UsageError('there is no Chromium: apt-get install chromium, or --chromium FILE')
  const server = await startServerProcess(process.execPath, [
    ...[...nodeArgs('server/cli.ts'), 'serve', '--port', '0', '--device', 'cpu'],
  ])
  const scripted = await startScripted(server.url, rate, tokens)
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] })
  const seen: (Seen & First)[] = []
  try {
    for (let round = 0; round < rounds; round++) {
      const context = await browser.newContext({ viewport: { width: 1280, height: 800 } })
      seen.push(await watch(await context.newPage(), scripted.url, tokens / rate))
      await context.close()
    }
  } finally {
    await browser.close()
    scripted.close()
    await server.stop()
  }
  const head = 'round,first kB,usable ms,seconds,frames/s,p99 ms,longest ms,long tasks,longest ms'
  console.log(`${machineLine()}\n${tokens} tokens at ${rate}/s, Chromium ${browser.version()}`)
  console.log(table([head.split(','), ...seen.map(rowOf)]))
  const kilobytes = Math.max(...seen.map(({ bytes }) => bytes)) / 1000
  const usable = median(seen.map((one) => one.usable)) / 1000
  console.log(
    `first load: ${kilobytes.toFixed(1)} kB, goal ${MOST.kilobytes}; usable after ${usable.toFixed(2)} s, goal ${MOST.seconds}`,
  )
  const rates = seen.map(({ frames }) => (1000 * frames.length) / frames.reduce((a, b) => a + b, 0))
  const long = seen.reduce((sum, one) => sum + one.long.length, 0)
  console.log(
    `frames while an answer streams: ${median(rates).toFixed(1)}/s, goal ${GOAL}; ${long} long tasks`,
  )
}
