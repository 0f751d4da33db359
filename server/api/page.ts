// The page at / and /docs: files that scripts/build-page.mjs made of web/. It asks this server alone.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { extname } from 'node:path'
import type { Ctx } from '../http/context.js'
import { HttpError } from '../http/errors.js'
import { packagePath } from '../version.js'

const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.txt': 'text/plain; charset=utf-8',
}

type Packed = { readonly plain: Buffer; readonly gzip: Buffer; readonly type: string }

const read = (path: string): Packed => ({
  plain: readFileSync(path),
  gzip: readFileSync(`${path}.gz`),
  type: TYPES[extname(path)] ?? 'application/octet-stream',
})

type Page = { readonly html: Packed; readonly assets: ReadonlyMap<string, Packed> }

let page: Page | undefined

/** Read when it is first asked for, and kept: it is a part of the package. */
const thePage = (): Page => {
  if (page !== undefined) return page
  const folder = packagePath('dist/web')
  if (!existsSync(`${folder}/index.html`))
    throw new HttpError(404, 'The page is not built: run `npm run build` where the package lies.')
  const names = readdirSync(`${folder}/assets`).filter((name) => !name.endsWith('.gz'))
  const assets = new Map(names.map((name) => [name, read(`${folder}/assets/${name}`)]))
  page = { html: read(`${folder}/index.html`), assets }
  return page
}

const answer = (c: Ctx, { plain, gzip, type }: Packed, headers: Record<string, string>) => {
  const packed = /\bgzip\b(?!;q=0(?:\.0*)?(?:,|$))/.test(c.req.header('accept-encoding') ?? '')
  return c.body(new Uint8Array(packed ? gzip : plain), 200, {
    ...headers,
    'content-type': type,
    vary: 'Accept-Encoding, Origin',
    ...(packed && { 'content-encoding': 'gzip' }),
  })
}

export const pageRoute = (c: Ctx) =>
  answer(c, thePage().html, {
    'cache-control': 'no-cache',
    'content-security-policy': POLICY,
    'referrer-policy': 'no-referrer',
  })

/** Their names have their hash. */
export const assetRoute = (c: Ctx) => {
  const name = c.req.param('name') ?? ''
  const asset = thePage().assets.get(name)
  if (asset === undefined) throw new HttpError(404, `The page has no '${name}': load / again.`)
  return answer(c, asset, { 'cache-control': 'public, max-age=31536000, immutable' })
}
