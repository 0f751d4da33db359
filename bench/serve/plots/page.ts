// The script of the report, in the browser: tables and plots of the results that stand in the page.

import uPlot from 'uplot'
import type { Metric, Result, Run } from '../figures.js'

type Named = { readonly name: string; readonly result: Result }
/** A run under the name that tells it from the others. */
type Shown = { readonly label: string; readonly run: Run }

const COLOURS = ['#2f7ed8', '#d9822b', '#2e9e5b', '#b0413e', '#7a5cc0', '#0d9ba8', '#9a7b1d']
const colour = (i: number): string => COLOURS[i % COLOURS.length] ?? ''

const element = <K extends keyof HTMLElementTagNameMap>(
  name: K,
  text = '',
  ...inside: readonly Node[]
): HTMLElementTagNameMap[K] => {
  const made = document.createElement(name)
  made.textContent = text
  made.append(...inside)
  return made
}

const loadOf = ({ rate, concurrency }: Run): string =>
  rate !== null ? `${rate}/s` : `${concurrency} at once`

const shown = (value: number | null | undefined): string =>
  value === null || value === undefined
    ? '-'
    : value >= 100 || Number.isInteger(value)
      ? value.toFixed(0)
      : value.toPrecision(3)

const tableOf = (rows: readonly (readonly string[])[]): HTMLElement => {
  const [head = [], ...body] = rows
  const row = (cells: readonly string[], kind: 'th' | 'td') =>
    element('tr', '', ...cells.map((cell) => element(kind, cell)))
  const made = element(
    'table',
    '',
    element('thead', '', row(head, 'th')),
    element('tbody', '', ...body.map((cells) => row(cells, 'td'))),
  )
  const scroll = element('div', '', made)
  scroll.className = 'scroll'
  return scroll
}

type Line = {
  readonly label: string
  readonly points: readonly (readonly [number, number | null])[]
  /** Dots without a line. */
  readonly dots?: boolean
}

type Axes = { readonly title: string; readonly x: string; readonly y: string }

const plot = ({ title, x, y }: Axes, lines: readonly Line[]): HTMLElement => {
  const place = element('div')
  const figure = element('figure', '', element('figcaption', title), place)
  const tables = lines.map(({ points }): [number[], (number | null)[]] => {
    const sorted = points.toSorted(([a], [b]) => a - b)
    // uPlot keeps one point for each x: those of a burst stand a little beside each other.
    let last = Number.NEGATIVE_INFINITY
    const xs = sorted.map(([at]) => {
      last = Math.max(at, last + 1e-6)
      return last
    })
    return [xs, sorted.map(([, value]) => value)]
  })
  const ink = getComputedStyle(document.body).color
  const axis = (label: string) => ({
    ...{ label, stroke: ink, grid: { stroke: '#8883' }, ticks: { stroke: '#8883' } },
  })
  const draw = () => {
    const options: uPlot.Options = {
      ...{ width: Math.max(300, place.clientWidth), height: 280 },
      scales: { x: { time: false } },
      axes: [axis(x), { ...axis(y), size: 64 }],
      series: [
        { label: x },
        ...lines.map(({ label, dots = false }, i) => ({
          ...{ label, stroke: colour(i), spanGaps: true, points: { show: dots || undefined } },
          ...(dots && { paths: () => null }),
        })),
      ] as uPlot.Series[],
    }
    place.replaceChildren()
    new uPlot(options, uPlot.join(tables), place)
  }
  queueMicrotask(draw)
  addEventListener('resize', draw)
  return figure
}

const section = (title: string, ...inside: readonly Node[]): HTMLElement =>
  element('section', '', element('h2', title), ...inside)

const plots = (...figures: readonly HTMLElement[]): HTMLElement => {
  const grid = element('div', '', ...figures)
  grid.className = 'plots'
  return grid
}

const summaryOf = (runs: readonly Shown[]): HTMLElement => {
  const columns: readonly (readonly [string, (run: Run) => number | null | undefined])[] = [
    ['answered', ({ figures }) => figures.completed],
    ['failed', ({ figures }) => figures.failed],
    ['requests/s', ({ figures }) => figures.request_throughput],
    ['goodput/s', ({ figures }) => figures.request_goodput],
    ['output tok/s', ({ figures }) => figures.output_throughput],
    ...['ttft', 'tpot', 'itl', 'e2el'].flatMap((metric) =>
      ['median', 'p99'].map(
        (column) =>
          [
            `${column} ${metric.toUpperCase()} ms`,
            (run: Run) => run.latencies[`${column}_${metric}_ms`],
          ] as const,
      ),
    ),
    ['sent late p99 ms', ({ figures }) => figures.p99_late_ms],
  ]
  return section(
    'Runs',
    tableOf([
      ['load', ...columns.map(([name]) => name)],
      ...runs.map(({ label, run }) => [label, ...columns.map(([, read]) => shown(read(run)))]),
    ]),
  )
}

