// Tokens as they were drawn: how likely each was, and what could have stood in its place.

import { useMemo, useRef, useState } from 'preact/hooks'
import type { Token } from './request.js'

const GROUP = 64

const percent = (logprob: number): string => {
  const share = Math.exp(logprob) * 100
  return share < 0.01 ? '< 0.01 %' : `${share >= 9.95 ? share.toFixed(0) : share.toPrecision(2)} %`
}

/** Line ends are shown, and stay line ends. */
const shown = (text: string): string => text.replaceAll('\n', '⏎\n')
const quoted = (text: string): string => JSON.stringify(text).slice(1, -1).replaceAll(' ', '␣')

const levelOf = (logprob: number): number => {
  const share = Math.exp(logprob)
  return share >= 0.9 ? 0 : share >= 0.6 ? 1 : share >= 0.3 ? 2 : share >= 0.1 ? 3 : 4
}

/** Whole groups never change: they are made once. */
const Group = ({ tokens, from, to }: { tokens: readonly Token[]; from: number; to: number }) =>
  useMemo(
    () => (
      <>
        {tokens.slice(from, to).map((token, i) => (
          <span key={from + i} class={`token p${levelOf(token.logprob)}`} data-at={from + i}>
            {shown(token.text)}
          </span>
        ))}
      </>
    ),
    [tokens, from, to],
  )

type At = { readonly index: number; readonly left: number; readonly top: number }

const Details = ({ token, at }: { token: Token; at: At }) => (
  <div class="details" role="status" style={{ left: `${at.left}px`, top: `${at.top}px` }}>
    <strong>
      <code>{quoted(token.text)}</code> {percent(token.logprob)}
    </strong>
    <ul>
      {token.top.map(({ text, logprob }) => (
        <li key={text} class={text === token.text ? 'drawn' : ''}>
          <code>{quoted(text)}</code>
          <span class="share">
            <i style={{ width: `${Math.max(1, Math.exp(logprob) * 100)}%` }} />
          </span>
          <span>{percent(logprob)}</span>
        </li>
      ))}
    </ul>
  </div>
)

export const Tokens = ({ tokens, label }: { tokens: readonly Token[]; label: string }) => {
  const box = useRef<HTMLDivElement>(null)
  const [at, setAt] = useState<At>()
  const show = (element: Element | null | undefined) => {
    const index = Number((element as HTMLElement | null | undefined)?.dataset.at ?? Number.NaN)
    const frame = box.current?.getBoundingClientRect()
    if (!element || Number.isNaN(index) || !frame) return setAt(undefined)
    const { left, bottom } = element.getBoundingClientRect()
    const room = Math.max(0, frame.width - 240)
    setAt({ index, left: Math.min(left - frame.left, room), top: bottom - frame.top + 4 })
  }
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (event.key === 'Escape') return setAt(undefined)
    if (step === undefined) return
    event.preventDefault()
    const next = Math.min(tokens.length - 1, Math.max(0, at === undefined ? 0 : at.index + step))
    show(box.current?.querySelector(`[data-at="${next}"]`))
  }
  const token = at === undefined ? undefined : tokens[at.index]
  const groups = Array.from({ length: Math.ceil(tokens.length / GROUP) }, (_, i) => i * GROUP)
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset is for controls
    <div
      class="tokens"
      ref={box}
      role="group"
      // biome-ignore lint/a11y/noNoninteractiveTabindex: the arrow keys go from token to token
      tabIndex={0}
      aria-label={`${label}: arrow keys show the probability of each token`}
      onKeyDown={move}
      onMouseOver={(event) => show((event.target as Element).closest('[data-at]'))}
      onFocus={() => show(box.current?.querySelector('[data-at]'))}
      onMouseLeave={() => setAt(undefined)}
      onBlur={() => setAt(undefined)}
    >
      {groups.map((from) => (
        <Group key={from} tokens={tokens} from={from} to={Math.min(tokens.length, from + GROUP)} />
      ))}
      {at && token && <Details token={token} at={at} />}
    </div>
  )
}
