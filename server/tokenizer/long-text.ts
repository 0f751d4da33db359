// Long texts are encoded in a thread of their own: what the native tokenizer leaves behind for a text
// of 128K tokens takes up to a tenth of a second to free, and is freed by the thread that asked for it.
// The thread has an instance of its own (250 MB for 128,256 entries); it starts with the first long
// text and ends a minute after the last.

import { Worker } from 'node:worker_threads'
import { EngineFailure } from '../failure.js'
import { packagePath } from '../version.js'
import type { Parts } from './types.js'

const IDLE_MS = 60_000
/** Texts that the thread has at once: as many answers at most come in one turn of the event loop. */
const AT_ONCE = 4

export type LongTextQuestion = { readonly id: number; readonly parts: Parts }
export type LongTextAnswer =
  | { readonly id: number; readonly ids: Uint32Array }
  | { readonly id: number; readonly error: string }

type Waiting = {
  readonly parts: Parts
  readonly resolve: (ids: readonly number[]) => void
  readonly reject: (error: Error) => void
}

const failure = (message: string): EngineFailure =>
  new EngineFailure({ code: 'internal', message: `a long text was not encoded: ${message}` })

/** Not Array.from(), which takes its time over a million ids. */
const listOf = (ids: Uint32Array): readonly number[] => {
  const list = new Array<number>(ids.length)
  for (let i = 0; i < ids.length; i++) list[i] = ids[i] ?? 0
  return list
}

/** `json`: what the native tokenizer is made from. No file is read again. */
export const createLongText = (json: string, idleMs = IDLE_MS) => {
  // One copy for all threads, in UTF-8.
  const shared = new SharedArrayBuffer(Buffer.byteLength(json))
  Buffer.from(shared).write(json)
  let worker: Worker | undefined
  let queue: Waiting[] = []
  let waiting = new Map<number, Waiting>()
  let idle: NodeJS.Timeout | undefined
  let asked = 0

  const start = (): Worker => {
    const started = new Worker(packagePath('dist/server/tokenizer/long-text-worker.js'), {
      workerData: shared,
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
    started.on('message', (answer: LongTextAnswer) => {
      const one = waiting.get(answer.id)
      waiting.delete(answer.id)
      if (worker === started) ask(started)
      if (worker === started && waiting.size === 0) rest(started)
      if ('ids' in answer) one?.resolve(listOf(answer.ids))
      else one?.reject(failure(answer.error))
    })
    started.on('error', ended)
    started.on('exit', (code) => ended(`its thread ended with ${code}`))
    return started
  }

  const ask = (thread: Worker): void => {
    while (waiting.size < AT_ONCE) {
      const next = queue.shift()
      if (next === undefined) return
      const id = asked++
      waiting.set(id, next)
      thread.postMessage({ id, parts: next.parts } satisfies LongTextQuestion)
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

  return (parts: Parts): Promise<readonly number[]> =>
    new Promise((resolve, reject) => {
      clearTimeout(idle)
      worker ??= start()
      worker.ref()
      queue.push({ parts, resolve, reject })
      ask(worker)
    })
}
