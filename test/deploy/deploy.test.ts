// What deploy/ has is of this server: alerts ask for metrics and labels that it gives, and the unit is one.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { packagePath } from '../../server/version.js'
import { chatBody, startHarness, until } from '../server/harness.js'

const alerts = readFileSync(packagePath('deploy/alerts.yml'), 'utf8')
/** The expressions of the rules, each on one line. */
const rules = [
  ...alerts.matchAll(/- alert: (\w+)\n +expr: (?:\|\n)?([\s\S]*?)\n +(?:for|labels):/g),
].map(([, name = '', expression = '']) => ({
  name,
  expression: expression.replace(/\s+/g, ' ').trim(),
}))

const FUNCTIONS = new Set(
  'sum by rate increase avg_over_time histogram_quantile without and or unless'.split(' '),
)
/** What Prometheus adds to every sample. */
const ADDED = ['instance', 'job']

/** Metrics by name with the labels of their samples, after one request of each outcome. */
const exported = async (): Promise<ReadonlyMap<string, ReadonlySet<string>>> => {
  const harness = await startHarness()
  try {
    for (const [path, body] of [
      ['/v1/chat/completions', chatBody()],
      ['/v1/chat/completions', {}],
    ] as const)
      await (await harness.post(path, body)).arrayBuffer()
    await until(() => harness.lines.length >= 2, 'both are counted')
    const families = new Map<string, Set<string>>([['up', new Set()]])
    for (const line of (await harness.server.metrics.text()).split('\n')) {
      const [, name, labels = ''] = /^([\w:]+)(?:\{(.*)\})? /.exec(line) ?? []
      if (name === undefined) continue
      const known = families.get(name) ?? new Set()
      families.set(name, known)
      for (const [, label = ''] of labels.matchAll(/(\w+)="/g)) known.add(label)
    }
    return families
  } finally {
    await harness.close()
  }
}

test('alerts ask for metrics and labels that there are', async () => {
  assert.equal(rules.length, (alerts.match(/- alert:/g) ?? []).length)
  const families = await exported()
  const used = new Set<string>()
  for (const { name: alert, expression } of rules) {
    const bare = expression.replace(/"[^"]*"/g, '""')
    const grouped = [...bare.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list = '']) =>
      list.split(',').map((one) => one.trim()),
    )
    const selectors = bare.replace(/\bby \([^)]*\)|\[\w+\]/g, '')
    const metrics = [...selectors.matchAll(/([a-zA-Z_][\w:]*)(?:\{([^}]*)\})?/g)].filter(
      ([, name = '']) => !FUNCTIONS.has(name),
    )
    assert.ok(metrics.length > 0, alert)
    for (const [, name = '', matchers = ''] of metrics) {
      const labels = families.get(name)
      assert.ok(labels !== undefined, `${alert}: there is no metric ${name}`)
      used.add(name)
      const matched = [...matchers.matchAll(/(\w+)[!=]/g)].map(([, label = '']) => label)
      for (const label of [...matched, ...grouped])
        assert.ok(labels.has(label) || ADDED.includes(label), `${alert}: ${name} has no ${label}`)
    }
  }
  for (const name of ['up', 'http_requests_total', 'vllm:time_to_first_token_seconds_bucket'])
    assert.ok(used.has(name), name)
})

test('every alert has its line in docs/operations.md, and every line its alert', () => {
  const text = readFileSync(packagePath('docs/operations.md'), 'utf8')
  const told = [...text.matchAll(/^\| `(\w+)` \|/gm)].map(([, name]) => name)
  assert.deepEqual(
    told,
    rules.map(({ name }) => name),
  )
})

const has = (command: string) => spawnSync(command, ['--version']).error === undefined

test('promtool takes the rules', {
  skip: has('promtool') ? false : 'promtool is not installed',
}, () => {
  const file = packagePath('deploy/alerts.yml')
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'rules', file])
  assert.equal(status, 0, `${stdout}${stderr}`)
})

test('the systemd unit starts what there is', () => {
  const unit = readFileSync(packagePath('deploy/nemotron-server.service'), 'utf8')
  const command = /^ExecStart=\/usr\/bin\/env node (\S+) serve$/m.exec(unit)?.[1] ?? ''
  const { bin } = JSON.parse(readFileSync(packagePath('package.json'), 'utf8'))
  assert.equal(command, bin['nemotron-server'])
  const stop = Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)?.[1])
  const help = readFileSync(packagePath('docs/http.md'), 'utf8')
  const drain = Number(/--drain-timeout <x>` \|[^|]*\(default: (\d+)\)/.exec(help)?.[1])
  assert.ok(stop > drain, `TimeoutStopSec=${stop}, --drain-timeout ${drain}`)
})
