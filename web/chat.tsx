// The chat: conversations, turns, controls.

import { useEffect, useRef, useState } from 'preact/hooks'
import { apiKey, type ModelCard, messageOf } from './api.js'
import { LANGUAGES, type Language } from './code.js'
import { Controls } from './controls.js'
import {
  choose,
  conversations,
  currentId,
  editTurn,
  giveResults,
  keepProblem,
  regenerate,
  remove,
  resume,
  running,
  send,
  settings,
  startNew,
  titleOf,
} from './conversation.js'
import { Markdown } from './markdown.js'
import { Copy, Dialog, Page, Problem, seconds } from './parts.js'
import {
  type Answer,
  bodyOf,
  type Candidate,
  callsOf,
  canGoOn,
  chosenOf,
  type ToolCall,
  type Turn,
} from './request.js'
import { useStore } from './store.js'
import { Tokens } from './tokens.js'

type Models = readonly ModelCard[]

/** The model that is chosen, or the first that writes. */
export const modelOf = (models: Models, id: string): ModelCard | undefined => {
  const chat = models.filter(({ kind }) => kind === 'chat')
  return chat.find((model) => model.id === id) ?? chat[0]
}

const Thinking = ({ candidate, isLive }: { candidate: Candidate; isLive: boolean }) => {
  const { thinking, tokens, text } = candidate
  if (thinking === '') return null
  const isOn = isLive && text === ''
  return (
    <details class="thinking">
      <summary>{isOn ? 'Thinking …' : 'Thinking'}</summary>
      <Tokens tokens={tokens} text={thinking} label="Thinking">
        <div class="plain">{thinking}</div>
      </Tokens>
    </details>
  )
}

const pretty = (text: string): string => {
  try {
    return JSON.stringify(JSON.parse(text), null, 2)
  } catch {
    return text
  }
}

const Calls = ({ calls }: { calls: readonly ToolCall[] }) => (
  <>
    {calls.map((one) => (
      <figure class="code" key={one.id}>
        <figcaption>
          <span>
            calls <code>{one.name}</code>
          </span>
        </figcaption>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls can be scrolled by keys */}
        <pre tabIndex={0}>
          <code>{pretty(one.arguments)}</code>
        </pre>
      </figure>
    ))}
  </>
)

const ENDS: Readonly<Record<string, string>> = {
  length: 'cut by the limit of tokens',
  tool_calls: 'calls a tool',
}
const CUTS: Readonly<Record<string, string>> = { stopped: 'stopped', lost: 'broke off' }

const Body = ({ candidate, isLive }: { candidate: Candidate; isLive: boolean }) => (
  <>
    <Thinking candidate={candidate} isLive={isLive} />
    <Tokens
      tokens={candidate.calls.length === 0 ? candidate.tokens : []}
      text={candidate.text}
      label="Answer"
    >
      <Markdown text={candidate.text} />
    </Tokens>
    <Calls calls={candidate.calls} />
  </>
)

const Candidates = ({ turn, isLive }: { turn: Answer; isLive: boolean }) => {
  const scored = turn.candidates.some(({ reward }) => reward !== undefined)
  const nothing = turn.candidates.every(({ text, thinking }) => text === '' && thinking === '')
  if (isLive && nothing && settings.get().reward !== '')
    return <p class="waiting">{turn.candidates.length} answers are written and judged …</p>
  return (
    <ol class="candidates">
      {turn.candidates.map((candidate, i) => (
        <li key={i} class={i === turn.chosen ? 'chosen' : ''}>
          <header>
            <span>
              {scored && candidate.reward !== undefined && i === 0 ? 'Best' : `Answer ${i + 1}`}
            </span>
            {typeof candidate.reward === 'number' && (
              <span class="reward">reward {candidate.reward.toFixed(2)}</span>
            )}
            {candidate.reward === null && <span class="reward">too long to be scored</span>}
          </header>
          <Body candidate={candidate} isLive={isLive} />
          {!isLive && (
            <button
              type="button"
              class="quiet"
              aria-pressed={i === turn.chosen}
              onClick={() => choose(turn.id, i)}
            >
              {i === turn.chosen ? 'Goes on with this one' : 'Go on with this one'}
            </button>
          )}
        </li>
      ))}
    </ol>
  )
}

