// The page: which view is shown, the key, the colours.

import { type ComponentType, render } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import {
  apiKey,
  call,
  type Key,
  keyWanted,
  messageOf,
  type ServerCard,
  ServerError,
} from './api.js'
import { Chat, modelOf } from './chat.js'
import { settings } from './conversation.js'
import { Dialog, Field, GiveKey, Page, Problem } from './parts.js'
import { createStore, keep, recall, useStore } from './store.js'

const VIEWS = {
  chat: 'Chat',
  decisions: 'Decisions',
  tokens: 'Tokens',
  live: 'Live',
  models: 'Models',
  api: 'API',
} as const
type View = keyof typeof VIEWS

const viewOf = (hash: string): View => {
  const name = hash.replace('#', '')
  if (name in VIEWS) return name as View
  return location.pathname.startsWith('/docs') ? 'api' : 'chat'
}

const THEMES = ['auto', 'light', 'dark'] as const
type Theme = (typeof THEMES)[number]
const keptTheme = recall(localStorage, 'theme')
const theme = createStore<Theme>(THEMES.find((one) => one === keptTheme) ?? 'auto')
const paint = (value: Theme) => {
  document.documentElement.dataset.theme = value
}
paint(theme.get())
theme.subscribe((value) => {
  paint(value)
  keep(localStorage, 'theme', value)
})

/** A view that is loaded when it is first shown. */
const later = <P extends object>(load: () => Promise<ComponentType<P>>) => {
  let loaded: ComponentType<P> | undefined
  return (props: P) => {
    const [View, setView] = useState<ComponentType<P> | undefined>(() => loaded)
    const [problem, setProblem] = useState('')
    useEffect(() => {
      if (loaded) return
      load().then(
        (view) => {
          loaded = view
          setView(() => view)
        },
        () => setProblem('This part of the page could not be loaded. Is the server there?'),
      )
    }, [])
    if (problem) return <Problem>{problem}</Problem>
    return View ? <View {...props} /> : <Page />
  }
}

const Dashboard = later(() => import('./dashboard.js').then((all) => all.Dashboard))
const DecisionsView = later(() => import('./decisions.js').then((all) => all.DecisionsView))
const TokenizerView = later(() => import('./tokenizer.js').then((all) => all.TokenizerView))
const ModelsView = later(() => import('./models.js').then((all) => all.ModelsView))
const ReferenceView = later(() => import('./reference.js').then((all) => all.ReferenceView))

/** What no key of a server can have, in words; undefined: nothing. */
const unfitOf = (key: string): string | undefined => {
  const [bad] = /[^\x21-\x7e]/u.exec(key) ?? []
  if (bad === undefined) return undefined
  const code = (bad.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')
  return `A key cannot have the character '${bad}' (U+${code}).`
}

const KeyDialog = ({ why }: { why: string }) => {
  const [key, setKey] = useState(apiKey.get().text)
  const [problem, setProblem] = useState<string>()
  const submit = (event: Event) => {
    event.preventDefault()
    const text = key.trim()
    const unfit = unfitOf(text)
    setProblem(unfit)
    if (unfit !== undefined) return
    keyWanted.set(undefined)
    apiKey.set({ text })
  }
  return (
    <Dialog title="API key" onClose={() => keyWanted.set(undefined)}>
      <form onSubmit={submit}>
        <p>{why}</p>
        <Field label="Key" hint="Kept until this tab is closed, and sent to this server alone.">
          <input
            type="password"
            autocomplete="off"
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
        </Field>
        {problem && <Problem>{problem}</Problem>}
        <button type="submit">Use this key</button>
      </form>
    </Dialog>
  )
}

type State =
  | { readonly name: 'waiting'; readonly why: string }
  | { readonly name: 'there'; readonly server: ServerCard }

/** Asks until the models are loaded. */
const useServer = (key: Key): State => {
  const [state, setState] = useState<State>({ name: 'waiting', why: '' })
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined
    let isOver = false
    const ask = async () => {
      try {
        const server: ServerCard = await (await call('/v1/server')).json()
        if (!isOver) setState({ name: 'there', server })
      } catch (error) {
        if (isOver) return
        setState({ name: 'waiting', why: messageOf(error) })
        const isRefused = error instanceof ServerError && error.status === 401
        if (!isRefused) timer = setTimeout(ask, 1000)
      }
    }
    ask()
    return () => {
      isOver = true
      clearTimeout(timer)
    }
  }, [key])
  return state
}

const Content = ({ view, state }: { view: View; state: State }) => {
  const key = useStore(apiKey)
  const why = useStore(keyWanted)
  const chosen = useStore(settings)
  if (view === 'live') return <Dashboard apiKey={key} />
  if (view === 'api') {
    const models = state.name === 'there' ? state.server.models : []
    const model = modelOf(models, chosen.model)?.id ?? 'MODEL'
    return <ReferenceView model={model} hasKey={key.text !== '' || why !== undefined} />
  }
  if (state.name === 'waiting')
    return (
      <Page>
        <h1>{VIEWS[view]}</h1>
        {state.why === '' ? null : (
          <p role="status">
            {state.why} {why === undefined && <GiveKey />}
          </p>
        )}
      </Page>
    )
  const { models } = state.server
  if (view === 'decisions') return <DecisionsView models={models} />
  if (view === 'tokens') return <TokenizerView models={models} />
  if (view === 'models') return <ModelsView server={state.server} />
  return <Chat models={models} />
}

const App = () => {
  const [view, setView] = useState(viewOf(location.hash))
  const key = useStore(apiKey)
  const why = useStore(keyWanted)
  const colours = useStore(theme)
  const state = useServer(key)
  useEffect(() => {
    const follow = () => setView(viewOf(location.hash))
    addEventListener('hashchange', follow)
    return () => removeEventListener('hashchange', follow)
  }, [])
  useEffect(() => {
    document.title = `${VIEWS[view]} · nemotron-server`
  }, [view])
  const nextTheme = THEMES[(THEMES.indexOf(colours) + 1) % THEMES.length] ?? 'auto'
  const names = Object.keys(VIEWS) as View[]
  return (
    <>
      <header class="top">
        <a class="brand" href="#chat">
          nemotron<span>-server</span>
        </a>
        <nav aria-label="Views">
          {names.map((one) => (
            <a key={one} href={`#${one}`} aria-current={one === view ? 'page' : undefined}>
              {VIEWS[one]}
            </a>
          ))}
        </nav>
        <button
          type="button"
          class="quiet theme"
          aria-label={`Colours: ${colours}. Change to ${nextTheme}`}
          onClick={() => theme.set(nextTheme)}
        >
          {{ auto: '◐', light: '☀', dark: '☾' }[colours]}
        </button>
      </header>
      <Content view={view} state={state} />
      {why !== undefined && <KeyDialog why={why} />}
    </>
  )
}

const root = document.getElementById('app')
if (root) render(<App />, root)
