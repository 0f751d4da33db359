// Small parts that the views share.

import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { keyWanted } from './api.js'

/** Where there is no clipboard (a page that came over plain HTTP), or it is refused. */
const copySelected = (text: string, button: HTMLElement): boolean => {
  const area = document.createElement('textarea')
  area.value = text
  // Beside the button: outside of an open dialog nothing can be selected.
  button.after(area)
  area.select()
  const isDone = document.execCommand('copy')
  area.remove()
  button.focus()
  return isDone
}

const copyText = async (text: string, button: HTMLElement): Promise<boolean> => {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return copySelected(text, button)
  }
}

export const Copy = ({ text, label = 'Copy' }: { text: () => string; label?: string }) => {
  const [said, setSaid] = useState('')
  const copy = async (button: HTMLElement) => {
    setSaid((await copyText(text(), button)) ? 'Copied' : 'Not copied')
    setTimeout(() => setSaid(''), 1500)
  }
  return (
    <button type="button" class="quiet" onClick={(event) => copy(event.currentTarget)}>
      {said || label}
    </button>
  )
}

/** A view of text, which scrolls. */
export const Page = ({ children }: { children?: ComponentChildren }) => (
  // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls can be scrolled by keys
  <main class="page" tabIndex={0}>
    {children}
  </main>
)

export const Problem = ({ children }: { children: ComponentChildren }) => (
  <p class="problem" role="alert">
    {children}
  </p>
)

export const GiveKey = () => (
  <button type="button" class="quiet" onClick={() => keyWanted.set('The key:')}>
    Give a key
  </button>
)

type DialogProps = {
  readonly title: string
  readonly onClose: () => void
  readonly children: ComponentChildren
}

/** A modal dialog: the browser keeps the focus inside and closes it on Escape. */
export const Dialog = ({ title, onClose, children }: DialogProps) => {
  const ref = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    const dialog = ref.current
    if (dialog && !dialog.open) dialog.showModal()
    return () => {
      // The event comes later, and may then close what has opened meanwhile.
      if (dialog) dialog.onclose = null
      dialog?.close()
    }
  }, [])
  useEffect(() => {
    if (ref.current) ref.current.onclose = onClose
  }, [onClose])
  return (
    <dialog ref={ref} aria-label={title}>
      <header>
        <h2>{title}</h2>
        <button type="button" class="quiet" onClick={onClose}>
          Close
        </button>
      </header>
      {children}
    </dialog>
  )
}

type FieldProps = {
  readonly label: string
  readonly hint?: string | undefined
  readonly children: ComponentChildren
}

export const Field = ({ label, hint, children }: FieldProps) => (
  // biome-ignore lint/a11y/noLabelWithoutControl: the control is the child
  <label class="field">
    <span class="label">{label}</span>
    {children}
    {hint && <small>{hint}</small>}
  </label>
)

type SelectProps<T extends string> = {
  readonly label: string
  readonly value: T
  readonly options: readonly (readonly [value: T, text: string])[]
  readonly onChange: (value: T) => void
  readonly hint?: string | undefined
}

export const Select = <T extends string>(props: SelectProps<T>) => {
  const { label, value, options, onChange, hint } = props
  const choose = (text: string) => {
    const option = options.find(([one]) => one === text)
    if (option) onChange(option[0])
  }
  return (
    <Field label={label} hint={hint}>
      <select value={value} onChange={(event) => choose(event.currentTarget.value)}>
        {options.map(([one, text]) => (
          <option key={one} value={one}>
            {text}
          </option>
        ))}
      </select>
    </Field>
  )
}

export const bytes = (count: number): string => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, count)) / 10))
  const value = count / 1024 ** power
  return `${value < 10 && power > 0 ? value.toFixed(1) : Math.round(value)} ${units[power]}`
}

export const count = (value: number): string => value.toLocaleString('en-US')

export const seconds = (value: number): string =>
  value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} s`
