import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { withFlags } from '../../server/model/option-flags.js'
import { FLAGS } from '../../server/settings/options.js'
import { ownSettings } from '../../server/settings/own.js'
import {
  ConfigError,
  modelSettings,
  readSettings,
  unknownVariables,
} from '../../server/settings/read.js'
import { packagePath } from '../../server/version.js'

const file = (content: unknown): string => {
  const path = join(mkdtempSync(join(tmpdir(), 'nemotron-config-')), 'config.json')
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content))
  return path
}

describe("settings of a command's own server", () => {
  test('are what the variables and the file say of models, not of the door', () => {
    const config = file({ kv_cache_memory: '1GiB', models: [{ model: 'a', dtype: 'fp8' }] })
    const env = {
      NEMOTRON_CONFIG: config,
      NEMOTRON_THREADS: '3',
      NEMOTRON_DEVICE: 'cpu',
      NEMOTRON_HOST: '0.0.0.0',
      NEMOTRON_PORT: '80',
      NEMOTRON_API_KEY: 'key',
      NEMOTRON_OPEN_METRICS: 'on',
      NEMOTRON_ALLOWED_ORIGINS: '*',
      NEMOTRON_ALLOWED_HOSTS: 'a.example',
      NEMOTRON_STRICT_PARAMS: 'on',
      NEMOTRON_DATA_DIR: '/data',
      NEMOTRON_RELOAD_FROM: '/models',
      NEMOTRON_ALLOW_PAUSE: 'on',
      NEMOTRON_REQUEST_TIMEOUT: '1',
      NEMOTRON_DRAIN_DELAY: '5',
      NEMOTRON_DRAIN_TIMEOUT: '5',
      NEMOTRON_TLS_CERT: 'cert',
      NEMOTRON_TLS_KEY: 'key',
    }
    const { models, kv_cache_memory, threads, device, ...rest } = ownSettings({}, env)
    assert.deepEqual(models, [{ model: 'a', dtype: 'fp8' }])
    assert.deepEqual([kv_cache_memory, threads, device], [1024 ** 3, 3, 'cpu'])
    const standard = readSettings({ port: '0' }, {})
    assert.equal(JSON.stringify({ ...standard, ...rest }), JSON.stringify(standard))
    assert.equal(ownSettings({ threads: '2' }, env).threads, 2)
  })

  test('a model of a flag takes the place of all others, and of their names', () => {
    const env = {
      NEMOTRON_MODEL: 'x,y',
      NEMOTRON_SERVED_MODEL_NAME: 'one,two',
      NEMOTRON_CONFIG: file({ models: [{ model: 'a', dtype: 'fp8' }, { model: 'b' }] }),
    }
    const namesOf = (model: readonly string[]) =>
      modelSettings(ownSettings({ model }, env)).map((one) => [one.model, one.names, one.dtype])
    assert.deepEqual(namesOf([]), [
      ['x', ['one'], 'auto'],
      ['y', ['two'], 'auto'],
    ])
    assert.deepEqual(namesOf(['a']), [['a', [], 'fp8']])
    assert.deepEqual(namesOf(['c']), [['c', [], 'auto']])
  })

  test('what is wrong is refused by the name of its variable', () => {
    assert.throws(
      () => ownSettings({}, { NEMOTRON_THREADS: 'x' }),
      /^Error: NEMOTRON_THREADS must be a whole number; found "x"$/,
    )
  })
})

test('what an engine says of its options names flags, and leaves paths and other words alone', () => {
  for (const [said, shown] of [
    ['block_size: found 48, expected 16', '--block-size: found 48, expected 16'],
    ['blockSize must be an integer', '--block-size must be an integer'],
    ['draftModel /m/draft_model is not there', '--draft-model /m/draft_model is not there'],
    [
      'draft_model: its context of 9 tokens is shorter than max_model_len, 64',
      '--draft-model: its context of 9 tokens is shorter than --max-model-len, 64',
    ],
    ['memory_utilization: found 2', '--gpu-memory-utilization: found 2'],
    ['device: found "x"', '--device: found "x"'],
    ['a/config.json: the model has threads; dtype can be auto', undefined],
    ['/models/max_model_len-9/kvCacheDtype.json: weight_block_size', undefined],
    ['deviceIndex: found 9', undefined],
  ] as const)
    assert.equal(withFlags(said), shown ?? said.replace('; dtype', '; --dtype'))
})

