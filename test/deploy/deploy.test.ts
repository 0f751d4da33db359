// What deploy/ has is of this server: alerts ask for metrics and labels that it gives, and the unit is one.

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { packagePath } from '../../server/version.js'
import { chatBody, startHarness, until } from '../server/harness.js'

/** In the chart, which makes a PrometheusRule of it. */
const alertsFile = packagePath('deploy/helm/alerts.yml')
const alerts = readFileSync(alertsFile, 'utf8')
/** The expressions of the rules, each on one line. */
const rules = [
  ...alerts.matchAll(/- alert: (\w+)\n +expr: (?:\|\n)?([\s\S]*?)\n +(?:for|labels):/g),
].map(([, name = '', expression = '']) => ({
  name,
  expression: expression.replace(/\s+/g, ' ').trim(),
}))

const FUNCTIONS = new Set(
  'sum max by rate increase avg_over_time histogram_quantile without and or unless'.split(' '),
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

/** The metrics that an expression asks for; each is there, with the labels that it is asked by. */
const checkExpression = (
  name: string,
  expression: string,
  families: ReadonlyMap<string, ReadonlySet<string>>,
): readonly string[] => {
  const bare = expression.replace(/"[^"]*"/g, '""')
  const grouped = [...bare.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list = '']) =>
    list.split(',').map((one) => one.trim()),
  )
  const selectors = bare.replace(/\bby \([^)]*\)|\[[^\]]+\]/g, '')
  const metrics = [...selectors.matchAll(/([a-zA-Z_][\w:]*)(?:\{([^}]*)\})?/g)].filter(
    ([, metric = '']) => !FUNCTIONS.has(metric),
  )
  assert.ok(metrics.length > 0, name)
  for (const [, metric = '', matchers = ''] of metrics) {
    const labels = families.get(metric)
    assert.ok(labels !== undefined, `${name}: there is no metric ${metric}`)
    const matched = [...matchers.matchAll(/(\w+)[!=]/g)].map(([, label = '']) => label)
    for (const label of [...matched, ...grouped])
      assert.ok(labels.has(label) || ADDED.includes(label), `${name}: ${metric} has no ${label}`)
  }
  return metrics.map(([, metric = '']) => metric)
}

test('alerts ask for metrics and labels that there are', async () => {
  assert.equal(rules.length, (alerts.match(/- alert:/g) ?? []).length)
  const families = await exported()
  const used = new Set(
    rules.flatMap(({ name, expression }) => checkExpression(name, expression, families)),
  )
  for (const name of ['up', 'http_requests_total', 'vllm:time_to_first_token_seconds_bucket'])
    assert.ok(used.has(name), name)
})

test('the board of Grafana asks for metrics and labels that there are', async () => {
  const families = await exported()
  const { panels, templating } = JSON.parse(
    readFileSync(packagePath('deploy/grafana.json'), 'utf8'),
  )
  assert.ok(panels.length >= 12)
  const places = new Set<string>()
  for (const { title, targets, gridPos } of panels) {
    places.add(`${gridPos.x} ${gridPos.y}`)
    assert.ok(targets.length > 0, title)
    for (const { expr, legendFormat } of targets) {
      checkExpression(title, expr, families)
      // A series is told by what it is grouped by.
      const by = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list]) => list.split(', '))
      for (const [, label = ''] of legendFormat.matchAll(/\{\{(\w+)\}\}/g))
        assert.ok(by.includes(label) || ADDED.includes(label), `${title}: ${legendFormat}`)
    }
  }
  assert.equal(places.size, panels.length, 'no panel lies on another')
  const [, model] = templating.list
  const [, metric = '', label = ''] = /label_values\((\S+), (\w+)\)/.exec(model.query.query) ?? []
  assert.ok(families.get(metric)?.has(label), model.query.query)
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
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'rules', alertsFile])
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

const text = (path: string): string => readFileSync(packagePath(path), 'utf8')

for (const kind of ['cpu', 'cuda'])
  test(`the image for ${kind} holds what the package needs, and runs as nobody`, () => {
    const file = text(`deploy/docker/${kind}.Dockerfile`)
    const run = file.slice(file.lastIndexOf('\nFROM '))
    const { bin } = JSON.parse(text('package.json'))
    assert.ok(run.includes(`ENTRYPOINT ["node", "${bin['nemotron-server']}"]`))
    assert.match(run, /\nUSER 10001:10001\n/)
    assert.match(run, /NEMOTRON_HOST=0\.0\.0\.0/)
    for (const folder of ['node_modules', 'dist', 'models', 'build/Release'])
      assert.match(run, new RegExp(`COPY --from=build /app/${folder} ${folder}\n`), folder)
    // Nothing but the cache of models is written where the server runs.
    assert.deepEqual(
      [...run.matchAll(/chown \S+ (\S+)/g)].map(([, path]) => path),
      ['/models'],
    )
  })

/** A certificate that nobody knows, and its key; undefined: there is no openssl. */
const selfSigned = (): { readonly cert: string; readonly key: string } | undefined => {
  const kind = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x'
  const args = [...kind.split(' '), '-keyout', '-', '-out', '-']
  const { status, stdout } = spawnSync('openssl', args, { encoding: 'utf8' })
  return status === 0 ? { cert: stdout, key: stdout } : undefined
}

