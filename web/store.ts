// A value that components watch, and values that this browser keeps.

import { useEffect, useState } from 'preact/hooks'

type Store<T> = {
  readonly get: () => T
  readonly set: (value: T) => void
  readonly update: (change: (value: T) => T) => void
  readonly subscribe: (listener: (value: T) => void) => () => void
}

export const createStore = <T>(first: T): Store<T> => {
  let current = first
  const listeners = new Set<(value: T) => void>()
  const set = (value: T) => {
    if (value === current) return
    current = value
    for (const listener of [...listeners]) listener(value)
  }
  return {
    get: () => current,
    set,
    update: (change) => set(change(current)),
    subscribe: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  }
}

export const useStore = <T>(store: Store<T>): T => {
  const [value, setValue] = useState(() => store.get())
  useEffect(() => {
    setValue(() => store.get())
    return store.subscribe((next) => setValue(() => next))
  }, [store])
  return value
}

const PREFIX = 'nemotron.'

/** Names that begin so, of what is kept. */
export const namesOf = (storage: Storage, start: string): readonly string[] =>
  Object.keys(storage)
    .filter((key) => key.startsWith(PREFIX + start))
    .map((key) => key.slice(PREFIX.length))

/** Calls back with the name of what another tab has kept or forgotten in this browser. */
export const onOthers = (listener: (name: string) => void): void =>
  addEventListener('storage', ({ key }) => {
    if (key?.startsWith(PREFIX)) listener(key.slice(PREFIX.length))
  })

/** What was kept under this name; undefined: nothing, or nothing that can be read. */
export const recall = (storage: Storage, name: string): unknown => {
  try {
    return JSON.parse(storage.getItem(PREFIX + name) ?? 'null') ?? undefined
  } catch {
    return undefined
  }
}

/** false: there is no room. */
export const keep = (storage: Storage, name: string, value: unknown): boolean => {
  try {
    storage.setItem(PREFIX + name, JSON.stringify(value))
    return true
  } catch {
    return false
  }
}

export const forget = (storage: Storage, name: string): void => storage.removeItem(PREFIX + name)
