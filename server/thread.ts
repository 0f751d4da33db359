// Work in a thread of its own, so that it never keeps the event loop: one question after another. The thread
// starts with the first question and ends a while after the last.

import { parentPort, type TransferListItem, Worker } from 'node:worker_threads'
import { EngineFailure } from './failure.js'
import { packagePath } from './version.js'

const IDLE_MS = 60_000
/** Questions that the thread has at once: as many answers at most come in one turn of the event loop. */
const AT_ONCE = 4

type Question<Q> = { readonly id: number; readonly question: Q }
type Answer<A> = { readonly id: number } & ({ readonly answer: A } | { readonly error: string })

type Waiting<Q, A> = {
  readonly question: Q
  readonly resolve: (answer: A) => void
  readonly reject: (error: Error) => void
}

type ThreadOptions = {
  /** In the package; calls answerQuestions(). */
  readonly file: string
  readonly data?: unknown
  /** What did not come about when a question has no answer. */
  readonly failed: string
  readonly idleMs?: number
}

/** Asks a thread; what it throws comes as an EngineFailure. */
export const createThread = <Q, A>({ file, data, failed, idleMs = IDLE_MS }: ThreadOptions) => {
  let worker: Worker | undefined
  let queue: Waiting<Q, A>[] = []
  let waiting = new Map<number, Waiting<Q, A>>()
  let idle: NodeJS.Timeout | undefined
  let asked = 0
  const failure = (message: string): EngineFailure =>
    new EngineFailure({ code: 'internal', message: `${failed}: ${message}` })

  const start = (): Worker => {
    const started = new Worker(packagePath(file), {
      workerData: data,
      execArgv: [], // flags of the process are not meant for this file
    })
    const ended = (error: unknown) => {
      if (worker !== started) return
      worker = undefined
      const all = [...waiting.values(), ...queue]
      waiting = new Map()
      queue = []
      for (const { reject } of all) reject(failure(String(error)))
    }
    started.on('message', (answer: Answer<A>) => {
      const one = waiting.get(answer.id)
      waiting.delete(answer.id)
      if (worker === started) send(started)
      if (worker === started && waiting.size === 0) rest(started)
      if ('answer' in answer) one?.resolve(answer.answer)
      else one?.reject(failure(answer.error))
    })
    started.on('error', ended)
    started.on('exit', (code) => ended(`its thread ended with ${code}`))
    return started
  }

  const send = (thread: Worker): void => {
    while (waiting.size < AT_ONCE) {
      const next = queue.shift()
      if (next === undefined) return
      const id = asked++
      waiting.set(id, next)
      thread.postMessage({ id, question: next.question } satisfies Question<Q>)
    }
  }

  /** Nothing to do: keeps no process alive, and ends before long. */
  const rest = (resting: Worker): void => {
    resting.unref()
    idle = setTimeout(() => {
      if (worker === resting) worker = undefined
      resting.postMessage('end')
    }, idleMs).unref()
  }

  return (question: Q): Promise<A> =>
    new Promise((resolve, reject) => {
      clearTimeout(idle)
      worker ??= start()
      worker.ref()
      queue.push({ question, resolve, reject })
      send(worker)
    })
}

/** In the thread. `moved`: parts of an answer that need not be copied. */
export const answerQuestions = <Q, A>(
  answerOf: (question: Q) => A | Promise<A>,
  moved: (answer: A) => readonly TransferListItem[] = () => [],
): void => {
  parentPort?.on('message', async (message: Question<Q> | 'end') => {
    if (message === 'end') {
      parentPort?.close()
      return
    }
    const { id } = message
    try {
      const answer = await answerOf(message.question)
      parentPort?.postMessage({ id, answer } satisfies Answer<A>, moved(answer))
    } catch (error) {
      parentPort?.postMessage({ id, error: String(error) } satisfies Answer<A>)
    }
  })
}
