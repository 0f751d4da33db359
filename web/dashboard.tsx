// What the server does now, from its one stream of events: numbers, and five minutes of each as a line.

import { useEffect, useRef, useState } from 'preact/hooks'
import uPlot from 'uplot'
import {
  type Activity,
  call,
  eventsOf,
  type Key,
  messageOf,
  ServerError,
  type ServerEvent,
} from './api.js'
import { GiveKey, Page, Problem, Select, seconds } from './parts.js'

/** Points that are kept, one a second. */
const KEPT = 300

type Point = { readonly time: number } & Readonly<Record<Measure, number | null>>
type Measure =
  | 'running'
  | 'waiting'
  | 'kv'
  | 'tokens'
  | 'firstToken'
  | 'betweenTokens'
  | 'rows'
  | 'hits'

const percent = (value: number): string => `${Math.round(value * 100)} %`
const whole = (value: number): string => String(Math.round(value))
const short = (value: number): string =>
  value < 0.01 ? `${(value * 1000).toFixed(1)} ms` : seconds(value)

const MEASURES: readonly (readonly [Measure, string, string, (value: number) => string])[] = [
  ['running', 'Running', 'answers', whole],
  ['waiting', 'Waiting', 'answers', whole],
  ['kv', 'KV cache', 'in use', percent],
  ['tokens', 'Written', 'tokens a second', whole],
  ['firstToken', 'First token', 'mean of the last second', short],
  ['betweenTokens', 'Between tokens', 'mean of the last second', short],
  ['rows', 'Rows', 'a step', (value) => (value < 10 ? value.toFixed(1) : whole(value))],
  ['hits', 'Prefix hits', 'of the tokens looked up', percent],
]

/** What `of` grew by, for each that `by` grew by; null: `by` did not. */
const growth = (of: number, by: number): number | null => (by > 0 ? of / by : null)

export const pointOf = (now: ServerEvent, before: ServerEvent | undefined, id: string): Point => {
  const chosen = (event: ServerEvent | undefined) =>
    event?.models.filter((model) => id === '' || model.id === id) ?? []
  const sum = (event: ServerEvent | undefined, read: (model: Activity) => number) =>
    chosen(event).reduce((total, model) => total + read(model), 0)
  // A counter that fell began again: the server is a new one.
  const grown = (read: (model: Activity) => number) =>
    before === undefined ? 0 : Math.max(0, sum(now, read) - sum(before, read))
  return {
    time: now.time,
    running: sum(now, (model) => model.running),
    waiting: sum(now, (model) => model.waiting),
    kv:
      sum(now, (model) => model.kv_blocks_used) /
      Math.max(
        1,
        sum(now, (model) => model.kv_blocks),
      ),
    tokens:
      before === undefined
        ? null
        : growth(
            grown((model) => model.generation_tokens),
            now.time - before.time,
          ),
    firstToken: growth(
      grown((model) => model.time_to_first_token_seconds.sum),
      grown((model) => model.time_to_first_token_seconds.count),
    ),
    betweenTokens: growth(
      grown((model) => model.inter_token_latency_seconds.sum),
      grown((model) => model.inter_token_latency_seconds.count),
    ),
    rows: growth(
      grown((model) => model.rows),
      grown((model) => model.steps),
    ),
    hits: growth(
      grown((model) => model.prefix_cache_hits),
      grown((model) => model.prefix_cache_queries),
    ),
  }
}

