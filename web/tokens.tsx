// Tokens as they were drawn: how likely each was, and what could have stood in its place.

import type { ComponentChildren } from 'preact'
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

/** Tokens, and what the first and the last of them show of what they add. */
type Range = {
  readonly from: number
  readonly to: number
  readonly first: string
  readonly last: string
}

/** Those that spell this text, which may begin and end inside of a token; undefined: none do. Thinking comes before
 * all else, and an answer after it. */
const rangeOf = (tokens: readonly Token[], text: string, isAnswer: boolean): Range | undefined => {
  const all = tokens.map(({ adds }) => adds).join('')
  const start = isAnswer ? all.lastIndexOf(text) : all.indexOf(text)
  if (text === '' || start < 0) return undefined
  const end = start + text.length
  const ends: number[] = []
  for (const { adds } of tokens) ends.push((ends.at(-1) ?? 0) + adds.length)
  const beginOf = (i: number): number => ends[i - 1] ?? 0
  const from = ends.findIndex((one, i) => one > start || beginOf(i) === start)
  const to = ends.findIndex((one) => one >= end) + 1
  const shownOf = (i: number): string =>
    all.slice(Math.max(start, beginOf(i)), Math.min(end, ends[i] ?? 0))
  return { from, to, first: shownOf(from), last: shownOf(to - 1) }
}

type GroupProps = {
  readonly tokens: readonly Token[]
  readonly from: number
  readonly to: number
  /** What its first and its last show, if that is not all that they add. */
  readonly first: string | undefined
  readonly last: string | undefined
}

/** Whole groups never change: they are made once. */
const Group = ({ tokens, from, to, first, last }: GroupProps) =>
  useMemo(
    () => (
      <>
        {tokens.slice(from, to).map((token, i) => (
          <span key={from + i} class={`token p${levelOf(token.logprob)}`} data-at={from + i}>
            {shown(
              (i === 0 ? first : undefined) ??
                (from + i === to - 1 ? last : undefined) ??
                token.adds,
            )}
          </span>
        ))}
      </>
    ),
    [tokens, from, to, first, last],
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

type SpansProps = {
  readonly tokens: readonly Token[]
  readonly range: Range
  readonly label: string
}

const Spans = ({ tokens, range, label }: SpansProps) => {
  const { from: begin, to: end, first, last } = range
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
    const next = Math.min(end - 1, Math.max(begin, at === undefined ? begin : at.index + step))
    show(box.current?.querySelector(`[data-at="${next}"]`))
  }
  const token = at === undefined ? undefined : tokens[at.index]
  const groups = Array.from(
    { length: Math.ceil((end - begin) / GROUP) },
    (_, i) => begin + i * GROUP,
  )
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
        <Group
          key={from}
          tokens={tokens}
          from={from}
          to={Math.min(end, from + GROUP)}
          first={from === begin ? first : undefined}
          last={from + GROUP >= end ? last : undefined}
        />
      ))}
      {at && token && <Details token={token} at={at} />}
    </div>
  )
}

type Props = {
  readonly tokens: readonly Token[]
  readonly text: string
  readonly label: 'Thinking' | 'Answer'
  /** The text without them. */
  readonly children: ComponentChildren
}

/** The tokens where they spell the text, and nothing but it. */
export const Tokens = ({ tokens, text, label, children }: Props) => {
  const range = rangeOf(tokens, text, label === 'Answer')
  return range ? <Spans tokens={tokens} range={range} label={label} /> : children
}
