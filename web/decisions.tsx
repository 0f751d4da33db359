// Questions with probabilities for answers: a text, typed questions about it, and a bar for each option.

import { useState } from 'preact/hooks'
import { call, type ModelCard, messageOf } from './api.js'
import { count, Field, Page, Problem, Select } from './parts.js'

const TYPES = [
  ['predicate', 'a statement, true or not'],
  ['choice', 'one of several options'],
  ['score', 'a level, from the lowest on'],
] as const
type Type = (typeof TYPES)[number][0]

type Question = {
  readonly id: number
  readonly type: Type
  readonly instructions: string
  /** One a line; a predicate has none. */
  readonly options: string
}

type Option = { readonly probability: number }
type Answer = { readonly label_mass: number } & (
  | { readonly type: 'predicate'; readonly probability: number }
  | {
      readonly type: 'choice'
      readonly choice: string
      readonly confidence: number
      readonly probabilities: readonly (Option & { readonly value: string })[]
    }
  | {
      readonly type: 'score'
      readonly score: number
      readonly confidence: number
      readonly probabilities: readonly (Option & { readonly label: string })[]
    }
)

type Decision = {
  readonly answers: readonly Answer[]
  readonly usage: {
    readonly input_tokens: number
    readonly input_tokens_details: { readonly cached_tokens: number }
  }
}

const EXAMPLES: readonly Question[] = [
  { id: 0, type: 'predicate', instructions: 'The customer is content.', options: '' },
  {
    id: 1,
    type: 'choice',
    instructions: 'What is the message about?',
    options: 'delivery\npayment\nquality',
  },
  {
    id: 2,
    type: 'score',
    instructions: 'How urgent is it?',
    options: 'not at all\nsomewhat\nvery',
  },
]

const linesOf = (text: string): readonly string[] =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean)

const bodyOf = ({ type, instructions, options }: Question) => {
  if (type === 'predicate') return { type, instructions }
  if (type === 'choice')
    return { type, instructions, choices: linesOf(options).map((value) => ({ value })) }
  return { type, instructions, levels: linesOf(options).map((label) => ({ label })) }
}

const percent = (share: number): string => {
  if (share > 0 && share < 0.001) return '< 0.1 %'
  return `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`
}

/** What has a bar, and what is said in a sentence. */
const shownOf = (
  answer: Answer,
): { bars: readonly (readonly [string, number])[]; text: string } => {
  if (answer.type === 'predicate') {
    const { probability } = answer
    const bars = [['true', probability] as const, ['false', 1 - probability] as const]
    return { bars, text: probability >= 0.5 ? 'true' : 'false' }
  }
  if (answer.type === 'choice') {
    const { probabilities, choice, confidence } = answer
    const bars = probabilities.map(({ value, probability }) => [value, probability] as const)
    return { bars, text: `${choice}, confidence ${percent(confidence)}` }
  }
  const { probabilities, score, confidence } = answer
  const bars = probabilities.map(({ label, probability }) => [label, probability] as const)
  const most = probabilities.length - 1
  return { bars, text: `${score.toFixed(2)} of ${most}, confidence ${percent(confidence)}` }
}

const AnswerView = ({ answer }: { answer: Answer }) => {
  const { bars, text } = shownOf(answer)
  return (
    <div class="answer-bars">
      <p>
        <strong>{text}</strong>
      </p>
      <dl class="bars">
        {bars.map(([name, share]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              <span class="bar" aria-hidden="true">
                <i style={{ width: `${share * 100}%` }} />
              </span>
              {percent(share)}
            </dd>
          </div>
        ))}
      </dl>
      <p class="numbers">
        The labels have {percent(answer.label_mass)} of what the model might have said
        {answer.label_mass < 0.1
          ? ': it did not mean to answer so, and the shares say little.'
          : '.'}
      </p>
    </div>
  )
}

type QuestionProps = {
  readonly question: Question
  readonly number: number
  readonly answer: Answer | undefined
  readonly onChange: (change: Partial<Question>) => void
  readonly onRemove: (() => void) | undefined
}