for (const kind of ['cpu', 'cuda'])
  test(`the health check of the image for ${kind} follows the port and the certificate`, async (t) => {
    const [, form = ''] =
      /^HEALTHCHECK .* CMD (\[.*\])$/m.exec(text(`deploy/docker/${kind}.Dockerfile`)) ?? []
    const [node, ...args]: readonly string[] = JSON.parse(form)
    assert.equal(node, 'node')
    let isGreen = true
    const answer: RequestListener = ({ url }, response) => {
      response.writeHead(isGreen && url === '/health' ? 200 : 503).end()
    }
    const plain = createServer(answer)
    const certificate = selfSigned()
    if (certificate === undefined) return t.skip('openssl is not installed')
    const secure = createTlsServer(certificate, answer)
    t.after(() => {
      plain.close()
      secure.close()
    })
    const portOf = async (server: Server): Promise<string> => {
      await once(server.listen(0, '127.0.0.1'), 'listening')
      return String((server.address() as AddressInfo).port)
    }
    const ends = async (env: Record<string, string>): Promise<number | null> => {
      const child = spawn(process.execPath, args, { env, stdio: 'ignore' })
      const [code] = await once(child, 'exit')
      return code
    }
    const [port, tlsPort] = [await portOf(plain), await portOf(secure)]
    assert.equal(await ends({ NEMOTRON_PORT: port }), 0)
    assert.equal(await ends({ NEMOTRON_PORT: tlsPort, NEMOTRON_TLS_CERT: '/c' }), 0)
    isGreen = false
    assert.equal(await ends({ NEMOTRON_PORT: port }), 1)
    assert.equal(await ends({ NEMOTRON_PORT: tlsPort, NEMOTRON_TLS_CERT: '/c' }), 1)
    plain.close()
    assert.equal(await ends({ NEMOTRON_PORT: port }), 1)
  })

const chart = packagePath('deploy/helm')
/** Names of values that a template reads. */
const readBy = (template: string): readonly string[] =>
  [...template.matchAll(/\.Values\.([\w.]+)/g)].map(([, path = '']) => path)

test('templates of the chart read values that there are, and each value is read', () => {
  const values = text('deploy/helm/values.yaml')
  const known = new Set<string>()
  let above = ''
  for (const [, indent = '', name = ''] of values.matchAll(/^( *)([a-zA-Z]+):/gm)) {
    if (indent === '') above = name
    known.add(indent === '' ? name : `${above}.${name}`)
  }
  const files = readdirSync(`${chart}/templates`)
  const read = new Set(files.flatMap((name) => readBy(text(`deploy/helm/templates/${name}`))))
  for (const path of read)
    assert.ok(known.has(path) || path.startsWith('resources.'), `there is no value ${path}`)
  for (const path of known) {
    const isRead = [...read].some((one) => one === path || one.startsWith(`${path}.`))
    assert.ok(isRead, `no template reads ${path}`)
  }
})

test('the chart starts the server by flags that it has, and outlives its drain', () => {
  const template = text('deploy/helm/templates/deployment.yaml')
  const help = text('docs/http.md')
  const flags = [...template.matchAll(/- (--[\w-]+)=/g)].map(([, flag]) => flag)
  assert.ok(flags.length >= 5)
  for (const flag of flags) assert.ok(help.includes(`| \`${flag} `), flag)
  assert.match(
    template,
    /terminationGracePeriodSeconds: \{\{ add \.Values\.drain\.delay \.Values\.drain\.timeout 30 \}\}/,
  )
  for (const [, path = ''] of template.matchAll(/path: (\/\S+),/g))
    assert.ok(help.includes(`\`${path}\``) || help.includes(` ${path}\``), path)
})

const isMissing = (command: string): string | false =>
  spawnSync(command, ['version']).error === undefined ? false : `${command} is not installed`

test('helm renders the chart, bare and with all of it', { skip: isMissing('helm') }, () => {
  const switches = ['autoscaling.enabled', 'serviceMonitor.enabled', 'prometheusRule.enabled']
  const all = switches.flatMap((name) => ['--set', `${name}=true`])
  const more = ['--set', 'secrets.apiKey=key,secrets.huggingFace=hub,model=nvidia/x,gpus=2']
  for (const args of [[], [...all, ...more]]) {
    const { status, stdout, stderr } = spawnSync('helm', ['template', 'x', chart, ...args], {
      encoding: 'utf8',
    })
    assert.equal(status, 0, stderr)
    const kinds = [...stdout.matchAll(/^kind: (\w+)$/gm)].map(([, kind]) => kind)
    assert.ok(kinds.includes('Deployment') && kinds.includes('PersistentVolumeClaim'))
    assert.equal(kinds.length, args.length === 0 ? 4 : 7, kinds.join())
  }
})

const noProxy = (program: string): string | false =>
  spawnSync(program, ['-v']).error === undefined ? false : `${program} is not installed`

test('nginx takes deploy/nginx.conf', { skip: noProxy('nginx') }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-nginx-'))
  const file = join(folder, 'nginx.conf')
  const inside = readFileSync(packagePath('deploy/nginx.conf'), 'utf8').replace(
    'listen 80',
    'listen 18080',
  )
  writeFileSync(file, `pid ${folder}/pid;\nevents {}\nhttp {\n${inside}\n}\n`)
  const { status, stderr } = spawnSync('nginx', ['-t', '-q', '-p', folder, '-c', file], {
    encoding: 'utf8',
  })
  rmSync(folder, { recursive: true })
  assert.equal(status, 0, stderr)
})

test('HAProxy takes deploy/haproxy.cfg', { skip: noProxy('haproxy') }, () => {
  const file = packagePath('deploy/haproxy.cfg')
  const { status, stderr } = spawnSync('haproxy', ['-c', '-q', '-f', file], { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
})