/** A curve for each result with several runs. */
const sweepsOf = (results: readonly Named[]): HTMLElement[] => {
  const sweeps = results.filter(({ result }) => result.runs.length > 1)
  if (sweeps.length === 0) return []
  const many = sweeps.length > 1
  const against = (metric: 'ttft' | 'tpot' | 'e2el'): HTMLElement =>
    plot(
      { title: `${metric.toUpperCase()} against throughput`, x: 'output tokens/s', y: 'ms' },
      sweeps.flatMap(({ name, result }) =>
        ['median', 'p99'].map((column) => ({
          label: many ? `${name} ${column}` : column,
          points: result.runs.map(
            ({ figures, latencies }) =>
              [figures.output_throughput, latencies[`${column}_${metric}_ms`] ?? null] as const,
          ),
        })),
      ),
    )
  return [
    section(
      'Throughput against latency',
      plots(...(['ttft', 'tpot', 'e2el'] as const).map(against)),
    ),
  ]
}

const curvesOf = (runs: readonly Shown[]): HTMLElement => {
  const curve = (metric: Metric): HTMLElement =>
    plot(
      { title: metric.toUpperCase(), x: 'percentile', y: 'ms' },
      runs.map(({ label, run }) => ({ label, points: run.curves[metric] })),
    )
  return section('Percentiles', plots(...(['ttft', 'tpot', 'itl', 'e2el'] as const).map(curve)))
}

const timelineOf = ({ label, run }: Shown): HTMLElement =>
  section(
    `Timeline, ${label}`,
    plots(
      plot({ title: 'Requests, by when they were due', x: 'seconds', y: 'ms' }, [
        { label: 'TTFT', dots: true, points: run.requests.map((one) => [one.at, one.ttft_ms]) },
        { label: 'E2EL', dots: true, points: run.requests.map((one) => [one.at, one.e2el_ms]) },
      ]),
      plot({ title: 'Chunks of text', x: 'seconds', y: 'a second' }, [
        { label: 'chunks', points: run.chunks_each_second.map((count, i) => [i, count]) },
      ]),
    ),
  )

const settingsOf = ({ name, result }: Named): HTMLElement => {
  const given = Object.entries(result.settings).map(([key, value]) => [key, JSON.stringify(value)])
  const { cpu, threads, memoryGiB } = result.machine
  return section(
    `How ${name} was measured`,
    element('p', `${result.date}, on ${cpu}, ${threads} hardware threads, ${memoryGiB} GiB.`),
    element(
      'p',
      'With a rate, latencies count from the moment at which a request was due by the plan, however late it ' +
        'could be sent; else from sending.',
    ),
    tableOf([['setting', 'value'], ...given]),
  )
}

const errorsOf = (runs: readonly Shown[]): HTMLElement[] => {
  const counts = new Map<string, number>()
  for (const { error } of runs.flatMap(({ run }) => run.requests))
    if (error !== undefined) counts.set(error, (counts.get(error) ?? 0) + 1)
  if (counts.size === 0) return []
  const list = element('ul')
  for (const [error, count] of [...counts].toSorted(([, a], [, b]) => b - a).slice(0, 20))
    list.append(element('li', `${count} times: ${error}`))
  list.className = 'error'
  return [section('Failed requests', list)]
}

const results: readonly Named[] = JSON.parse(document.getElementById('results')?.textContent ?? '')
const runs = results.flatMap(({ name, result }) =>
  result.runs.map((run) => ({
    label: results.length > 1 ? `${name} ${loadOf(run)}` : loadOf(run),
    run,
  })),
)
const answered = runs.filter(({ run }) => run.figures.completed > 0)
document
  .getElementById('page')
  ?.append(
    element('h1', document.title),
    summaryOf(runs),
    ...errorsOf(runs),
    ...(answered.length === 0
      ? [element('p', 'No request was answered: there is nothing to plot.')]
      : [...sweepsOf(results), curvesOf(answered), ...answered.map(timelineOf)]),
    ...results.map(settingsOf),
  )