/** What a tool would have said, from the one who tries it. */
const Results = ({ calls, model }: { calls: readonly ToolCall[]; model: ModelCard }) => {
  const [texts, setTexts] = useState<readonly string[]>([])
  const [problem, setProblem] = useState('')
  const submit = (event: Event) => {
    event.preventDefault()
    try {
      giveResults(
        calls.map((one, i) => ({ call: one, text: texts[i] ?? '' })),
        model,
      )
    } catch (error) {
      setProblem(messageOf(error))
    }
  }
  return (
    <form class="results" onSubmit={submit}>
      {calls.map((one, i) => (
        <label class="field" key={one.id}>
          <span class="label">Result of {one.name}</span>
          <textarea
            rows={2}
            value={texts[i] ?? ''}
            onInput={({ currentTarget: { value } }) =>
              setTexts(calls.map((_, j) => (j === i ? value : (texts[j] ?? ''))))
            }
          />
        </label>
      ))}
      {problem && <Problem>{problem}</Problem>}
      <button type="submit">Give {calls.length === 1 ? 'the result' : 'the results'}</button>
    </form>
  )
}

const numbersOf = ({ usage }: Answer): string => {
  if (usage === undefined) return ''
  const { completionTokens, promptTokens, cachedTokens, tokensPerSecond, firstTokenSeconds } = usage
  return [
    `${completionTokens} tokens after ${promptTokens}${cachedTokens > 0 ? ` (${cachedTokens} cached)` : ''}`,
    firstTokenSeconds === null ? '' : `first after ${seconds(firstTokenSeconds)}`,
    tokensPerSecond === null ? '' : `${Math.round(tokensPerSecond)} tokens/s`,
  ]
    .filter(Boolean)
    .join(' · ')
}

type Attempt = (work: (model: ModelCard) => void) => void

type TurnProps<T> = {
  readonly turn: T
  readonly model: ModelCard | undefined
  readonly isLast: boolean
  readonly isLive: boolean
  /** Something is under way in this conversation. */
  readonly isBusy: boolean
  readonly attempt: Attempt
}

const AnswerTurn = (props: TurnProps<Answer>) => {
  const { turn, model, isLast, isLive, isBusy, attempt } = props
  const candidate = chosenOf(turn)
  const isEmpty = candidate.text === '' && candidate.thinking === '' && candidate.calls.length === 0
  const calls = callsOf(candidate)
  const canResume =
    canGoOn(candidate) &&
    calls.length === 0 &&
    (candidate.finish === undefined ? turn.cut !== undefined : candidate.finish === 'length')
  return (
    <li class="turn answer" aria-busy={isLive}>
      <h2>{model?.id ?? 'Answer'}</h2>
      {turn.candidates.length > 1 ? (
        <Candidates turn={turn} isLive={isLive} />
      ) : (
        <Body candidate={candidate} isLive={isLive} />
      )}
      {isLive && isEmpty && turn.candidates.length === 1 && <p class="waiting">…</p>}
      {turn.problem && <Problem>{turn.problem}</Problem>}
      {!isLive && (
        <footer>
          <span class="numbers">
            {[ENDS[candidate.finish ?? ''], CUTS[turn.cut ?? ''], numbersOf(turn)]
              .filter(Boolean)
              .join(' · ')}
          </span>
          {canResume && isLast && !isBusy && (
            <button
              type="button"
              class={turn.cut === 'lost' ? '' : 'quiet'}
              onClick={() => attempt((one) => resume(turn.id, one))}
            >
              Resume
            </button>
          )}
          {isLast && !isBusy && (
            <button
              type="button"
              class="quiet"
              onClick={() => attempt((one) => regenerate(turn.id, one))}
            >
              Regenerate
            </button>
          )}
          {!isEmpty && <Copy text={() => candidate.text} />}
        </footer>
      )}
      {calls.length > 0 && isLast && !isBusy && model && <Results calls={calls} model={model} />}
    </li>
  )
}

