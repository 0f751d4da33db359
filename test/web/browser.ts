// A real browser for tests of the page, and a way to a server that can be cut.

import { existsSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { type Browser, chromium, type Page } from 'playwright-core'

const PATHS = ['chromium', 'chromium-browser', 'google-chrome'].map((name) => `/usr/bin/${name}`)
const path = process.env.CHROMIUM ?? PATHS.find((one) => existsSync(one))

/** For `describe`: why no page can be opened here, or false. */
export const noBrowser: string | false = path
  ? false
  : 'there is no Chromium: apt-get install chromium, or CHROMIUM=its path'

export const openBrowser = (): Promise<Browser> =>
  chromium.launch({ executablePath: path ?? '', args: ['--no-sandbox'] })

type Opened = {
  readonly page: Page
  /** What the browser complained of: errors of scripts, of the policy, of loads. */
  readonly complaints: string[]
}

/** In a profile of its own: nothing is kept from page to page. */
export const openPage = async (browser: Browser, url: string, width = 1280): Promise<Opened> => {
  const context = await browser.newContext({ viewport: { width, height: 800 } })
  const page = await context.newPage()
  // A busy machine takes its time.
  page.setDefaultTimeout(30_000)
  const complaints: string[] = []
  page.on('pageerror', (error) => complaints.push(error.message))
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text())
  })
  page.on('request', (request) => {
    if (!request.url().startsWith(new URL(url).origin)) complaints.push(`it asked ${request.url()}`)
  })
  await page.goto(url)
  return { page, complaints }
}

type Way = {
  readonly url: string
  /** Cuts what is open and lets nothing in until `mend`. */
  readonly cut: () => void
  readonly mend: () => void
  readonly close: () => void
}

/** To a server on this port. */
export const openWay = (port: number): Promise<Way> =>
  new Promise((resolve) => {
    const open = new Set<Socket>()
    let isCut = false
    const server = createServer((socket) => {
      if (isCut) return void socket.destroy()
      const far = connect(port, '127.0.0.1')
      for (const one of [socket, far]) {
        open.add(one)
        one.on('error', () => {})
        one.on('close', () => {
          open.delete(one)
          socket.destroy()
          far.destroy()
        })
      }
      socket.pipe(far).pipe(socket)
    })
    const cut = () => {
      isCut = true
      for (const socket of open) socket.destroy()
    }
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      resolve({
        url: `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`,
        cut,
        mend: () => {
          isCut = false
        },
        close: () => {
          cut()
          server.close()
        },
      })
    })
  })
