// The Helm chart as objects of Kubernetes: rendered by Go's templates with helm's functions (render.go), then held to the
// schemas of Kubernetes and of the Prometheus operator, and to what the objects must mean together.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { ServiceMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1'
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
  ServiceMonitor,
}

const GO = '/usr/share/gocode'
const noGo: string | false =
  spawnSync('go', ['version']).error === undefined &&
  existsSync(`${GO}/src/github.com/Masterminds/sprig`)
    ? false
    : 'Go with sprig is not installed: apt-get install golang-go golang-github-masterminds-sprig-dev'

const render = (values: object): readonly Json[] => {
  const command = ['run', packagePath('test/deploy/render.go'), packagePath('deploy/helm'), 'x']
  const { status, stdout, stderr } = spawnSync('go', command, {
    env: { ...process.env, GO111MODULE: 'off', GOPATH: GO, GOFLAGS: '' },
    input: JSON.stringify(values),
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  return JSON.parse(stdout)
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
  secrets: { apiKey: 'key', huggingFace: 'hub' },
  resources: { requests: { cpu: '4' }, limits: { memory: '64Gi' } },
  nodeSelector: { gpu: 'h100' },
  tolerations: [{ key: 'nvidia.com/gpu', operator: 'Exists', effect: 'NoSchedule' }],
  affinity: { nodeAffinity: {} },
  runtimeClassName: 'nvidia',
  storage: { storageClassName: 'fast', accessModes: ['ReadWriteMany'] },
  autoscaling: { enabled: true, maxReplicas: 8 },
  serviceMonitor: { enabled: true, labels: { release: 'prometheus' } },
}

for (const [what, values, kinds] of [
  ['as it comes', {}, ['Deployment', 'PodDisruptionBudget', 'Service', 'PersistentVolumeClaim']],
  [
    'with all of it',
    FULL,
    [
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
  const of = (kind: string): Json => {
    const found = objects.find((one) => String(one.kind) === kind)
    assert.ok(found, kind)
    return found
  }
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
