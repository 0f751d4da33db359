// Weights that change while a server runs: who asks then is answered by them, bit for bit, and what does not fit
// changes nothing.

import assert from 'node:assert/strict'
import {
  cpSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { openEngine } from '../../server/engine/engine.js'
import type { Engine } from '../../server/engine/types.js'
import { packagePath } from '../../server/version.js'
import { startHarness } from './harness.js'
import { changeHeader, spoilLastNorm, writeOtherWeights } from './other-weights.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

const FOLDER = packagePath('models/tiny/tiny-reasoner')
const UPDATE = '/update_weights_from_disk'
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
    openEngine({ model, device: 'cpu', threads: 1, kvCacheMemory: 16 << 20, ...more })
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

  describe('over HTTP', () => {
    let server: RealServer
    before(async () => {
      server = await startReal({
        max_model_len: 1024,
        reload_from: root,
        models: [{ model: FOLDER, served_model_name: 'm' }],
      })
    })
    after(() => server.close())
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

    test('what is wrong is said, and the weights stay', async () => {
      const before = await ask()
      symlinkSync(FOLDER, join(root, 'link'))
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
      }
      const unknown = await post(UPDATE, { model_path: 'one', model: 'none' })
      assert.equal(unknown.response.status, 404)
      const again = await ask()
      assert.deepEqual(again.answer.choices, before.answer.choices)
      assert.deepEqual(again.answer.metadata, before.answer.metadata)
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
