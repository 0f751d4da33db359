// The Helm chart as objects of Kubernetes: rendered by Go's templates with helm's functions (render.go), then held to the
// schemas of Kubernetes and of the Prometheus operator, and to what the objects must mean together.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import {
  PrometheusRule,
  ServiceMonitor,
} from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1'
import { Deployment } from 'kubernetes-models/apps/v1'
import { HorizontalPodAutoscaler } from 'kubernetes-models/autoscaling/v2'
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1'
import { PersistentVolumeClaim, Service } from 'kubernetes-models/v1'
import { packagePath } from '../../server/version.js'

type Json = { readonly [name: string]: Json } & {
  readonly length: number
  readonly [i: number]: Json
}

/** A model knows the schema of its kind. */
const MODELS: Readonly<Record<string, new () => { readonly validate: () => void }>> = {
  Deployment,
  HorizontalPodAutoscaler,
  PersistentVolumeClaim,
  Service,
  PodDisruptionBudget,
  PrometheusRule,
  ServiceMonitor,
}

const GO = '/usr/share/gocode'
const noGo: string | false =
  spawnSync('go', ['version']).error === undefined &&
  existsSync(`${GO}/src/github.com/Masterminds/sprig`)
    ? false
    : 'Go with sprig is not installed: apt-get install golang-go golang-github-masterminds-sprig-dev'

/** Of the chart, which helm holds all values to. */
const { default: Ajv } = createRequire(import.meta.url)('ajv')
const schemaFile = packagePath('deploy/helm/values.schema.json')
const isValid = new Ajv({ allErrors: true }).compile(JSON.parse(readFileSync(schemaFile, 'utf8')))
/** What is wrong with the values, by the field; '': nothing is. */
const faultsOf = (values: unknown): string =>
  isValid(values)
    ? ''
    : isValid.errors
        .map(
          (one: { instancePath: string; message: string; params: object }) =>
            `${one.instancePath} ${one.message} ${JSON.stringify(one.params)}`,
        )
        .join('\n')

type Rendered = {
  readonly values: object
  readonly objects: readonly Json[]
  readonly notes: string
}

