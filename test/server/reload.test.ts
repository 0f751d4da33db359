// Weights that change while a server runs: who asks then is answered by them, bit for bit, and what does not fit
// changes nothing.

import assert from 'node:assert/strict'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
import { openEngine } from '../../server/engine/engine.js'
import type { Engine } from '../../server/engine/types.js'
import { packagePath } from '../../server/version.js'
import {
  chatBody,
  type HarnessOptions,
  readAnswer,
  readEvents,
  startHarness,
  until,
} from './harness.js'
import { changeHeader, spoilLastNorm, writeOtherWeights } from './other-weights.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

const FOLDER = packagePath('models/tiny/tiny-reasoner')
const UPDATE = '/update_weights_from_disk'
/** A promise, and how it is kept. */
const untilWaiting = (url: string, count: number) =>
  until(async () => {
    const text = await (await fetch(`${url}/metrics`)).text()
    return new RegExp(`^vllm:num_requests_waiting\\{[^}]*\\} ${count}$`, 'm').test(text)
  }, `${count} wait`)

const deferred = <T>() => {
  let resolve: (value: T) => void = () => {}
  const promise = new Promise<T>((done) => {
    resolve = done
  })
  return { promise, resolve }
}

const PROMPT = Array.from({ length: 70 }, (_, i) => 20 + (i % 50))

