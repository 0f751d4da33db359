// Text as the model reads it: tokens with their ids, of raw text or of a conversation's prompt.

import { useEffect, useState } from 'preact/hooks'
import { call, type ModelCard, messageOf } from './api.js'
import { Copy, count, Field, Page, Problem, Select } from './parts.js'

type Answer = {
  readonly count: number
  readonly max_model_len: number
  readonly tokens: readonly number[]
  readonly token_strs: readonly string[] | null
}

/** As many as a page shows without effort. */
const MOST = 5000

const shown = (text: string): string => text.replaceAll('\n', '⏎\n')

type Form = 'prompt' | 'messages'

/** Of the last text: an answer to an older one is dropped. */
const useAnswer = (model: string, form: Form, text: string) => {
  const [answer, setAnswer] = useState<Answer>()
  const [problem, setProblem] = useState('')
  useEffect(() => {
    const controller = new AbortController()
    const ask = async () => {
      const said =
        form === 'prompt' ? { prompt: text } : { messages: [{ role: 'user', content: text }] }
      const body = { model, ...said, return_token_strs: true }
      try {
        const response = await call('/tokenize', { body, signal: controller.signal })
        setAnswer(await response.json())
        setProblem('')
      } catch (error) {
        if (!controller.signal.aborted) setProblem(messageOf(error))
      }
    }
    const timer = setTimeout(ask, 150)
    return () => {
      clearTimeout(timer)
      controller.abort()
    }
  }, [text, form, model])
  return { answer, problem }
}

export const TokenizerView = ({ models }: { models: readonly ModelCard[] }) => {
  const [model, setModel] = useState(models[0]?.id ?? '')
  const [form, setForm] = useState<Form>('prompt')
  const [text, setText] = useState('How many r in strawberry?')
  const { answer, problem } = useAnswer(model, form, text)
  const strings = answer?.token_strs?.slice(0, MOST) ?? []
  return (
    <Page>
      <h1>Tokens</h1>
      <div class="row">
        <Select
          label="Model"
          value={model}
          options={models.map(({ id }) => [id, id])}
          onChange={setModel}
        />
        <Select
          label="The text is"
          value={form}
          options={[
            ['prompt', 'a raw prompt'],
            ['messages', 'a message, in the chat template'],
          ]}
          onChange={setForm}
        />
      </div>
      <Field label="Text">
        <textarea rows={4} value={text} onInput={(event) => setText(event.currentTarget.value)} />
      </Field>
      {problem && <Problem>{problem}</Problem>}
      {answer && (
        <>
          <p role="status">
            <strong>{count(answer.count)}</strong> of {count(answer.max_model_len)} tokens,{' '}
            {count(text.length)} characters{' '}
            <Copy text={() => answer.tokens.join(', ')} label="Copy ids" />
          </p>
          <ol class="pieces" aria-label="Tokens">
            {strings.map((piece, i) => (
              <li key={i}>
                <code>{shown(piece)}</code>
                <small>{answer.tokens[i]}</small>
              </li>
            ))}
          </ol>
          {answer.count > MOST && <p>The first {count(MOST)} are shown.</p>}
        </>
      )}
    </Page>
  )
}
