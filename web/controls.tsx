// What a request asks for beside its messages.

import type { ModelCard } from './api.js'
import { settings } from './conversation.js'
import { Field, Select } from './parts.js'
import { DEFAULTS, EXAMPLE_SCHEMA, EXAMPLE_TOOLS, type Settings } from './request.js'
import { useStore } from './store.js'

type Text = { [K in keyof Settings]: Settings[K] extends string ? K : never }[keyof Settings]

const set = <K extends keyof Settings>(name: K, value: Settings[K]): void =>
  settings.update((all) => ({ ...all, [name]: value }))

type NumberProps = { readonly name: Text; readonly label: string; readonly hint?: string }

const NumberField = ({ name, label, hint }: NumberProps) => {
  const value = useStore(settings)[name]
  return (
    <Field label={label}>
      <input
        type="text"
        inputMode="decimal"
        autocomplete="off"
        placeholder={hint ?? 'default'}
        value={value}
        onInput={(event) => set(name, event.currentTarget.value as never)}
      />
    </Field>
  )
}

type AreaProps = NumberProps & { readonly rows: number; readonly example?: string }

const Area = ({ name, label, hint, rows, example }: AreaProps) => {
  const value = useStore(settings)[name]
  return (
    <div>
      <Field label={label}>
        <textarea
          class={example ? 'mono' : ''}
          spellcheck={false}
          rows={rows}
          placeholder={hint}
          value={value}
          onInput={(event) => set(name, event.currentTarget.value as never)}
        />
      </Field>
      {example && value === '' && (
        <button type="button" class="quiet" onClick={() => set(name, example as never)}>
          Try an example
        </button>
      )}
      {example && value !== '' && (
        <button type="button" class="quiet" onClick={() => set(name, '' as never)}>
          Leave out
        </button>
      )}
    </div>
  )
}

const Numbers = () => (
  <>
    <div class="row">
      <NumberField name="temperature" label="Temperature" />
      <NumberField name="topP" label="Top p" />
    </div>
    <div class="row">
      <NumberField name="topK" label="Top k" />
      <NumberField name="seed" label="Seed" hint="random" />
    </div>
    <div class="row">
      <NumberField name="maxTokens" label="Most tokens" hint="what fits" />
      <NumberField name="n" label="Candidates" hint="1" />
    </div>
  </>
)

const Forms = () => {
  const all = useStore(settings)
  return (
    <>
      <details open={all.tools !== '' || undefined}>
        <summary>Tools</summary>
        <Area name="tools" label="Functions, as JSON" rows={6} example={EXAMPLE_TOOLS} />
        {all.tools !== '' && (
          <Select
            label="The model"
            value={all.toolChoice}
            options={[
              ['auto', 'may call'],
              ['required', 'has to call'],
              ['none', 'does not call'],
            ]}
            onChange={(value) => set('toolChoice', value)}
          />
        )}
      </details>
      <details open={all.schema !== '' || undefined}>
        <summary>Answer schema</summary>
        <Area name="schema" label="JSON Schema" rows={6} example={EXAMPLE_SCHEMA} />
      </details>
    </>
  )
}

type Props = { readonly models: readonly ModelCard[]; readonly model: ModelCard }

export const Controls = ({ models, model }: Props) => {
  const all = useStore(settings)
  const chat = models.filter(({ kind }) => kind === 'chat')
  const judges = models.filter(({ kind }) => kind === 'reward')
  const { reasoning } = model
  const isChanged = (Object.keys(DEFAULTS) as (keyof Settings)[]).some(
    (name) => name !== 'model' && all[name] !== DEFAULTS[name],
  )
  return (
    <aside class="controls" aria-label="Controls">
      <Select
        label="Model"
        value={model.id}
        options={chat.map(({ id }) => [id, id])}
        onChange={(id) => set('model', id)}
      />
      <Area name="system" label="System message" rows={2} hint="none" />
      {reasoning && (
        <div class="row">
          <Select
            label="Thinking"
            value={all.thinking}
            options={[
              ['default', `default (${reasoning.default_thinking ? 'on' : 'off'})`],
              ['on', 'on'],
              ['off', 'off'],
            ]}
            onChange={(value) => set('thinking', value)}
          />
          <NumberField name="thinkingBudget" label="Thinking budget" hint="tokens" />
        </div>
      )}
      <Numbers />
      {judges.length > 0 && (
        <Select
          label="Best of the candidates, by"
          value={judges.some(({ id }) => id === all.reward) ? all.reward : ''}
          options={[['', 'nobody'], ...judges.map(({ id }) => [id, id] as const)]}
          onChange={(id) => set('reward', id)}
        />
      )}
      <Area name="stop" label="Stop texts, one a line" rows={1} hint="none" />
      <label class="check">
        <input
          type="checkbox"
          checked={all.probabilities}
          onChange={(event) => set('probabilities', event.currentTarget.checked)}
        />
        Token probabilities
      </label>
      <Forms />
      {isChanged && (
        <button
          type="button"
          class="quiet"
          onClick={() => settings.set({ ...DEFAULTS, model: all.model })}
        >
          All as by default
        </button>
      )}
    </aside>
  )
}
