// Is the server there for work at all?

import type { ServedModel } from '../model/served-model.js'
import { RequestError } from '../request-error.js'

export type Phase =
  | { readonly name: 'loading'; readonly detail: string }
  | { readonly name: 'ready' }
  /** Still takes work, and tells proxies to send it elsewhere. */
  | { readonly name: 'leaving' }
  | { readonly name: 'draining' }
  | { readonly name: 'failed'; readonly detail: string }

export type Readiness = {
  readonly phase: () => Phase
  readonly models: () => readonly ServedModel[]
}

const notReady = (message: string, code: string, retryAfter?: number): RequestError =>
  new RequestError(message, { kind: 'unavailable', code, retryAfter })

/** `show` asks only for data, which a draining server still gives; `change` is of the server, and not taken by one
 * that goes. */
export const requireReady = (
  { phase }: Pick<Readiness, 'phase'>,
  what: 'work' | 'show' | 'change' = 'work',
): void => {
  const now = phase()
  if (now.name === 'loading') throw notReady('The server is loading its models.', 'loading', 5)
  const isGoing = now.name === 'draining' || (now.name === 'leaving' && what === 'change')
  if (isGoing && what !== 'show')
    throw notReady('The server is shutting down and takes no new work.', 'draining', 30)
  if (now.name === 'failed') throw notReady(`The server failed to load: ${now.detail}`, 'failed')
}