const QuestionView = ({ question, number, answer, onChange, onRemove }: QuestionProps) => (
  <section class="card" aria-label={`Question ${number}`}>
    <div class="row">
      <Field label={question.type === 'predicate' ? 'Statement' : 'Question'}>
        <input
          value={question.instructions}
          onInput={(event) => onChange({ instructions: event.currentTarget.value })}
        />
      </Field>
      <Select
        label="The answer is"
        value={question.type}
        options={TYPES}
        onChange={(type) => onChange({ type })}
      />
    </div>
    {question.type !== 'predicate' && (
      <Field label={question.type === 'choice' ? 'Options, one a line' : 'Levels, one a line'}>
        <textarea
          rows={3}
          value={question.options}
          onInput={(event) => onChange({ options: event.currentTarget.value })}
        />
      </Field>
    )}
    {answer && <AnswerView answer={answer} />}
    {onRemove && (
      <footer>
        <button type="button" class="quiet" onClick={onRemove}>
          Remove
        </button>
      </footer>
    )}
  </section>
)

type Asked = {
  readonly model: string
  readonly text: string
  readonly questions: readonly Question[]
}
type Said = Asked & { readonly decision?: Decision; readonly problem?: string }

/** What was said to these questions; what was said to others is none of theirs. */
const useDecision = ({ model, text, questions }: Asked) => {
  const [said, setSaid] = useState<Said>()
  const [isBusy, setBusy] = useState(false)
  const ask = async () => {
    setBusy(true)
    setSaid(undefined)
    const asked = { model, text, questions }
    try {
      const body = { model, input: text, questions: questions.map(bodyOf) }
      setSaid({ ...asked, decision: await (await call('/v1/decisions', { body })).json() })
    } catch (error) {
      setSaid({ ...asked, problem: messageOf(error) })
    }
    setBusy(false)
  }
  const isOfThese = said?.model === model && said.text === text && said.questions === questions
  return { ...(isOfThese && said), isBusy, ask }
}

export const DecisionsView = ({ models }: { models: readonly ModelCard[] }) => {
  const [model, setModel] = useState(models.find(({ kind }) => kind === 'chat')?.id ?? '')
  const [text, setText] = useState('My parcel came a week late, and nobody answers my letters!')
  const [questions, setQuestions] = useState(EXAMPLES)
  const { decision, problem, isBusy, ask } = useDecision({ model, text, questions })
  const add = () => {
    const id = Math.max(...questions.map((one) => one.id)) + 1
    setQuestions([...questions, { id, type: 'predicate', instructions: '', options: '' }])
  }
  const submit = (event: Event) => {
    event.preventDefault()
    ask()
  }
  return (
    <Page>
      <h1>Decisions</h1>
      <form class="decisions" onSubmit={submit}>
        <Select
          label="Model"
          value={model}
          options={models.map(({ id }) => [id, id])}
          onChange={setModel}
        />
        <Field label="Text">
          <textarea rows={3} value={text} onInput={(event) => setText(event.currentTarget.value)} />
        </Field>
        {questions.map((question, i) => (
          <QuestionView
            key={question.id}
            question={question}
            number={i + 1}
            answer={decision?.answers[i]}
            onChange={(some) =>
              setQuestions(questions.map((one) => (one === question ? { ...one, ...some } : one)))
            }
            onRemove={
              questions.length > 1
                ? () => setQuestions(questions.filter((one) => one !== question))
                : undefined
            }
          />
        ))}
        {problem && <Problem>{problem}</Problem>}
        <footer>
          <button type="button" class="quiet" onClick={add}>
            Add a question
          </button>
          <button type="submit" disabled={isBusy}>
            Decide
          </button>
        </footer>
        <p role="status">
          {decision &&
            `${count(decision.usage.input_tokens)} tokens read, ${count(decision.usage.input_tokens_details.cached_tokens)} of them from the cache, none written.`}
        </p>
      </form>
    </Page>
  )
}