const Line = ({ points, measure }: { points: readonly Point[]; measure: Measure }) => {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot>(null)
  const data: uPlot.AlignedData = [
    points.map(({ time }) => time),
    points.map((point) => point[measure]),
  ]
  useEffect(() => {
    const element = box.current
    if (element === null) return
    const colour = () => getComputedStyle(element).color
    const size = () => ({ width: element.clientWidth, height: 56 })
    const made = new uPlot(
      {
        ...size(),
        legend: { show: false },
        cursor: { show: false },
        padding: [4, 0, 4, 0],
        axes: [{ show: false }, { show: false }],
        scales: {
          x: { range: (_, from, to) => [Math.min(from, to - 60), to] },
          y: {
            range: (_, __, to) => [
              0,
              Math.max(to, measure === 'kv' || measure === 'hits' ? 1 : 0) || 1,
            ],
          },
        },
        series: [
          {},
          {
            stroke: () => colour(),
            fill: () => colour().replace('rgb(', 'rgba(').replace(')', ', 0.12)'),
            width: 1.5,
            spanGaps: true,
            points: { show: false },
          },
        ],
      },
      data,
      element,
    )
    plot.current = made
    const observer = new ResizeObserver(() => made.setSize(size()))
    observer.observe(element)
    return () => {
      observer.disconnect()
      made.destroy()
    }
  }, [measure])
  useEffect(() => plot.current?.setData(data), [points])
  return <div class="line" ref={box} aria-hidden="true" />
}

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

/** `isRefused`: a key has to come first. */
type Lost = { readonly why: string; readonly isRefused: boolean }

/** Follows the stream, and looks for the server again when it is gone. */
const follow = async (
  signal: AbortSignal,
  onEvent: (event: ServerEvent) => void,
  onLost: (lost: Lost) => void,
): Promise<void> => {
  while (!signal.aborted) {
    try {
      const response = await call('/v1/server/events', { signal })
      for await (const data of eventsOf(response)) onEvent(JSON.parse(data))
      if (!signal.aborted)
        onLost({ why: 'The server ended its stream of events.', isRefused: false })
    } catch (error) {
      if (signal.aborted) return
      // A key has to come first, and then this view begins again.
      const isRefused = error instanceof ServerError && error.status === 401
      onLost({ why: messageOf(error), isRefused })
      if (isRefused) return
    }
    await sleep(1000)
  }
}

export const Dashboard = ({ apiKey }: { apiKey: Key }) => {
  const [events, setEvents] = useState<readonly ServerEvent[]>([])
  const [lost, setLost] = useState<Lost>()
  const [model, setModel] = useState('')
  useEffect(() => {
    const controller = new AbortController()
    follow(
      controller.signal,
      (event) => {
        setLost(undefined)
        setEvents((all) => [...all.slice(1 - KEPT), event])
      },
      setLost,
    )
    return () => controller.abort()
  }, [apiKey])
  const points = events.map((event, i) => pointOf(event, events[i - 1], model))
  const last = events.at(-1)
  const point = points.at(-1)
  const models = last?.models ?? []
  const sum = (read: (one: Activity) => number) =>
    models.filter(({ id }) => model === '' || id === model).reduce((all, one) => all + read(one), 0)
  return (
    <Page>
      <h1>Live</h1>
      <div class="row">
        <Select
          label="Model"
          value={model}
          options={[['', 'all'], ...models.map(({ id }) => [id, id] as const)]}
          onChange={setModel}
        />
        <p class="phase" role="status">
          <i class={!lost && last?.phase === 'ready' ? 'good' : 'bad'} aria-hidden="true" />{' '}
          {lost
            ? `No connection${lost.isRefused ? '.' : '; trying again.'}`
            : (last?.message ?? 'Connecting …')}
        </p>
        {lost?.isRefused && <GiveKey />}
      </div>
      {lost && <Problem>{lost.why}</Problem>}
      <div class="tiles">
        {MEASURES.map(([measure, label, unit, shown]) => {
          const value = point?.[measure]
          return (
            <section class="tile" key={measure} aria-label={label}>
              <h2>{label}</h2>
              <p>
                <strong>{typeof value === 'number' ? shown(value) : '–'}</strong>{' '}
                <small>{unit}</small>
              </p>
              <Line points={points} measure={measure} />
            </section>
          )
        })}
      </div>
      <p class="quiet-text">
        Since the start: {sum((one) => one.generation_tokens).toLocaleString('en-US')} tokens
        written, {sum((one) => one.prompt_tokens).toLocaleString('en-US')} prompt tokens computed,{' '}
        {sum((one) => one.preemptions)} preemptions, {sum((one) => one.rejected)} refused,{' '}
        {sum((one) => one.failed)} failed. The lines are the last five minutes.
      </p>
    </Page>
  )
}