const UserTurn = ({ turn, isBusy, attempt }: TurnProps<Extract<Turn, { role: 'user' }>>) => {
  const [text, setText] = useState(turn.edit)
  if (text !== undefined) {
    const submit = (event: Event) => {
      event.preventDefault()
      attempt((model) => {
        editTurn(turn.id, text, model)
        setText(undefined)
      })
    }
    return (
      <li class="turn user editing">
        <form onSubmit={submit}>
          <textarea
            aria-label="Edit what was asked"
            rows={3}
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
          />
          <footer>
            <button type="button" class="quiet" onClick={() => setText(undefined)}>
              Cancel
            </button>
            <button type="submit">Ask again</button>
          </footer>
        </form>
      </li>
    )
  }
  return (
    <li class="turn user">
      <h2 class="hidden">You</h2>
      <div class="plain">{turn.text}</div>
      {!isBusy && (
        <footer>
          <button type="button" class="quiet" onClick={() => setText(turn.text)}>
            Edit
          </button>
        </footer>
      )}
    </li>
  )
}

const ToolTurn = ({ turn }: { turn: Extract<Turn, { role: 'tool' }> }) => (
  <li class="turn tool">
    <h2>{turn.name} gave</h2>
    <div class="plain">{turn.text}</div>
  </li>
)

const CodeDialog = ({ body, onClose }: { body: Record<string, unknown>; onClose: () => void }) => {
  const [language, setLanguage] = useState<Language>('curl')
  const text = LANGUAGES[language](body, location.origin, apiKey.get().text !== '')
  return (
    <Dialog title="This request as code" onClose={onClose}>
      <div class="tabs">
        <div role="tablist" aria-label="Language">
          {(Object.keys(LANGUAGES) as Language[]).map((one) => (
            <button
              key={one}
              type="button"
              role="tab"
              aria-selected={one === language}
              aria-controls="code-panel"
              onClick={() => setLanguage(one)}
            >
              {one}
            </button>
          ))}
        </div>
        <Copy text={() => text} />
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls can be scrolled by keys */}
      <pre id="code-panel" role="tabpanel" aria-label={language} tabIndex={0}>
        <code>{text}</code>
      </pre>
    </Dialog>
  )
}

const List = ({ onChoose }: { onChoose: () => void }) => {
  const all = useStore(conversations)
  const id = useStore(currentId)
  const problem = useStore(keepProblem)
  return (
    <nav class="list" aria-label="Conversations">
      <button
        type="button"
        onClick={() => {
          startNew()
          onChoose()
        }}
      >
        New conversation
      </button>
      <ul>
        {all.map((one) => (
          <li key={one.id} class={one.id === id ? 'current' : ''}>
            <button
              type="button"
              class="quiet title"
              aria-current={one.id === id ? 'true' : undefined}
              onClick={() => {
                currentId.set(one.id)
                onChoose()
              }}
            >
              {titleOf(one)}
            </button>
            {one.turns.length > 0 && (
              <button
                type="button"
                class="quiet icon"
                aria-label={`Delete ${titleOf(one)}`}
                onClick={() => remove(one.id)}
              >
                ×
              </button>
            )}
          </li>
        ))}
      </ul>
      {problem && <Problem>{problem}</Problem>}
      <small>Kept in this browser only.</small>
    </nav>
  )
}

const EXAMPLES = ['How many r in strawberry?', 'What is 17 + 25?', 'Which is greater, 9.11 or 9.8?']

type TurnsProps = {
  readonly id: string
  readonly turns: readonly Turn[]
  readonly model: ModelCard
  readonly attempt: Attempt
}

const Turns = ({ id, turns, model, attempt }: TurnsProps) => {
  const now = useStore(running)
  const scroller = useRef<HTMLElement>(null)
  const sticks = useRef(true)
  useEffect(() => {
    if (sticks.current && scroller.current)
      scroller.current.scrollTop = scroller.current.scrollHeight
  }, [turns])
  useEffect(() => {
    sticks.current = true
  }, [id, turns.length])
  const shown = (turn: Turn, i: number) => {
    const rest = {
      model,
      attempt,
      isBusy: now !== undefined,
      isLast: i === turns.length - 1,
      isLive: now?.turn === turn.id,
    }
    if (turn.role === 'user') return <UserTurn key={turn.id} turn={turn} {...rest} />
    if (turn.role === 'tool') return <ToolTurn key={turn.id} turn={turn} />
    return <AnswerTurn key={turn.id} turn={turn} {...rest} />
  }
  return (
    <section
      class="turns"
      aria-label="Conversation"
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls can be scrolled by keys
      tabIndex={0}
      ref={scroller}
      onScroll={({ currentTarget: box }) => {
        sticks.current = box.scrollHeight - box.scrollTop - box.clientHeight < 60
      }}
    >
      {turns.length > 0 ? (
        <ol>{turns.map(shown)}</ol>
      ) : (
        <div class="welcome">
          <p>
            Ask <strong>{model.id}</strong> something.
          </p>
          <div class="examples">
            {EXAMPLES.map((one) => (
              <button
                type="button"
                class="quiet"
                key={one}
                onClick={() => attempt((to) => send(one, to))}
              >
                {one}
              </button>
            ))}
          </div>
        </div>
      )}
    </section>
  )
}

