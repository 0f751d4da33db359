// The reference page: one file of web/, everything inline, nothing loaded but /openapi.json.

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Ctx } from '../http/context.js'
import { isReward } from '../model/served-model.js'
import { packagePath } from '../version.js'
import type { Server } from './server.js'

/** What stands inside the page's one element of this name, as a policy names it. */
const hashOf = (page: string, element: string): string => {
  const text = page.split(`<${element}>`)[1]?.split(`</${element}>`)[0] ?? ''
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`
}

const policyOf = (page: string): string =>
  [
    "default-src 'none'",
    `script-src ${hashOf(page, 'script')}`,
    `style-src ${hashOf(page, 'style')}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`)

/** The page's example asks a model of this server, with a key where one is needed. */
export const pageRoute = ({ config, models }: Server) => {
  const page = readFileSync(packagePath('web/index.html'), 'utf8')
  const policy = policyOf(page)
  const key = config.apiKeys.length > 0 ? '\n  -H "authorization: Bearer $NEMOTRON_API_KEY" \\' : ''
  return (c: Ctx) => {
    const model = models().find((one) => !isReward(one))?.id ?? 'MODEL'
    const shown = page.replace('{{key}}', () => key).replace('{{model}}', () => escapeHtml(model))
    return c.body(shown, 200, {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': policy,
      'referrer-policy': 'no-referrer',
    })
  }
}
