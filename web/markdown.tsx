// The little of Markdown that models write: headings, lists, code, bold and italic. All of it becomes
// text of elements; nothing is read as HTML.

import type { ComponentChildren } from 'preact'
import { useMemo } from 'preact/hooks'
import { Copy } from './parts.js'

const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)|(\*[^*\s][^*\n]*\*)/

const inline = (text: string): ComponentChildren[] =>
  text.split(INLINE).flatMap<ComponentChildren>((piece, i): ComponentChildren[] => {
    if (piece === undefined || piece === '') return []
    if (INLINE.test(piece)) {
      if (piece.startsWith('`')) return [<code key={i}>{piece.slice(1, -1)}</code>]
      if (piece.startsWith('**')) return [<strong key={i}>{piece.slice(2, -2)}</strong>]
      if (piece.startsWith('*') && piece.length > 2) return [<em key={i}>{piece.slice(1, -1)}</em>]
    }
    return [piece]
  })

/** Blocks: a fence with all that is in it, or what stands between empty lines. */
const blocksOf = (text: string): readonly string[] => {
  const blocks: string[] = []
  let lines: string[] = []
  let isFenced = false
  const end = () => {
    if (lines.length > 0) blocks.push(lines.join('\n'))
    lines = []
  }
  for (const line of text.split('\n')) {
    const isFence = line.startsWith('```')
    if (isFence && !isFenced) end()
    if (line.trim() === '' && !isFenced) {
      end()
      continue
    }
    lines.push(line)
    if (isFence && isFenced) end()
    if (isFence) isFenced = !isFenced
  }
  end()
  return blocks
}

const BULLET = /^\s*[-*] +/
const NUMBERED = /^\s*(\d+)[.)] +/

const itemsOf = (lines: readonly string[], marker: RegExp) =>
  lines.map((line) => <li key={line}>{inline(line.replace(marker, ''))}</li>)

const Block = ({ text }: { text: string }) =>
  useMemo(() => {
    const lines = text.split('\n')
    const [first = ''] = lines
    if (first.startsWith('```')) {
      const isClosed = lines.length > 1 && lines.at(-1)?.startsWith('```')
      const code = lines.slice(1, isClosed ? -1 : undefined).join('\n')
      return (
        <figure class="code">
          <figcaption>
            <span>{first.slice(3).trim() || 'text'}</span>
            <Copy text={() => code} />
          </figcaption>
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls can be scrolled by keys */}
          <pre tabIndex={0}>
            <code>{code}</code>
          </pre>
        </figure>
      )
    }
    const heading = /^(#{1,6}) +(.*)$/.exec(first)
    if (heading && lines.length === 1) return <p class="heading">{inline(heading[2] ?? '')}</p>
    if (lines.every((line) => BULLET.test(line))) return <ul>{itemsOf(lines, BULLET)}</ul>
    if (lines.every((line) => NUMBERED.test(line)))
      return <ol start={Number(NUMBERED.exec(first)?.[1])}>{itemsOf(lines, NUMBERED)}</ol>
    return <p>{inline(text)}</p>
  }, [text])

export const Markdown = ({ text }: { text: string }) => (
  <div class="prose">
    {blocksOf(text).map((block, i) => (
      // A block keeps its place while the answer grows.
      <Block key={i} text={block} />
    ))}
  </div>
)