type ComposerProps = { readonly turns: readonly Turn[]; readonly attempt: Attempt }

const Composer = ({ turns, attempt }: ComposerProps) => {
  const now = useStore(running)
  const [text, setText] = useState('')
  const [code, setCode] = useState<Record<string, unknown>>()
  const isEmpty = text.trim() === ''
  const submit = (event: Event) => {
    event.preventDefault()
    if (isEmpty) return
    attempt((model) => {
      send(text, model)
      setText('')
    })
  }
  const showCode = () => {
    // What would be asked now, or else what was asked last.
    const asked = turns.at(-1)?.role === 'assistant' ? turns.slice(0, -1) : turns
    attempt((model) =>
      setCode(
        bodyOf(
          settings.get(),
          model,
          isEmpty ? asked : [...turns, { id: '', role: 'user' as const, text }],
        ),
      ),
    )
  }
  return (
    <form class="composer" onSubmit={submit}>
      <textarea
        aria-label="Message"
        placeholder="Message"
        rows={1}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) submit(event)
        }}
      />
      <button type="button" class="quiet" onClick={showCode}>
        Code
      </button>
      {now ? (
        <button type="button" onClick={() => now.stop()}>
          Stop
        </button>
      ) : (
        <button type="submit" disabled={isEmpty}>
          Send
        </button>
      )}
      {code && <CodeDialog body={code} onClose={() => setCode(undefined)} />}
    </form>
  )
}

type Panel = 'none' | 'list' | 'controls'

/** What stands beside the chat on a wide screen comes over it on a small one. */
const PanelButton = (props: {
  readonly of: Panel
  readonly open: Panel
  readonly onOpen: (panel: Panel) => void
  readonly label: string
}) => {
  const isOpen = props.of === props.open
  return (
    <button
      type="button"
      class="quiet"
      aria-expanded={isOpen}
      onClick={() => props.onOpen(isOpen ? 'none' : props.of)}
    >
      {props.label}
    </button>
  )
}

export const Chat = ({ models }: { models: Models }) => {
  const all = useStore(conversations)
  const id = useStore(currentId)
  const chosen = useStore(settings)
  const now = useStore(running)
  const [problem, setProblem] = useState('')
  const [panel, setPanel] = useState<Panel>('none')
  const turns = all.find((one) => one.id === id)?.turns ?? []
  const model = modelOf(models, chosen.model)
  if (model === undefined)
    return (
      <Page>
        <h1>Chat</h1>
        <p>This server serves no model that writes answers.</p>
      </Page>
    )
  const attempt: Attempt = (work) => {
    setProblem('')
    try {
      if (now === undefined) work(model)
    } catch (error) {
      setProblem(messageOf(error))
    }
  }
  const isBusy = now?.conversation === id
  const last = turns.at(-1)
  const isThere = last?.role === 'assistant' && !last.problem && !last.cut
  return (
    <div class={`chat show-${panel}`}>
      <List onChoose={() => setPanel('none')} />
      <main>
        <h1 class="hidden">Chat</h1>
        <div class="small-screen">
          <PanelButton of="list" open={panel} onOpen={setPanel} label="Conversations" />
          <PanelButton of="controls" open={panel} onOpen={setPanel} label="Controls" />
        </div>
        <Turns id={id} turns={turns} model={model} attempt={attempt} />
        <p class="hidden" role="status">
          {isBusy ? 'The answer is being written.' : isThere ? 'The answer is there.' : ''}
        </p>
        {problem && <Problem>{problem}</Problem>}
        <Composer turns={turns} attempt={attempt} />
      </main>
      <Controls models={models} model={model} />
    </div>
  )
}