/** render.go as a program; `go run` would link it for each chart. */
const buildRenderer = (): string => {
  const program = join(folder, 'render')
  const command = ['build', '-o', program, packagePath('test/deploy/render.go')]
  const { status, stderr } = spawnSync('go', command, {
    env: { ...process.env, GO111MODULE: 'off', GOPATH: GO, GOFLAGS: '' },
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  return program
}
const folder = mkdtempSync(join(tmpdir(), 'nemotron-chart-'))
after(() => rmSync(folder, { recursive: true }))
let renderer: string | undefined

const renderAll = (values: object): Rendered => {
  renderer ??= buildRenderer()
  const { status, stdout, stderr } = spawnSync(renderer, [packagePath('deploy/helm'), 'x'], {
    input: JSON.stringify(values),
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  return JSON.parse(stdout)
}

/** As helm does: no object is made of values that the schema refuses. */
const render = (given: object): readonly Json[] => {
  const { values, objects } = renderAll(given)
  assert.equal(faultsOf(values), '')
  return objects
}

const kindOf = (objects: readonly Json[], kind: string): Json => {
  const found = objects.find((one) => String(one.kind) === kind)
  assert.ok(found, kind)
  return found
}

/** The one container of the deployment, and its pod. */
const podOf = (values: object) => {
  const pod = kindOf(render(values), 'Deployment').spec?.template?.spec
  const container = pod?.containers?.[0]
  assert.ok(pod && container)
  return { pod, container, args: container.args as unknown as readonly string[] }
}

/** Names that a value has; `a.b` and `a.0.b`. */
const namesOf = (value: unknown, path = ''): readonly string[] =>
  typeof value === 'object' && value !== null
    ? Object.entries(value).flatMap(([name, inner]) => {
        const at = path === '' ? name : `${path}.${name}`
        return [at, ...namesOf(inner, at)]
      })
    : []

/** The value, noting which of its names are read. */
const watched = <T>(value: T, read: Set<string>, path = ''): T =>
  typeof value === 'object' && value !== null
    ? new Proxy(value, {
        get: (target, name) => {
          const inner: unknown = Reflect.get(target, name)
          if (typeof name === 'symbol' || typeof inner === 'function') return inner
          const at = path === '' ? name : `${path}.${name}`
          read.add(at)
          return watched(inner, read, at)
        },
      })
    : value

/** What is wrong with an object. Kubernetes drops names that it does not know; here they are wrong: those that its
 * schema never looks at. */
const problemsOf = (one: Json): readonly string[] => {
  const kind = String(one.kind)
  const Kind = MODELS[kind]
  if (Kind === undefined) return [`there is no model of ${kind}`]
  const read = new Set<string>()
  try {
    watched(Object.assign(new Kind(), one), read).validate()
  } catch (error) {
    return [String(error)]
  }
  return namesOf(one).filter((name) => !read.has(name))
}

test('the schemas find a wrong type, and a name that does not exist', { skip: noGo }, () => {
  const [deployment] = render({})
  assert.ok(deployment)
  assert.deepEqual(problemsOf(deployment), [])
  const wrong = structuredClone(deployment) as unknown as { spec: Record<string, unknown> }
  wrong.spec.replicas = 'one'
  assert.match(JSON.stringify(problemsOf(wrong as unknown as Json)), /replicas must be integer/)
  wrong.spec.replicas = 1
  wrong.spec.strategi = {}
  assert.deepEqual(problemsOf(wrong as unknown as Json), ['spec.strategi'])
})

const FULL = {
  model: 'nvidia/x',
  gpus: 2,
  replicas: 3,
  args: ['--max-num-seqs', '128'],
  env: [{ name: 'NEMOTRON_LOG_LEVEL', value: 'warn' }],
  secrets: { apiKey: 'key', metricsKey: 'scrapes', huggingFace: 'hub' },
  tls: { secret: 'cert' },
  rollingUpdate: { maxSurge: '25%', maxUnavailable: 0 },
  prometheusRule: { enabled: true, labels: { release: 'prometheus' } },
  resources: { requests: { cpu: '4' }, limits: { memory: '64Gi' } },
  nodeSelector: { gpu: 'h100' },
  tolerations: [{ key: 'nvidia.com/gpu', operator: 'Exists', effect: 'NoSchedule' }],
  affinity: { nodeAffinity: {} },
  runtimeClassName: 'nvidia',
  storage: { storageClassName: 'fast', accessModes: ['ReadWriteMany'] },
  autoscaling: { enabled: true, maxReplicas: 8 },
  serviceMonitor: {
    enabled: true,
    labels: { release: 'prometheus' },
    tlsConfig: { ca: { secret: { name: 'cert', key: 'ca.crt' } }, serverName: 'nemotron' },
  },
}

for (const [what, values, kinds] of [
  ['as it comes', {}, ['Deployment', 'PodDisruptionBudget', 'Service', 'PersistentVolumeClaim']],
  [
    'with all of it',
    FULL,
    [
      'PrometheusRule',
      'HorizontalPodAutoscaler',
      'Deployment',
      'PodDisruptionBudget',
      'ServiceMonitor',
      'Service',
      'PersistentVolumeClaim',
    ],
  ],
  [
    'on the CPU, weights from a claim that is there',
    { gpus: 0, storage: { existingClaim: 'weights' }, podDisruptionBudget: { enabled: false } },
    ['Deployment', 'Service'],
  ],
  [
    'without a claim',
    { storage: { enabled: false } },
    ['Deployment', 'PodDisruptionBudget', 'Service'],
  ],
] as const)
  test(`the chart ${what} is what Kubernetes takes`, { skip: noGo }, () => {
    const objects = render(values)
    assert.deepEqual(
      objects.map(({ kind }) => kind),
      kinds,
    )
    for (const one of objects) assert.deepEqual(problemsOf(one), [], String(one.kind))
  })

test('what the objects of the chart say of each other holds', { skip: noGo }, () => {
  const objects = render(FULL)
  const of = (kind: string): Json => kindOf(objects, kind)
  const deployment = of('Deployment')
  const pod = deployment.spec?.template
  const labels = pod?.metadata?.labels
  for (const selector of [
    deployment.spec?.selector?.matchLabels,
    of('Service').spec?.selector,
    of('PodDisruptionBudget').spec?.selector?.matchLabels,
  ]) {
    assert.ok(selector && Object.keys(selector).length > 0)
    for (const [name, value] of Object.entries(selector)) assert.equal(labels?.[name], value)
  }
  const marks = of('Service').metadata?.labels
  for (const [name, value] of Object.entries(
    of('ServiceMonitor').spec?.selector?.matchLabels ?? {},
  ))
    assert.equal(marks?.[name], value)
  assert.deepEqual(
    of('HorizontalPodAutoscaler').spec?.scaleTargetRef?.name,
    deployment.metadata?.name,
  )
  assert.equal(deployment.spec?.replicas, undefined, 'the autoscaler says how many')
  const container = pod?.spec?.containers?.[0]
  assert.deepEqual(container?.resources, {
    requests: { cpu: '4' },
    limits: { memory: '64Gi', 'nvidia.com/gpu': 2 },
  })
  const ports = container?.ports as unknown as readonly { name: string }[]
  assert.deepEqual(of('Service').spec?.ports?.[0]?.targetPort, ports[0]?.name)
  const claims = pod?.spec?.volumes as unknown as readonly {
    persistentVolumeClaim?: { claimName: string }
  }[]
  const claimed = claims.flatMap(({ persistentVolumeClaim: one }) => one?.claimName ?? [])
  assert.deepEqual(claimed, [of('PersistentVolumeClaim').metadata?.name])
})

test('a model is cut over all GPUs of a pod, unless args say otherwise', { skip: noGo }, () => {
  for (const [gpus, expected] of [
    [0, []],
    [1, []],
    [2, ['--tensor-parallel-size=2']],
  ] as const) {
    const { args } = podOf({ gpus })
    assert.deepEqual(
      args.filter((one) => one.startsWith('--tensor')),
      expected,
    )
  }
  // Of a flag that comes twice the last one holds.
  const { args } = podOf({ gpus: 4, args: ['--tensor-parallel-size=1'] })
  assert.deepEqual(args.slice(-2), ['--tensor-parallel-size=4', '--tensor-parallel-size=1'])
})

test('no variables of Services come into the pod, whose names settings have', {
  skip: noGo,
}, () => {
  assert.deepEqual(podOf({}).pod.enableServiceLinks, false)
})

test('metrics are scraped by a key of their own, or by none', { skip: noGo }, () => {
  const scrape = (values: object) => {
    const all = render({ ...values, serviceMonitor: { enabled: true } })
    const args = JSON.stringify(kindOf(all, 'Deployment').spec?.template?.spec)
    const endpoint = kindOf(all, 'ServiceMonitor').spec?.endpoints?.[0]
    return {
      secret: endpoint?.authorization?.credentials,
      isOpen: args.includes('"--open-metrics=on"'),
    }
  }
  const key = 'api-key'
  assert.deepEqual(scrape({}), { secret: undefined, isOpen: false })
  const secrets = { apiKey: 'several', metricsKey: 'one' }
  assert.deepEqual(scrape({ secrets }), { secret: { name: 'one', key }, isOpen: false })
  assert.deepEqual(scrape({ secrets: { apiKey: 'sole' } }), {
    secret: { name: 'sole', key },
    isOpen: false,
  })
  assert.deepEqual(scrape({ secrets, openMetrics: true }), { secret: undefined, isOpen: true })
})

test('the job of the ServiceMonitor is the one that the alert asks for', { skip: noGo }, () => {
  const all = render({ serviceMonitor: { enabled: true }, prometheusRule: { enabled: true } })
  const label = String(kindOf(all, 'ServiceMonitor').spec?.jobLabel)
  const job = String(kindOf(all, 'Service').metadata?.labels?.[label])
  const rules = JSON.stringify(kindOf(all, 'PrometheusRule').spec)
  const [, matcher = ''] = /up\{job=~\\"(.*?)\\"\}/.exec(rules) ?? []
  // Prometheus holds a matcher to the whole value.
  for (const name of [job, 'nemotron']) assert.match(name, new RegExp(`^(?:${matcher})$`))
  assert.doesNotMatch('nemotron-client', new RegExp(`^(?:${matcher})$`))
  assert.match(rules, /\{\{ \$labels\.instance \}\} does not answer/, "Prometheus' templates stay")
})

test('with a certificate all speak HTTPS: server, probes, scrapes', { skip: noGo }, () => {
  const probesOf = (container: Json): readonly string[] =>
    ['startupProbe', 'readinessProbe', 'livenessProbe'].map((name) =>
      String(container[name]?.httpGet?.scheme),
    )
  const plain = podOf({})
  assert.deepEqual(probesOf(plain.container), ['HTTP', 'HTTP', 'HTTP'])
  assert.ok(!JSON.stringify(plain.pod).includes('tls'))
  const { pod, container, args } = podOf({ tls: { secret: 'cert' } })
  assert.deepEqual(probesOf(container), ['HTTPS', 'HTTPS', 'HTTPS'])
  const volumes = pod.volumes as unknown as readonly Json[]
  const volume = volumes.find(({ secret }) => String(secret?.secretName) === 'cert')
  const mounts = container.volumeMounts as unknown as readonly Json[]
  const path = mounts.find(({ name }) => name === volume?.name)?.mountPath
  // The names that a secret of type kubernetes.io/tls has.
  for (const flag of [`--tls-cert=${path}/tls.crt`, `--tls-key=${path}/tls.key`])
    assert.ok(args.includes(flag), flag)
  const monitor = kindOf(render(FULL), 'ServiceMonitor').spec?.endpoints?.[0]
  assert.deepEqual(monitor?.scheme, 'https')
  assert.deepEqual(monitor?.tlsConfig, FULL.serviceMonitor.tlsConfig)
})

test('weights outlive the release; how pods are replaced can be set', { skip: noGo }, () => {
  const all = render(FULL)
  assert.deepEqual(kindOf(all, 'PersistentVolumeClaim').metadata?.annotations, {
    'helm.sh/resource-policy': 'keep',
  })
  assert.deepEqual(kindOf(all, 'Deployment').spec?.strategy?.rollingUpdate, FULL.rollingUpdate)
  const standard = kindOf(render({}), 'Deployment').spec?.strategy?.rollingUpdate
  assert.deepEqual(standard, { maxSurge: 0, maxUnavailable: 1 })
})

test('a start of fewer than ten seconds, or not of whole tens, still has its time', {
  skip: noGo,
}, () => {
  for (const [startup, failures] of [
    [10, 1],
    [11, 2],
    [3600, 360],
  ])
    assert.deepEqual(podOf({ startup }).container.startupProbe?.failureThreshold, failures)
})

test('the schema of the values names the field that is wrong', { skip: noGo }, () => {
  const { values } = renderAll({})
  assert.equal(faultsOf(values), '')
  // What helm adds of a chart that has this one in it.
  assert.equal(faultsOf({ ...values, global: {} }), '')
  for (const [wrong, fault] of [
    [{ replica: 2 }, / must NOT have additional properties .*"replica"/],
    [{ secrets: { apikey: 'x' } }, /^\/secrets must NOT .*"apikey"/],
    [{ startup: 5 }, /^\/startup must be >= 10/],
    [{ drain: { delay: -1 } }, /^\/drain\/delay must be >= 0/],
    [{ drain: { timeout: '2m' } }, /^\/drain\/timeout must be integer/],
    [{ gpus: 9 }, /^\/gpus must be <= 8/],
    [{ args: [8] }, /^\/args\/0 must be string/],
    [{ rollingUpdate: { maxSurge: 0, maxUnavailable: 0 } }, /^\/rollingUpdate must NOT be valid/],
    [{ serviceMonitor: { interval: '15' } }, /^\/serviceMonitor\/interval must match/],
  ] as const)
    assert.match(faultsOf(renderAll(wrong).values), fault)
})

test('every value has a place in the schema', { skip: noGo }, () => {
  const { properties } = JSON.parse(readFileSync(schemaFile, 'utf8'))
  for (const [name, value] of Object.entries(renderAll({}).values)) {
    assert.ok(Object.hasOwn(properties, name), name)
    const inner = properties[name].properties
    if (inner !== undefined)
      for (const one of Object.keys(value)) assert.ok(Object.hasOwn(inner, one), `${name}.${one}`)
  }
})

test('the notes say how to reach it, and what it lacks', { skip: noGo }, () => {
  const { notes } = renderAll({})
  assert.match(notes, /curl http:\/\/127\.0\.0\.1:8000\/v1\/models\n/)
  assert.match(notes, /It asks for no key/)
  const full = renderAll(FULL).notes
  assert.match(full, /^nvidia\/x will be served by x-nemotron-server/)
  assert.match(full, /curl -k https:\/\/.* -H "authorization: Bearer \$KEY"\n/)
  assert.doesNotMatch(full, /no key/)
})