describe('weights that change', { skip: noAddon }, () => {
  let root = ''
  before(() => {
    root = mkdtempSync(join(tmpdir(), 'nemotron-weights-'))
    writeOtherWeights(FOLDER, join(root, 'one'), 1)
    writeOtherWeights(FOLDER, join(root, 'two'), 2)
  })
  after(() => rmSync(root, { recursive: true }))

  const open = (model: string, more = {}): Promise<Engine> =>
    openEngine({ model, device: 'cpu', threads: 1, kvCacheMemory: 32 << 20, ...more })
  const sampling = { maxTokens: 24, seed: 5, logprobs: 2, ignoreEos: true }
  const answerOf = async (engine: Engine, more = {}) => {
    const told = []
    for await (const { tokenIds, logprobs, timings } of engine.generate({
      promptTokenIds: PROMPT,
      sampling: { ...sampling, ...more },
    }))
      told.push({ tokenIds, logprobs, cached: timings?.cachedTokens })
    return {
      ids: told.flatMap(({ tokenIds }) => tokenIds),
      logprobs: told.flatMap(({ logprobs = [] }) => logprobs),
      cached: told.at(-1)?.cached,
    }
  }

  for (const more of [
    {},
    { dtype: 'int8' as const },
    { dtype: 'fp8' as const },
    { tensorParallelSize: 2, threads: 2 },
  ])
    test(`an engine answers as one that began with them: ${JSON.stringify(more)}`, async () => {
      const engine = await open(FOLDER, more)
      const fresh = await Promise.all(
        ['one', 'two'].map(async (name) => {
          const other = await open(join(root, name), more)
          const answer = await answerOf(other)
          await other.close()
          return answer
        }),
      )
      const first = await answerOf(engine)
      assert.notDeepEqual(fresh[0]?.ids, first.ids)
      await engine.reload(join(root, 'one'))
      // Nothing that the old weights computed is used.
      assert.deepEqual(await answerOf(engine), fresh[0])
      assert.equal((await answerOf(engine)).cached, PROMPT.length - 1)
      await engine.reload(join(root, 'two'))
      assert.deepEqual(await answerOf(engine), fresh[1])
      await engine.reload(FOLDER)
      assert.deepEqual(await answerOf(engine), first)
      await engine.close()
    })

  test('live requests keep their tokens and go on with the new weights', async () => {
    const engine = await open(FOLDER)
    const ids: number[] = []
    const more = { maxTokens: 300, temperature: 0, ignoreEos: true, logprobs: 0 }
    const logprobs: number[] = []
    let told: (value: unknown) => void = () => {}
    const begun = new Promise((resolve) => {
      told = resolve
    })
    const ended = new Promise((resolve) => {
      engine.submit({ promptTokenIds: PROMPT, sampling: more }, (delta) => {
        ids.push(...delta.tokenIds)
        logprobs.push(...(delta.logprobs ?? []).map(({ logprob }) => logprob))
        if (ids.length > 5) told(undefined)
        if (delta.finish) resolve(delta.finish)
      })
    })
    await begun
    await engine.pause('keep')
    await engine.reload(join(root, 'one'))
    assert.ok(engine.isPaused())
    const old = ids.length
    engine.resume()
    assert.equal(await ended, 'length')
    assert.ok(old < 300)
    // Behind what the old weights wrote stands what the new ones write behind it.
    const other = await open(join(root, 'one'))
    const behind: number[] = []
    const theirs: number[] = []
    for await (const delta of other.generate({
      promptTokenIds: [...PROMPT, ...ids.slice(0, old + 1)],
      sampling: { ...more, maxTokens: 300 - old - 1 },
    })) {
      behind.push(...delta.tokenIds)
      theirs.push(...(delta.logprobs ?? []).map(({ logprob }) => logprob))
    }
    assert.deepEqual(ids.slice(old + 1), behind)
    assert.deepEqual(logprobs.slice(old + 1), theirs)
    await Promise.all([engine.close(), other.close()])
  })

  const later = (ms: number) => new Promise((done) => setTimeout(done, ms))
  /** A request that takes a while; its ids as they come. */
  const longOne = (engine: Engine) => {
    const ids: number[] = []
    const begun = deferred<void>()
    const ended = deferred<string>()
    const long = { maxTokens: 900, temperature: 0, ignoreEos: true }
    engine.submit({ promptTokenIds: PROMPT, sampling: long }, (delta) => {
      ids.push(...delta.tokenIds)
      if (ids.length > 5) begun.resolve()
      if (delta.finish) ended.resolve(delta.finish)
    })
    return { ids, begun: begun.promise, ended: ended.promise }
  }

  test('a pause is what pause() and resume() say, while they load too', async () => {
    const engine = await open(FOLDER)
    const first = longOne(engine)
    await first.begun
    const loading = engine.reload(join(root, 'one'))
    assert.equal(engine.isPaused(), false)
    await engine.pause('keep')
    await loading
    assert.equal(engine.isPaused(), true)
    const told = first.ids.length
    await later(200)
    assert.equal(first.ids.length, told)
    const again = engine.reload(join(root, 'two'))
    engine.resume()
    await again
    assert.equal(engine.isPaused(), false)
    assert.equal(await first.ended, 'length')
    // Who came while a pause waited for the others is not let in by a load.
    await engine.pause('wait')
    await later(50)
    const second = longOne(engine)
    await engine.reload(join(root, 'one'))
    await later(200)
    assert.equal(second.ids.length, 0)
    engine.resume()
    assert.equal(await second.ended, 'length')
    await engine.close()
  })

  test('who asked for them knows before a token of theirs comes, in a pause that waits too', async () => {
    const engine = await open(FOLDER)
    const old = longOne(engine)
    assert.equal(await old.ended, 'length')
    for (const pauses of [false, true]) {
      const one = longOne(engine)
      await one.begun
      const waits = pauses ? engine.pause('wait') : undefined
      const loading = engine.reload(join(root, 'one'))
      await later(2)
      // What happens meanwhile is told all at once.
      const until = performance.now() + 500
      while (performance.now() < until);
      await loading
      assert.ok(one.ids.length < 900)
      assert.deepEqual(one.ids, old.ids.slice(0, one.ids.length))
      assert.equal(await one.ended, 'length')
      await waits
      engine.resume()
      assert.notDeepEqual(one.ids, old.ids)
      await engine.reload(FOLDER)
    }
    await engine.close()
  })

  test('those that are to end do when the new weights are there, and who came since is answered', async () => {
    const engine = await open(FOLDER)
    const old = longOne(engine)
    await old.begun
    await assert.rejects(engine.reload(join(root, 'none'), { abort: true }), /none is not there/)
    const loading = engine.reload(join(root, 'one'), { abort: true })
    const since = answerOf(engine)
    await loading
    assert.equal(await old.ended, 'abort')
    const other = await open(join(root, 'one'))
    assert.deepEqual(await since, await answerOf(other))
    await Promise.all([engine.close(), other.close()])
    const wrong = { abort: 1 } as never
    await assert.rejects(engine.reload(FOLDER, wrong), /abort must be a boolean, found 1/)
  })

  test('what does not fit is refused, and nothing changes', async () => {
    const engine = await open(FOLDER)
    const first = await answerOf(engine)
    const bad = (name: string, spoil: (folder: string) => void): string => {
      const folder = join(root, name)
      cpSync(join(root, 'one'), folder, { recursive: true })
      spoil(folder)
      return folder
    }
    const config = (change: object) => (folder: string) => {
      const file = join(folder, 'config.json')
      const text = JSON.parse(readFileSync(file, 'utf8'))
      writeFileSync(file, JSON.stringify({ ...text, ...change }))
    }
    for (const [folder, message] of [
      [join(root, 'none'), /is not there/],
      [bad('empty', (one) => rmSync(join(one, 'model.safetensors'))), /safetensors/],
      [bad('eps', config({ rms_norm_eps: 0.1 })), /rms_norm_eps is another/],
      [bad('theta', config({ rope_theta: 77 })), /rope_theta/],
      [
        bad('name', (one) =>
          changeHeader(one, (tensors) => {
            const moved = tensors['model.norm.weight']
            if (moved) tensors['model.other.weight'] = moved
            delete tensors['model.norm.weight']
          }),
        ),
        /model\.norm\.weight is missing/,
      ],
      [
        bad('short', (one) => truncateSync(join(one, 'model.safetensors'), 40_000)),
        /model\.safetensors/,
      ],
      [
        bad('shape', (one) =>
          changeHeader(one, (tensors) => tensors['model.norm.weight']?.shape.push(1)),
        ),
        /model\.norm\.weight is BF16 \[\d+, 1\]; the weights that run have/,
      ],
    ] as const) {
      await assert.rejects(engine.reload(folder), message)
      assert.deepEqual((await answerOf(engine)).ids, first.ids)
    }
    await engine.close()
    await assert.rejects(engine.reload(FOLDER), /closed/)
  })

  test('rewards that are ended say why', async (t) => {
    const model = packagePath('models/tiny/tiny-reward')
    cpSync(model, join(root, 'reward'), { recursive: true })
    const server = await startReal({
      ...{ reload_from: root, allow_pause: true, max_model_len: 1024 },
      models: [{ model }],
    })
    t.after(() => server.close())
    await server.post('/pause?mode=keep', {})
    const messages = [{ role: 'user', content: 'Hi' }]
    const responses = Array.from({ length: 9 }, (_, i) => `answer ${i}`)
    const reward = server.post('/v1/reward', { model: 'tiny-reward', messages, responses })
    await untilWaiting(server.url, responses.length)
    const body = { model_path: 'reward', abort_all_requests: true }
    const { success } = await server.answer(UPDATE, body)
    assert.equal(success, true)
    await server.post('/resume', {})
    const { error } = await readAnswer(await reward)
    assert.equal(error?.code, 'weights_changed')
  })

  test('a checkpoint that fails half-way leaves the old weights', async () => {
    const engine = await open(FOLDER)
    const first = await answerOf(engine)
    const folder = join(root, 'nan')
    cpSync(join(root, 'one'), folder, { recursive: true })
    spoilLastNorm(folder)
    await assert.rejects(engine.reload(folder), /finite/)
    assert.deepEqual((await answerOf(engine)).logprobs, first.logprobs)
    await engine.reload(join(root, 'one'))
    await engine.close()
  })

  test('each reload has an answer of its own', async () => {
    const engine = await open(join(root, 'one'))
    const one = await answerOf(engine)
    const first = engine.reload(join(root, 'two'))
    await new Promise((done) => setTimeout(done, 5))
    const second = engine.reload(join(root, 'one'))
    // One ends while nothing here can hear of it, and the other is asked for before that is heard.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500)
    const told = await Promise.allSettled([first, second])
    for (const each of told)
      if (each.status === 'rejected')
        assert.match(each.reason.message, /other weights are being loaded/)
    const [two, again] = told.map(({ status }) => status === 'fulfilled')
    assert.ok(two || again)
    const isOne = isDeepStrictEqual((await answerOf(engine)).logprobs, one.logprobs)
    if (two !== again) assert.equal(isOne, again)
    await engine.close()
  })

  describe('over HTTP', () => {
    let server: RealServer
    before(async () => {
      server = await startReal({
        max_model_len: 1024,
        reload_from: root,
        allow_pause: true,
        models: [{ model: FOLDER, served_model_name: 'm' }],
      })
    })
    after(() => server.close())
    afterEach(() => server.post('/resume', {}))
    const post = async (path: string, body: object) => {
      const response = await server.post(path, body)
      return { response, answer: JSON.parse(await response.text()) }
    }
    const ask = () =>
      post('/v1/completions', {
        model: 'm',
        prompt: PROMPT,
        max_tokens: 8,
        temperature: 0,
        return_token_ids: true,
      })

    test('answers are stamped with the weights that they are of', async () => {
      const first = await ask()
      assert.deepEqual(first.answer.metadata, { weight_version: 'default' })
      assert.equal(first.response.headers.get('x-weight-version'), 'default')
      const { response, answer } = await post(UPDATE, {
        model_path: 'one',
        weight_version: 'step-1',
      })
      assert.equal(response.status, 200, JSON.stringify(answer))
      assert.equal(answer.success, true)
      assert.match(answer.message, /step-1/)
      const second = await ask()
      assert.deepEqual(second.answer.metadata, { weight_version: 'step-1' })
      assert.notDeepEqual(second.answer.choices[0].token_ids, first.answer.choices[0].token_ids)
      const messages = [{ role: 'user', content: 'Hi' }]
      const body = { model: 'm', max_tokens: 2, messages }
      for (const path of ['/v1/chat/completions', '/v1/messages']) {
        const one = await server.post(path, body)
        await one.text()
        assert.equal(one.headers.get('x-weight-version'), 'step-1', path)
        const stream = await server.post(path, { ...body, stream: true })
        await stream.text()
        assert.equal(stream.headers.get('x-weight-version'), 'step-1', path)
      }
      const chat = await post('/v1/chat/completions', body)
      assert.deepEqual(chat.answer.metadata, { weight_version: 'step-1' })
      const back = await post(UPDATE, { model_path: join(root, 'two'), abort_all_requests: true })
      assert.equal(back.response.status, 200, JSON.stringify(back.answer))
      assert.deepEqual((await ask()).answer.metadata, { weight_version: join(root, 'two') })
    })

    const get = async (path: string) => readAnswer(await fetch(server.url + path))
    const CHAT = '/v1/chat/completions'
    const LONG = {
      model: 'm',
      messages: [{ role: 'user', content: 'Hi' }],
      max_tokens: 200,
      ignore_eos: true,
    }

    test('a stream that begins with the new weights says so, and GET /v1/server does', async () => {
      await post(UPDATE, { model_path: 'one', weight_version: 'before' })
      for (const [path, body] of [
        [CHAT, LONG],
        ['/v1/completions', { model: 'm', prompt: PROMPT, max_tokens: 20 }],
      ] as const) {
        await post('/pause?mode=keep', {})
        const stream = server.post(path, { ...body, stream: true })
        await untilWaiting(server.url, 1)
        const version = `after${path}`
        const { answer } = await post(UPDATE, { model_path: 'two', weight_version: version })
        assert.equal(answer.success, true, JSON.stringify(answer))
        assert.deepEqual(await get('/is_paused'), { is_paused: true })
        const [card] = (await get('/v1/server')).models
        assert.equal(card.weight_version, version)
        assert.equal(card.weights_from, realpathSync(join(root, 'two')))
        await post('/resume', {})
        const response = await stream
        const { chunks, done } = await readEvents(response)
        assert.ok(done)
        assert.equal(response.headers.get('x-weight-version'), version)
        assert.deepEqual(chunks.at(-1).metadata, { weight_version: version })
        assert.ok(chunks.slice(0, -1).every((chunk) => !('metadata' in chunk)))
      }
    })

    test('live requests end for weights that are there, not for a folder that does not fit', async () => {
      cpSync(join(root, 'one'), join(root, 'misfit'), { recursive: true })
      changeHeader(join(root, 'misfit'), (tensors) => tensors['model.norm.weight']?.shape.push(1))
      await post('/pause?mode=keep', {})
      const stream = server.post(CHAT, { ...LONG, stream: true })
      await untilWaiting(server.url, 1)
      const refused = await post(UPDATE, { model_path: 'misfit', abort_all_requests: true })
      assert.equal(refused.response.status, 400)
      await post('/resume', {})
      const { chunks } = await readEvents(await stream)
      assert.equal(
        chunks.at(-1).choices?.[0].finish_reason,
        'length',
        JSON.stringify(chunks.at(-1)),
      )

      await post('/pause?mode=keep', {})
      const scored = { model: 'm', query: 'a', items: ['b'], label_token_ids: [5, 6] }
      const answers = [
        post(CHAT, LONG),
        post('/v1/completions', { model: 'm', prompt: PROMPT }),
        post('/generative_scoring', scored),
      ]
      await untilWaiting(server.url, 3)
      const taken = await post(UPDATE, { model_path: 'one', abort_all_requests: true })
      assert.equal(taken.response.status, 200, JSON.stringify(taken.answer))
      assert.deepEqual(await get('/is_paused'), { is_paused: true })
      await post('/resume', {})
      for (const { response, answer } of await Promise.all(answers)) {
        assert.deepEqual([response.status, answer.error.code], [503, 'weights_changed'])
        assert.match(answer.error.message, /loaded other weights/)
      }
      assert.equal((await ask()).response.status, 200)
    })

    test('what is wrong is said, and the weights stay', async () => {
      const before = await ask()
      symlinkSync(FOLDER, join(root, 'link'))
      writeFileSync(join(root, 'file'), 'x')
      cpSync(join(root, 'one'), join(root, 'bad'), { recursive: true })
      changeHeader(join(root, 'bad'), (tensors) => tensors['model.norm.weight']?.shape.push(1))
      for (const [body, param] of [
        [{}, 'model_path'],
        [{ model_path: 5 }, 'model_path'],
        [{ model_path: '' }, 'model_path'],
        [{ model_path: '..' }, 'model_path'],
        [{ model_path: '.' }, 'model_path'],
        [{ model_path: '/etc' }, 'model_path'],
        [{ model_path: 'nothing' }, 'model_path'],
        [{ model_path: 'link' }, 'model_path'],
        [{ model_path: 'file' }, 'model_path'],
        [{ model_path: 'bad' }, 'model_path'],
        [{ model_path: 'one', weight_version: 'a b' }, 'weight_version'],
        [{ model_path: 'one', flush_cache: false }, 'flush_cache'],
        [{ model_path: 'one', is_async: true }, 'is_async'],
      ] as const) {
        const { response, answer } = await post(UPDATE, body)
        assert.equal(response.status, 400, JSON.stringify(body))
        assert.equal(answer.success, false)
        assert.equal(answer.message, answer.error.message)
        assert.equal(answer.error.param, param, JSON.stringify(answer))
        if ('model_path' in body && body.model_path === 'file')
          assert.match(answer.message, /^Invalid value for 'model_path': it is a file/)
      }
      const unknown = await post(UPDATE, { model_path: 'one', model: 'none' })
      assert.equal(unknown.response.status, 404)
      const again = await ask()
      assert.deepEqual(again.answer.choices, before.answer.choices)
      assert.deepEqual(again.answer.metadata, before.answer.metadata)
      // A name, not a way out.
      cpSync(join(root, 'one'), join(root, '..one'), { recursive: true })
      const dots = await post(UPDATE, { model_path: '..one' })
      assert.equal(dots.response.status, 200, JSON.stringify(dots.answer))
    })
  })
})

