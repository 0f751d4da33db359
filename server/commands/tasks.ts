// Several things at work at once, each begun as it comes, results in order and as soon as they are there.

/** Tasks that may be done before one that takes long, for each that is worked on. */
const AHEAD = 16

export type Task<T, R> = {
  readonly given: T
  readonly result: Promise<R>
}

/** Keeps up to `concurrency` at work; gives them back in order. */
export async function* startTasks<T, R>(
  source: AsyncIterable<T> | Iterable<T>,
  work: (given: T) => Promise<R>,
  concurrency: number,
): AsyncGenerator<Task<T, R>> {
  const window: (Task<T, R> & { isSettled: boolean })[] = []
  const active = new Set<Promise<undefined>>()
  const start = (given: T): void => {
    const result = work(given)
    const task = { given, result, isSettled: false }
    const settled = result
      .catch(() => {}) // it is awaited in order
      .then(() => {
        task.isSettled = true
        active.delete(settled)
        return undefined
      })
    active.add(settled)
    window.push(task)
  }
  const all = (async function* () {
    yield* source
  })()
  /** Asked for, and not there yet. */
  let coming: Promise<IteratorResult<T, void>> | undefined
  const next = () => {
    const one = all.next()
    one.catch(() => {}) // it is raced, if we are still asked
    return one
  }
  try {
    for (let isEnd = false; ; ) {
      while (window[0]?.isSettled) yield window.shift() as Task<T, R>
      if (isEnd && window.length === 0) return
      const hasRoom = !isEnd && active.size < concurrency && window.length < AHEAD * concurrency
      if (hasRoom) coming ??= next()
      const came = await Promise.race(hasRoom && coming ? [...active, coming] : active)
      if (came === undefined) continue
      coming = undefined
      if (came.done) isEnd = true
      else start(came.value)
    }
  } finally {
    // Not waited for: standard input may say nothing for ever.
    all.return().catch(() => {})
  }
}
