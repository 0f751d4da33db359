// The end of a server: no new work, what runs is finished, what is left is told so, and everything is freed.

import type { Listening } from '../http/listen.js'
import { isWork, type LiveRequest } from '../http/request-log.js'
import type { ServedModel } from '../model/served-model.js'
import type { Phase } from './admission.js'
import type { Server } from './server.js'
import { isStalled } from './stall.js'

type Leaving = {
  readonly listening: Listening
  readonly setPhase: (phase: Phase) => void
  /** Seconds in which work is still taken while /health is 503. */
  readonly delay: number
  /** Seconds that what is under way may take then. */
  readonly timeout: number
  /** Milliseconds in which work is still taken on connections that were there when the socket was closed. */
  readonly connected: number
}

/** Of clients that nothing is known of. */
export const CONNECTED_MS = 2000
/** How long what was told in the end may be on its way out. */
const LAST_MS = 2000
const LOOK_MS = 20

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

/** Waits for the work, or for a model that stands still, whose work would be waited for without end: that one. */
const doneOrHung = (
  work: Promise<unknown>,
  hung: () => ServedModel | undefined,
): Promise<ServedModel | undefined> => {
  let isDone = false
  const done = work.finally(() => {
    isDone = true
  })
  const look = async () => {
    for (; !isDone; await sleep(100)) {
      const found = hung()
      if (found) return found
    }
    return undefined
  }
  return Promise.race([done.then(() => undefined), look()])
}

/** Frees them; what came of it when one stands still. */
const closeModels = async (
  models: readonly ServedModel[],
  stalled: (model: ServedModel) => boolean,
  /** Seconds that a load of other weights may still take. */
  patience: number,
): Promise<Error | undefined> => {
  for (const { engine } of models) engine.drain()
  const until = performance.now() + patience * 1000
  const loads = ({ weights }: ServedModel) =>
    weights.change !== undefined && performance.now() > until
  const found = await doneOrHung(Promise.all(models.map(({ engine }) => engine.close())), () =>
    models.find((model) => stalled(model) || loads(model)),
  )
  if (found === undefined) return undefined
  const why = stalled(found) ? 'its device or a rank hangs' : 'other weights are being loaded'
  return new Error(`${found.id} could not be closed: ${why}`)
}

/** `stopped`: when the last connection has ended. */
const closeSocket = async (
  listening: Listening,
  connected: number,
): Promise<{ readonly stopped: Promise<void> }> => {
  const stopped = listening.stop()
  // Who has connected is about to ask: a proxy does not repeat elsewhere what it has sent.
  await Promise.race([stopped, sleep(connected)])
  return { stopped }
}

/** What was told in the end goes out; connections that are kept end with it. */
const socketEnds = async (listening: Listening, stopped: Promise<void>): Promise<void> => {
  let isOpen = true
  void stopped.then(() => {
    isOpen = false
  })
  const until = performance.now() + LAST_MS
  for (; isOpen && performance.now() < until; await sleep(LOOK_MS)) listening.closeIdle()
  listening.cut()
}

/** Resolves when all that was let in has its answer whole on its way, lines of batches too, or after `timeout`. It is
 * seen by its request, not by the engines: between two stages of its work it is in none. */
const workEnds = async (
  { models, batches, live }: Server,
  stalled: (model: ServedModel) => boolean,
  timeout: number,
): Promise<void> => {
  const goesOn = (request: LiveRequest): boolean => {
    if (!isWork(request)) return false
    const [next] = request.record.asks ?? []
    return request.isTold() || !models().some((model) => model.id === next && stalled(model))
  }
  const hasLines = () => batches?.isAsking() === true && !models().some(stalled)
  const until = performance.now() + timeout * 1000
  while (([...live].some(goesOn) || hasLines()) && performance.now() < until) await sleep(LOOK_MS)
}

/** Rejects, with all else done, when what an engine holds cannot be freed. */
export const drainServer = async (
  server: Server,
  { listening, setPhase, delay, timeout, connected }: Leaving,
): Promise<void> => {
  const { batches, models, traces, config } = server
  const stalled = (model: ServedModel) => isStalled(model, config.stallTimeout)
  batches?.pause()
  if (server.phase().name === 'ready') {
    setPhase({ name: 'leaving' })
    await sleep(delay * 1000)
  }
  for (const { engine } of models()) engine.resume()
  const { stopped } = await closeSocket(listening, connected)
  setPhase({ name: 'draining' })
  await workEnds(server, stalled, timeout)
  if (batches) await doneOrHung(batches.stop(), () => models().find(stalled))
  const failed = await closeModels(models(), stalled, Math.max(config.stallTimeout, 5))
  await socketEnds(listening, stopped)
  await traces?.close()
  if (failed !== undefined) throw failed
  await batches?.close()
}