test('a server that may not reload says how it may', async () => {
  const harness = await startHarness({})
  try {
    const response = await harness.post(UPDATE, { model_path: 'x' })
    assert.equal(response.status, 403)
    assert.match(await response.text(), /--reload-from FOLDER/)
  } finally {
    await harness.close()
  }
})

describe('other weights of a scripted engine', () => {
  let root = ''
  before(() => {
    root = mkdtempSync(join(tmpdir(), 'nemotron-weights-'))
    mkdirSync(join(root, 'one'))
  })
  after(() => rmSync(root, { recursive: true }))

  const withHarness = async (
    options: HarnessOptions,
    use: (harness: Awaited<ReturnType<typeof startHarness>>) => Promise<void>,
  ) => {
    const harness = await startHarness({ ...options, config: { reloadFrom: root } })
    try {
      await use(harness)
    } finally {
      await harness.close()
    }
  }
  const CHAT = '/v1/chat/completions'

  const inTime = { timeout: 20_000 }
  test(
    'a pause that is made while they load stays, and another update is refused',
    inTime,
    async (t) => {
      const gate = deferred<void>()
      t.after(() => gate.resolve())
      const loads: unknown[] = []
      const reload = (...given: unknown[]) => {
        loads.push(given)
        return gate.promise
      }
      await withHarness({ reload }, async ({ url, post, model }) => {
        const isPaused = async () => (await readAnswer(await fetch(`${url}/is_paused`))).is_paused
        const body = { model_path: 'one', abort_all_requests: true }
        const update = post(UPDATE, body)
        await until(() => loads.length === 1, 'the load began')
        assert.equal(await isPaused(), false, 'nobody paused')
        const second = await post(UPDATE, body)
        assert.equal(second.status, 503)
        assert.equal(second.headers.get('retry-after'), '10')
        const { success, error } = await readAnswer(second)
        assert.deepEqual([success, error.code], [false, 'reload_unavailable'])
        assert.equal((await post('/pause?mode=keep', {})).status, 200)
        gate.resolve()
        assert.equal((await update).status, 200)
        assert.equal(await isPaused(), true)
        assert.deepEqual(loads, [[realpathSync(join(root, 'one')), { abort: true }]])
        assert.equal(model.weights.version, 'one')
        await post('/resume', {})
        assert.equal((await post(UPDATE, body)).status, 200)
      })
    },
  )

  test('a whole answer says one version, wherever it says it', async () => {
    await withHarness({ reward: { score: () => [1] } }, async ({ post, model, lines }) => {
      let looks = 0
      Object.defineProperty(model.weights, 'version', { get: () => `look-${looks++}` })
      for (const [path, body] of [
        [CHAT, chatBody()],
        ['/v1/completions', { model: 'tiny-reasoner', prompt: 'a' }],
        [`${CHAT}/batch`, { ...chatBody(), messages: [chatBody().messages] }],
      ] as const) {
        const response = await post(path, body)
        const { metadata } = await readAnswer(response)
        assert.match(metadata?.weight_version, /^look-\d+$/, path)
        assert.equal(response.headers.get('x-weight-version'), metadata.weight_version, path)
      }
      const messages = [...chatBody().messages, { role: 'assistant', content: 'b' }]
      const reward = await post('/v1/reward', { model: 'tiny-reward', messages })
      assert.equal(reward.headers.get('x-weight-version'), 'default')
      const isLogged = () =>
        lines.some((line) => line.path === '/v1/reward' && line.weight_version === 'default')
      await until(isLogged, 'the log has it too')
    })
  })

  test('a stream that spans a change names the old weights in its head and the new ones at its end', async () => {
    const answer = () => ({ pieces: [...'x'.repeat(100)] })
    const reload = async () => {}
    await withHarness({ answer, reload, stepMs: 10 }, async ({ post, engine }) => {
      for (const [path, body] of [
        [CHAT, chatBody({ stream: true, stream_options: { include_usage: true } })],
        ['/v1/completions', { model: 'tiny-reasoner', prompt: 'a', max_tokens: 500, stream: true }],
      ] as const) {
        assert.equal((await post(UPDATE, { model_path: 'one', weight_version: 'old' })).status, 200)
        const stream = await post(path, body)
        await engine.pause('keep')
        assert.equal((await post(UPDATE, { model_path: 'one', weight_version: 'new' })).status, 200)
        engine.resume()
        assert.equal(stream.headers.get('x-weight-version'), 'old', path)
        assert.match(stream.headers.get('access-control-expose-headers') ?? '', /x-weight-version/)
        const { chunks } = await readEvents(stream)
        const last = chunks.findLast((chunk) => chunk.choices.length > 0)
        assert.ok(last.choices[0].finish_reason, path)
        assert.deepEqual(last.metadata, { weight_version: 'new' }, path)
      }
    })
  })

  test('are not for a server that is about to go', async () => {
    await withHarness({ phase: () => ({ name: 'leaving' }) }, async ({ post }) => {
      const response = await post(UPDATE, { model_path: 'one' })
      assert.equal(response.status, 503)
      assert.equal((await readAnswer(response)).error.code, 'draining')
      assert.equal((await post(CHAT, chatBody())).status, 200)
    })
  })

  test('a folder that was taken away is a 400, one that never was there ends the start', async () => {
    await withHarness({}, async ({ server, post }) => {
      Object.assign(server.config, { reloadFrom: join(root, 'gone') })
      const response = await post(UPDATE, { model_path: join(root, 'one') })
      assert.equal(response.status, 400)
      assert.equal((await readAnswer(response)).error.param, 'model_path')
    })
    writeFileSync(join(root, 'file'), 'x')
    for (const [name, why] of [
      ['gone', /^--reload-from .*gone: there is no such folder$/],
      ['file', /^--reload-from .*file: it is no folder$/],
    ] as const) {
      const start = startReal({ reload_from: join(root, name) })
      await assert.rejects(start, (error: Error) => why.test(error.message), name)
    }
  })

  test('the routes of others to ask for the version name ours', async () => {
    await withHarness({}, async ({ url }) => {
      const response = await fetch(`${url}/get_weight_version`)
      assert.equal(response.status, 404)
      assert.match(await response.text(), /GET \/v1\/server/)
    })
  })
})