describe('settings', () => {
  test('the defaults', () => {
    const settings = readSettings({}, {})
    assert.equal(settings.host, '127.0.0.1')
    assert.equal(settings.port, 8000)
    assert.equal(settings.default_thinking, false)
    assert.equal(settings.kv_cache_memory, undefined)
    assert.deepEqual(modelSettings(settings), [])
  })

  test('flags win over the environment, that over the file, that over defaults', () => {
    const path = file({
      port: 1,
      host: 'file',
      'max-num-seqs': 3,
      maxWaiting: 4,
      log_level: 'warn',
    })
    const env = { NEMOTRON_PORT: '2', NEMOTRON_HOST: 'env', NEMOTRON_CONFIG: path }
    const settings = readSettings({ port: '3' }, env)
    assert.equal(settings.port, 3)
    assert.equal(settings.host, 'env')
    assert.equal(settings.max_num_seqs, 3)
    assert.equal(settings.max_waiting, 4)
    assert.equal(settings.log_level, 'warn')
  })

  test('every flag has its variable and its key', () => {
    const values: Record<string, [string, unknown]> = {
      model: ['a,b', ['a', 'b']],
      served_model_name: ['x,y', ['x', 'y']],
      host: ['::1', '::1'],
      port: ['0', 0],
      api_key: ['k1,k2', ['k1', 'k2']],
      open_metrics: ['on', true],
      device: ['cpu', 'cpu'],
      dtype: ['fp8', 'fp8'],
      kv_cache_dtype: ['fp8', 'fp8'],
      kv_cache_memory: ['4GiB', 4 * 1024 ** 3],
      gpu_memory_utilization: ['0.5', 0.5],
      tensor_parallel_size: ['1', 1],
      max_model_len: ['4096', 4096],
      max_num_seqs: ['8', 8],
      max_num_batched_tokens: ['256', 256],
      block_size: ['16', 16],
      max_waiting: ['0', 0],
      draft_model: ['nvidia/Llama-3.1-Nemotron-Nano-8B-v1', 'nvidia/Llama-3.1-Nemotron-Nano-8B-v1'],
      draft_tokens: ['3', 3],
      draft_rows: ['16', 16],
      threads: ['2', 2],
      default_thinking: ['on', true],
      drain_timeout: ['5.5', 5.5],
      drain_delay: ['5', 5],
      log_level: ['debug', 'debug'],
      chat_template: ['a.jinja', 'a.jinja'],
      allowed_hosts: ['a.example,b.example', ['a.example', 'b.example']],
      allowed_origins: [
        'https://a.example,https://b.example',
        ['https://a.example', 'https://b.example'],
      ],
      request_timeout: ['60', 60],
      write_idle_timeout: ['10', 10],
      ping_interval: ['5', 5],
      stall_timeout: ['20', 20],
      body_limit: ['1MiB', 1 << 20],
      data_dir: ['/data', '/data'],
      file_limit: ['2GiB', 2 * 2 ** 30],
      prefix_cache: ['off', false],
      exact_activations: ['on', true],
      int8_activations: ['on', true],
      fp8_activations: ['on', true],
      strict_params: ['on', true],
      allow_pause: ['on', true],
      logprobs_mode: ['processed_logprobs', 'processed_logprobs'],
      reload_from: ['/weights', '/weights'],
      otlp_traces_endpoint: ['https://c:4318/v1/traces', 'https://c:4318/v1/traces'],
    }
    // These two go together: TLS has a test of its own (serve.test.ts).
    const tls = ['tls_cert', 'tls_key']
    for (const { key, env, repeat } of FLAGS.filter((flag) => !tls.includes(flag.key))) {
      const [text, value] = values[key] ?? ['', undefined]
      assert.ok(text !== '', key)
      const models = key === 'served_model_name' ? { model: ['a', 'b'] } : {}
      const pick = (settings: Record<string, unknown>) => settings[key]
      assert.deepEqual(
        pick(readSettings({ ...models, [key]: repeat ? text.split(',') : text }, {})),
        value,
        key,
      )
      assert.deepEqual(pick(readSettings(models, { [env]: text })), value, env)
      assert.deepEqual(pick(readSettings({ ...models }, {}, file({ [key]: value }))), value, key)
    }
  })

  test('models of their own settings', () => {
    const path = file({
      dtype: 'fp8',
      max_num_seqs: 9,
      models: [
        { model: 'nvidia/chat', served_model_name: 'chat', device: 'cuda', dtype: 'auto' },
        { model: 'nvidia/reward', 'max-model-len': 4096 },
      ],
    })
    const [chat, reward] = modelSettings(readSettings({}, {}, path))
    assert.equal(chat?.device, 'cuda')
    assert.equal(chat?.dtype, 'auto')
    assert.equal(chat?.max_num_seqs, 9)
    assert.deepEqual(chat?.names, ['chat'])
    assert.equal(reward?.device, 'auto')
    assert.equal(reward?.dtype, 'fp8')
    assert.equal(reward?.max_model_len, 4096)
    const [only] = modelSettings(readSettings({ model: ['nvidia/reward'] }, {}, path))
    assert.equal(only?.max_model_len, 4096)
  })

  test('names: all of them for one model, one each for several; those of an entry go before', () => {
    const served_model_name = ['x', 'y']
    const names = (flags: object, path?: string) =>
      modelSettings(readSettings({ served_model_name, ...flags }, {}, path)).map(
        (one) => `${one.model}: ${one.names}`,
      )
    assert.deepEqual(names({ model: ['a'] }), ['a: x,y'])
    assert.deepEqual(names({ model: ['a', 'b'] }), ['a: x', 'b: y'])
    assert.throws(
      () => names({ model: ['a', 'b', 'c'] }),
      /2 names for 3 models; give one for each/,
    )
    const one = file({ models: [{ model: 'a' }] })
    assert.deepEqual(names({}, one), ['a: x,y'])
    const two = file({ models: [{ model: 'a', served_model_name: ['p', 'q'] }, { model: 'b' }] })
    assert.deepEqual(names({}, two), ['a: p,q', 'b: y'])
    assert.deepEqual(names({ model: ['b', 'a'] }, two), ['b: x', 'a: p,q'])
  })

  test('what is wrong is named, with what would be right', () => {
    const wrong = (
      flags: Record<string, string | string[]>,
      env: NodeJS.ProcessEnv,
      path?: string,
    ) => {
      try {
        readSettings(flags, env, path)
      } catch (error) {
        assert.ok(error instanceof ConfigError)
        return error.message
      }
      throw new Error('it was accepted')
    }
    assert.match(
      wrong({ dtype: 'fp16' }, {}),
      /--dtype can be auto, bf16, fp8, int8, int4; found "fp16"/,
    )
    assert.match(wrong({ port: 'x' }, {}), /--port must be a whole number; found "x"/)
    assert.match(wrong({ port: '70000' }, {}), /--port must be at most 65535/)
    assert.match(wrong({ block_size: '17' }, {}), /--block-size can be 16, 32, 64, 128; found 17/)
    assert.match(
      wrong({ tensor_parallel_size: '9' }, {}),
      /--tensor-parallel-size must be at most 8/,
    )
    assert.match(wrong({ kv_cache_memory: 'lots' }, {}), /4GiB/)
    assert.match(wrong({ default_thinking: 'maybe' }, {}), /on or off/)
    assert.match(wrong({}, { NEMOTRON_DEVICE: 'tpu' }), /NEMOTRON_DEVICE can be auto, cpu, cuda/)
    assert.match(wrong({}, {}, file({ prot: 1 })), /unknown key 'prot' \(did you mean 'port'\?\)/)
    for (const entry of [null, 'x', 5])
      assert.match(wrong({}, {}, file({ models: [entry] })), /models/)
    assert.match(
      wrong({}, {}, file({ models: [{ model: 'x', divice: 'cpu' }] })),
      /did you mean 'device'/,
    )
    assert.match(wrong({}, {}, file('{')), /not JSON/)
    assert.match(wrong({}, {}, file('\ufeff{"prot": 1}')), /did you mean 'port'/)
    assert.match(
      wrong({}, {}, '/nowhere.json'),
      /^--config: \/nowhere.json cannot be read \(ENOENT\): there/,
    )
    assert.match(wrong({ api_key: [''] }, {}), /--api-key must not be empty/)
    for (const key of [' ', 'secret\n', 'sécret', 'two words']) {
      const text = wrong({ api_key: ['good', key] }, {})
      assert.match(text, /--api-key: no header can carry it/)
      assert.doesNotMatch(text, /secret|words/, 'a key is told to nobody')
    }
    assert.match(wrong({}, {}, file({ tls_cert: 'x' })), /go together/)
    assert.match(wrong({ model: ['a', 'b'], served_model_name: ['x'] }, {}), /1 names for 2 models/)
    assert.match(
      wrong({ model: ['a', 'b'], served_model_name: ['x', 'x'] }, {}),
      /--served-model-name: 'x' is given twice/,
    )
    assert.match(wrong({ served_model_name: ['x', 'x'] }, {}), /'x' is given twice/)
    // These would never match what a client sends.
    for (const host of ['http://a.example', 'a.example:80', 'a.example/', 'a b', '::1'])
      assert.match(
        wrong({ allowed_hosts: [host] }, {}),
        /--allowed-hosts: expected a name alone/,
        host,
      )
    for (const origin of [
      'localhost:3000',
      'a.example',
      'https://a.example/',
      'https://u@a.example',
    ])
      assert.match(
        wrong({ allowed_origins: [origin] }, {}),
        /--allowed-origins: expected a scheme/,
        origin,
      )
  })

  test('names of hosts and origins are the same in large letters', () => {
    const settings = readSettings(
      { allowed_hosts: ['API.Example', '[::2]'], allowed_origins: ['HTTPS://App.Example:3000'] },
      {},
    )
    assert.deepEqual(settings.allowed_hosts, ['api.example', '[::2]'])
    assert.deepEqual(settings.allowed_origins, ['https://app.example:3000'])
  })

  test('a variable that nothing reads is named, with what was probably meant', () => {
    const env = {
      NEMOTRON_PROT: '1',
      NEMOTRON_MISSPELT_UTTERLY: '',
      NEMOTRON_CUDA: 'OFF',
      PATH: '',
    }
    const lines = unknownVariables({ ...env, NEMOTRON_API_KEY: 'x', NEMOTRON_CONFIG: 'x' })
    assert.deepEqual(lines, [
      'NEMOTRON_PROT is set and nothing reads it (did you mean NEMOTRON_PORT?)',
      'NEMOTRON_MISSPELT_UTTERLY is set and nothing reads it',
    ])
  })

  test('what Kubernetes tells of Services that are called nemotron is no setting', () => {
    const env = {
      NEMOTRON_PORT: 'tcp://10.0.0.1:8000',
      NEMOTRON_SERVICE_HOST: '10.0.0.1',
      NEMOTRON_SERVICE_PORT: '8000',
      NEMOTRON_SERVICE_PORT_HTTP: '8000',
      NEMOTRON_PORT_8000_TCP: 'tcp://10.0.0.1:8000',
      NEMOTRON_PORT_8000_TCP_PROTO: 'tcp',
      NEMOTRON_PORT_8000_TCP_PORT: '8000',
      NEMOTRON_PORT_8000_TCP_ADDR: '10.0.0.1',
      NEMOTRON_PORT_53_UDP: 'udp://10.0.0.1:53',
      NEMOTRON_NEMOTRON_SERVER_PORT: 'tcp://10.0.0.1:8000',
    }
    assert.equal(readSettings({}, env).port, 8000)
    assert.equal(readSettings({}, env, file({ port: 9 })).port, 9, 'it is as if it were not set')
    assert.deepEqual(unknownVariables(env), [])
    // No more than those.
    assert.throws(() => readSettings({}, { NEMOTRON_PORT: 'http://x' }), /NEMOTRON_PORT must be/)
    for (const name of ['NEMOTRON_SERVER_PORT', 'NEMOTRON_SERVICE_PORTS', 'NEMOTRON_PORT_X_TCP'])
      assert.equal(unknownVariables({ [name]: '80' }).length, 1, name)
  })

  test('every variable that something reads is known', () => {
    const folders = ['addon', 'cuda', 'models', 'server', 'scripts']
    const names = folders.flatMap((folder) =>
      readdirSync(packagePath(folder), { recursive: true, encoding: 'utf8' })
        .filter((path) => /\.(cc|cu|h|ts|mjs)$/.test(path))
        .flatMap((path) => {
          const text = readFileSync(join(packagePath(folder), path), 'utf8')
          const read = /(?:env\.|getenv\(|read_switch\(|"|')(NEMOTRON_[A-Z_]+)\b(?!_)/g
          return [...text.matchAll(read)].map(([, name = '']) => name)
        }),
    )
    assert.ok(names.includes('NEMOTRON_CUDA_LIBRARY') && names.includes('NEMOTRON_ADDON'))
    assert.deepEqual(unknownVariables(Object.fromEntries(names.map((name) => [name, '1']))), [])
  })
})
