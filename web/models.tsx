// What each model is, and how its memory is planned.

import type { ModelCard, ServerCard } from './api.js'
import { bytes, count, Page } from './parts.js'

const Plan = ({ memory }: { memory: ModelCard['memory'] }) => {
  const { weights, kv_cache: kv, activations, available } = memory
  const parts = [
    ['weights', 'Weights', weights],
    ['kv', 'KV cache', kv],
    ['activations', 'Activations', activations],
    ['reserve', 'Reserve', Math.max(0, memory.total - weights - kv - activations)],
    ['free', 'Left free', Math.max(0, available - memory.total)],
  ] as const
  const whole = parts.reduce((sum, [, , size]) => sum + size, 0)
  // What is too thin to be seen is as wide as a line.
  const width = (size: number) => `max(2px, ${(100 * size) / Math.max(1, whole)}%)`
  return (
    <figure class="plan">
      <figcaption>
        Memory plan: {bytes(memory.total)} of {bytes(available)}
      </figcaption>
      <div class="bar" aria-hidden="true">
        {parts.map(
          ([name, , size]) =>
            size > 0 && <i key={name} class={name} style={{ width: width(size) }} />,
        )}
      </div>
      <dl>
        {parts.map(([name, label, size]) => (
          <div key={name}>
            <dt>
              <i class={name} aria-hidden="true" /> {label}
            </dt>
            <dd>{bytes(size)}</dd>
          </div>
        ))}
      </dl>
    </figure>
  )
}

const Card = ({ model }: { model: ModelCard }) => {
  const { memory, reasoning } = model
  const rows: readonly (readonly [string, string | undefined])[] = [
    ['Also called', model.aliases.join(', ') || undefined],
    ['From', model.root],
    ['Architecture', model.architecture],
    ['Device', `${model.device}: ${model.device_note}`],
    ['Weights', model.dtype],
    ['Context', `${count(model.max_model_len)} tokens`],
    ['Vocabulary', `${count(model.vocab_size)} tokens`],
    [
      'KV cache',
      `${count(memory.kv_tokens)} tokens in ${count(memory.kv_blocks)} blocks of ${memory.block_size}, ${bytes(memory.kv_bytes_per_token)} a token`,
    ],
    [
      'At once',
      `${count(model.max_num_seqs)} run, ${count(model.places - model.max_num_seqs)} wait; ${count(model.max_num_batched_tokens)} rows a step`,
    ],
    [
      'Thinking',
      reasoning
        ? `${reasoning.default_thinking ? 'on' : 'off'} by default; on: temperature ${reasoning.on.temperature}, top p ${reasoning.on.top_p}`
        : undefined,
    ],
    ['Rewards', model.reward_outputs?.join(', ')],
    ['Loaded', `${bytes(model.checkpoint_bytes)} in ${model.load_seconds.toFixed(2)} s`],
    ['Fingerprint', model.fingerprint],
  ]
  return (
    <section class="card" aria-label={model.id}>
      <header>
        <h2>{model.id}</h2>
        <span class="tag">{model.kind}</span>
      </header>
      <Plan memory={memory} />
      <table>
        <tbody>
          {rows.map(
            ([name, value]) =>
              value !== undefined && (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td>{value}</td>
                </tr>
              ),
          )}
        </tbody>
      </table>
    </section>
  )
}

export const ModelsView = ({ server }: { server: ServerCard }) => (
  <Page>
    <h1>Models</h1>
    {server.models.map((model) => (
      <Card key={model.id} model={model} />
    ))}
    <p class="quiet-text">nemotron-server {server.version}</p>
  </Page>
)
