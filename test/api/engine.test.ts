import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { loadAddon, type PackedNames } from '../../server/engine/addon.js'
import { openEngine } from '../../server/engine/engine.js'
import type {
  Delta,
  Engine,
  EngineOptions,
  GenerateRequest,
  LoadProgress,
  MemoryPlan,
  Sampling,
} from '../../server/engine/types.js'
import { loadTokenizer } from '../../server/tokenizer/tokenizer.js'
import { gather, generate, idsOf, isIdle, prompt, smallEngine, textOf, until } from './support.js'
import { tinyCheckpoint } from './tiny_checkpoint.js'

const folder = tinyCheckpoint()
const greedy: Sampling = { temperature: 0, maxTokens: 24, ignoreEos: true }

describe('loading', () => {
  test('says what was loaded', async () => {
    const plans: MemoryPlan[] = []
    const progress: LoadProgress[] = []
    const engine = await openEngine({
      ...smallEngine(folder),
      onPlan: (plan) => plans.push(plan),
      onProgress: (news) => progress.push(news),
    })
    const { info } = engine
    await engine.close()
    assert.equal(info.architecture, 'LlamaForCausalLM')
    assert.equal(info.dtype, 'bf16')
    assert.equal(info.maxModelLen, 2048)
    assert.equal(info.vocabSize, 320)
    assert.equal(info.bosTokenId, 256)
    // From config, and by name from the tokenizer.
    assert.deepEqual([...info.eosTokenIds].sort(), [257, 258, 259])
    assert.deepEqual(info.generation, { greedy: false })
    assert.equal(info.rewardLabels, null)
    assert.match(info.fingerprint, /^fp_[0-9a-f]{10}$/)
    assert.match(info.device, /^cpu \(.*1 thread\)$/)
    assert.equal(plans.length, 1)
    assert.deepEqual(plans[0], info.plan)
    assert.equal(info.plan.kv, 4 << 20)
    assert.equal(info.plan.kvTokens, info.plan.numBlocks * info.plan.blockSize)
    assert.match(info.plan.table, /weights/)
    const last = progress.at(-1)
    assert.equal(last?.bytesDone, last?.bytesTotal)
    assert.ok(info.load.bytes > 0)
  })

  test('the plan names what the KV cache keeps', async () => {
    const kinds = [
      ['auto', 'F16'],
      ['bf16', 'BF16'],
      ['fp8', 'F8_E4M3'],
    ] as const
    for (const [kvCacheDtype, name] of kinds) {
      const engine = await openEngine({ ...smallEngine(folder), kvCacheDtype })
      assert.match(engine.info.plan.table, new RegExp(` bytes a token in ${name}$`, 'm'))
      await engine.close()
    }
  })

  test('the fingerprint changes with the dtype alone', async () => {
    const prints = []
    for (const dtype of ['auto', 'bf16', 'fp8'] as const) {
      const engine = await openEngine({ ...smallEngine(folder), dtype })
      prints.push(engine.info.fingerprint)
      assert.equal(engine.info.dtype, dtype === 'fp8' ? 'fp8' : 'bf16')
      await engine.close()
    }
    assert.equal(prints[0], prints[1])
    assert.notEqual(prints[0], prints[2])
  })

  test('what a listener throws is thrown by the call, and the engine is closed', async () => {
    for (const name of ['onPlan', 'onProgress'] as const) {
      const fault = new Error(`the fault of ${name}`)
      const options = {
        ...smallEngine(folder),
        [name]: () => {
          throw fault
        },
      }
      await assert.rejects(openEngine(options), (error) => error === fault)
    }
  })

  const wrong: [string, Partial<Record<keyof EngineOptions, unknown>>, string, RegExp][] = [
    ['a folder that is not there', { model: '/nowhere' }, 'not_found', /\/nowhere is not there/],
    ['a file for a folder', { model: join(folder, 'config.json') }, 'not_found', /is no folder/],
    ['no model', { model: undefined }, 'invalid_argument', /model must be/],
    [
      'an unknown dtype',
      { dtype: 'int3' },
      'invalid_argument',
      /"int3"; it can be auto, bf16, fp8, int8, int4/,
    ],
    ['an unknown KV dtype', { kvCacheDtype: 'f32' }, 'invalid_argument', /kvCacheDtype is "f32"/],
    [
      'half a thread',
      { threads: 1.5 },
      'invalid_argument',
      /threads must be an integer from 1 to 1024, found 1.5/,
    ],
    [
      'a number as text',
      { maxModelLen: '64' },
      'invalid_argument',
      /maxModelLen must be an integer/,
    ],
    ['fewer than no threads', { threads: -1 }, 'invalid_argument', /threads must be .*found -1/],
    ['negative memory', { kvCacheMemory: -5 }, 'invalid_argument', /kvCacheMemory must be .* -5/],
    [
      'a row before the first',
      { rewardRows: [-2] },
      'invalid_argument',
      /a reward row is -2; expected 0 to 319/,
    ],
    ['a plan for nobody', { onPlan: 5 }, 'invalid_argument', /onPlan must be a function, found 5/],
    ['progress for nobody', { onProgress: {} }, 'invalid_argument', /onProgress .* an object/],
    ['null', { isa: null }, 'invalid_argument', /isa must be a string, found null/],
    ['a list', { device: ['cpu'] }, 'invalid_argument', /device must be a string, found a list/],
    [
      'a field that is none',
      { max_model_len: 64 } as object,
      'invalid_argument',
      /max_model_len is no field of options: model, device/,
    ],
    ['an odd block size', { blockSize: 48 }, 'invalid_argument', /^blockSize: found 48/],
    ['an unknown device', { device: 'tpu' }, 'invalid_argument', /tpu/],
    ['an unknown instruction set', { isa: 'mmx' }, 'invalid_argument', /mmx/],
    ['a KV cache for less than one sequence', { kvCacheMemory: 1 << 16 }, 'out_of_memory', /KV/],
  ]
  for (const [name, change, code, message] of wrong) {
    test(`${name} is an error that says so`, async () => {
      const options = { ...smallEngine(folder), ...change } as EngineOptions
      await assert.rejects(openEngine(options), { name: 'EngineFailure', code, message })
    })
  }

  test('options that are none are an error that says so', async () => {
    for (const options of [undefined, null, 5, 'folder', []])
      await assert.rejects(openEngine(options as never), {
        name: 'EngineFailure',
        code: 'invalid_argument',
        message: /^options must be an object, found/,
      })
  })

  test('a tokenizer beyond the embedding is an error that names both', async () => {
    const short = tinyCheckpoint({ vocab: 258, config: { eos_token_id: 257 } })
    await assert.rejects(openEngine(smallEngine(short)), {
      code: 'invalid_argument',
      message: /tokenizer.json has token 259 \("<\|eom_id\|>"\).*only 258 rows/,
    })
  })

  test('a truncated checkpoint is an error that names the file', async () => {
    const broken = tinyCheckpoint()
    const path = join(broken, 'model.safetensors')
    writeFileSync(path, readFileSync(path).subarray(0, -1000))
    await assert.rejects(openEngine(smallEngine(broken)), {
      code: 'invalid_argument',
      message: /model\.safetensors/,
    })
  })
})

describe('generating', () => {
  let engine: Engine
  before(async () => {
    engine = await openEngine(smallEngine(folder))
  })
  after(() => engine.close())

  test('the text of the deltas is the text of their ids', async () => {
    const tokenizer = await loadTokenizer(folder)
    const deltas = await generate(engine, greedy)
    assert.equal(idsOf(deltas).length, 24)
    assert.equal(textOf(deltas), tokenizer.decode(idsOf(deltas), { skipSpecial: true }))
    const last = deltas.at(-1)
    assert.equal(last?.finish, 'length')
    assert.ok(deltas.slice(0, -1).every((delta) => !delta.finish && !delta.timings))
    assert.ok(last?.timings && last.timings.prefillSeconds > 0)
  })

  test('submit, generate and a second time are the same, alone and among others', async () => {
    const alone = idsOf(await generate(engine, greedy))
    const crowd = Array.from({ length: 12 }, (_, i) =>
      generate(engine, { maxTokens: 5 + i, seed: i }, { promptTokenIds: [256, 65 + i] }),
    )
    const submitted = await new Promise<readonly number[]>((resolve) => {
      const deltas: Delta[] = []
      engine.submit({ promptTokenIds: Int32Array.from(prompt), sampling: greedy }, (delta) => {
        deltas.push(delta)
        if (delta.finish) resolve(idsOf(deltas))
      })
    })
    assert.deepEqual(submitted, alone)
    assert.deepEqual(idsOf(await generate(engine, greedy)), alone)
    for (const [i, deltas] of (await Promise.all(crowd)).entries()) {
      assert.ok(idsOf(deltas).length <= 5 + i)
    }
  })

  test('a seed repeats a draw, no seed does not', async () => {
    const drawn = async (seed?: number | bigint) =>
      idsOf(
        await generate(engine, { ...greedy, temperature: 1, ...(seed !== undefined && { seed }) }),
      )
    assert.deepEqual(await drawn(7), await drawn(7n))
    assert.deepEqual(await drawn(-7), await drawn(BigInt.asUintN(64, -7n)))
    assert.notDeepEqual(await drawn(7), await drawn(8))
    assert.notDeepEqual(await drawn(), await drawn())
  })

  test('choices differ from each other and repeat with the seed', async () => {
    const sampling = { ...greedy, temperature: 1, seed: 3 }
    const first = await generate(engine, sampling, { n: 3 })
    const second = await generate(engine, sampling, { n: 3 })
    const all = [0, 1, 2].map((choice) => idsOf(first, choice))
    assert.deepEqual(
      all,
      [0, 1, 2].map((choice) => idsOf(second, choice)),
    )
    assert.equal(new Set(all.map(String)).size, 3)
    assert.equal(first.filter((delta) => delta.finish).length, 3)
    assert.deepEqual(all[0], idsOf(await generate(engine, sampling)))
  })

  test('logprobs come one a token, the likeliest first', async () => {
    const deltas = await generate(engine, { ...greedy, logprobs: 5, promptLogprobs: 2 })
    const entries = deltas.flatMap((delta) => delta.logprobs ?? [])
    assert.deepEqual(
      entries.map(({ id }) => id),
      idsOf(deltas),
    )
    for (const { logprob, rank, top } of entries) {
      assert.equal(top.length, 5)
      assert.ok(logprob < 0 && rank >= 1)
      const values = top.map((entry) => entry.logprob)
      assert.deepEqual(
        values,
        values.toSorted((a, b) => b - a),
      )
      assert.ok(values.reduce((sum, value) => sum + Math.exp(value), 0) <= 1)
    }
    const ofPrompt = deltas.flatMap((delta) => [...(delta.promptLogprobs ?? [])])
    assert.equal(ofPrompt.length, prompt.length)
    assert.equal(ofPrompt[0], null)
    assert.deepEqual(
      ofPrompt.slice(1).map((entry) => entry?.id),
      prompt.slice(1),
    )
    assert.ok(ofPrompt.slice(1).every((entry) => entry?.top.length === 2))
    assert.ok(!(await generate(engine, greedy)).some((delta) => delta.logprobs))
  })

  test('no tokens but prompt logprobs', async () => {
    const deltas = await generate(engine, { maxTokens: 0, promptLogprobs: 0 })
    assert.deepEqual(idsOf(deltas), [])
    assert.equal(deltas.flatMap((delta) => [...(delta.promptLogprobs ?? [])]).length, prompt.length)
    assert.equal(deltas.at(-1)?.finish, 'length')
  })

  test('a stop string ends the text before it and is named', async () => {
    // ASCII alone, so that the text has strings to stop at.
    const sampling = { ...greedy, allowedTokenIds: Array.from({ length: 26 }, (_, i) => 97 + i) }
    const text = textOf(await generate(engine, sampling))
    const stop = text.slice(9, 12)
    const deltas = await generate(engine, { ...sampling, stop: ['\u0000', stop] })
    assert.equal(textOf(deltas), text.slice(0, text.indexOf(stop)))
    assert.equal(deltas.at(-1)?.finish, 'stop')
    assert.equal(deltas.at(-1)?.stopReason, stop)
    const kept = await generate(engine, { ...sampling, stop: [stop], includeStop: true })
    assert.equal(textOf(kept), text.slice(0, text.indexOf(stop) + 3))
  })

  test('a stop token ends the text and is named', async () => {
    const ids = idsOf(await generate(engine, greedy))
    const stopId = ids[5] ?? -1
    const deltas = await generate(engine, { ...greedy, stopTokenIds: [stopId] })
    assert.deepEqual(idsOf(deltas).slice(0, ids.indexOf(stopId)), ids.slice(0, ids.indexOf(stopId)))
    assert.equal(deltas.at(-1)?.finish, 'stop')
    assert.equal(deltas.at(-1)?.stopReason, stopId)
  })

  test('bias, bad words and allowed ids reach the sampler', async () => {
    const biased = await generate(engine, { ...greedy, logitBias: new Map([[88, 100]]) })
    assert.ok(idsOf(biased).every((id) => id === 88))
    const allowed = await generate(engine, { ...greedy, allowedTokenIds: [65, 66] })
    assert.ok(idsOf(allowed).every((id) => id === 65 || id === 66))
    const [first = -1] = idsOf(await generate(engine, greedy))
    const avoided = await generate(engine, { ...greedy, badWordIds: [[first]] })
    assert.ok(!idsOf(avoided).includes(first))
  })

  test('a thinking budget closes the block and goes on', async () => {
    const free = idsOf(await generate(engine, { ...greedy, maxTokens: 40 }))
    const budget = { ...greedy, maxTokens: 40, thinkingBudget: 4 }
    const open = await generate(engine, { ...budget, thinkingOpen: true })
    assert.match(textOf(open), /\n<\/think>\n\n/)
    assert.deepEqual(idsOf(open).slice(0, 4), free.slice(0, 4))
    // It has nothing to close in a prompt that opens no block, or closes it again.
    assert.deepEqual(idsOf(await generate(engine, budget)), free)
    for (const [text, isOpen] of [
      ['<think>', true],
      ['<think></think>', false],
      ['<think></think><think>a', true],
    ] as const) {
      const promptTokenIds = [...prompt, ...Buffer.from(text)]
      const got = textOf(await generate(engine, budget, { promptTokenIds }))
      assert.equal(/\n<\/think>\n\n/.test(got), isOpen, text)
    }
  })

  test('a prefix that was seen is reused and says so', async () => {
    const long = Array.from({ length: 200 }, (_, i) => 32 + (i % 90))
    const first = await generate(engine, greedy, { promptTokenIds: long })
    const second = await generate(engine, greedy, { promptTokenIds: long })
    assert.deepEqual(idsOf(second), idsOf(first))
    assert.equal(first.at(-1)?.timings?.cacheMiss.reason, 'never_seen')
    assert.ok((second.at(-1)?.timings?.cachedTokens ?? 0) >= 128)
  })

  test('with another salt, what others have asked leaves no trace', async () => {
    const ask = async (promptTokenIds: readonly number[], more: object) => {
      const before = engine.stats()
      const last = (await generate(engine, greedy, { promptTokenIds, ...more })).at(-1)
      const { missNeverSeen, missEvicted } = engine.stats()
      const counted = [missNeverSeen - before.missNeverSeen, missEvicted - before.missEvicted]
      return [last?.timings?.cachedTokens, last?.timings?.cacheMiss, counted]
    }
    const prompt = (of: number) =>
      Array.from({ length: 200 }, (_, i) => 160 + (((i + 1) * of) % 90))
    const [asked, salted] = [prompt(7), prompt(11)]
    await ask(asked, {})
    await ask(salted, { cacheSalt: 'theirs' })
    const unheard = await ask(prompt(13), { cacheSalt: 'mine' })
    assert.deepEqual(unheard, [0, { reason: 'never_seen', position: 0 }, [1, 0]])
    assert.deepEqual(await ask(asked, { cacheSalt: 'mine' }), unheard)
    assert.deepEqual(await ask(salted, { cacheSalt: 'mine, too' }), unheard)
    assert.deepEqual(await ask(salted, {}), unheard)
  })

  const wrong: [string, Partial<GenerateRequest>, RegExp][] = [
    ['an empty prompt', { promptTokenIds: [] }, /prompt: is empty/],
    ['a fraction for an id', { promptTokenIds: [1, 1.5] }, /promptTokenIds\[1\].*1\.5/],
    ['an id beyond the vocabulary', { promptTokenIds: [99999] }, /99999/],
    ['a negative id', { promptTokenIds: [-1] }, /-1/],
    ['too long a prompt', { promptTokenIds: new Int32Array(2049) }, /2049 tokens.*2048/],
    ['no prompt', { promptTokenIds: undefined } as object, /promptTokenIds must be .* undefined/],
    ['text for a prompt', { promptTokenIds: 'Hi' } as object, /promptTokenIds must be .*"Hi"/],
    ['text among ids', { promptTokenIds: ['1'] } as object, /promptTokenIds must be a list/],
    ['sampling that is none', { sampling: 5 } as object, /sampling must be an object, found 5/],
    ['null for sampling', { sampling: null } as object, /sampling must be an object, found null/],
    ['a field that is none', { maxTokens: 5 } as object, /maxTokens is no field of the request/],
    [
      'a misspelt field',
      { sampling: { max_tokens: 5 } } as object,
      /sampling\.max_tokens is no field of sampling: maxTokens/,
    ],
    ['one stop string', { sampling: { stop: 'x' } } as object, /sampling\.stop must be a list/],
    ['one stop id', { sampling: { stopTokenIds: 5 } } as object, /stopTokenIds must be a list/],
    ['flat bad words', { sampling: { badWordIds: [5] } } as object, /badWordIds must be a list/],
    ['a bias that is no Map', { sampling: { logitBias: { 5: 1 } } } as object, /logitBias .* Map/],
    [
      'a bias of a text',
      { sampling: { logitBias: new Map([['5', 1]]) } } as object,
      /logitBias must be a Map from token ids to numbers/,
    ],
    [
      'a bias by a text',
      { sampling: { logitBias: new Map([[5, '1']]) } } as object,
      /logitBias must be a Map from token ids to numbers/,
    ],
    [
      'text for a seed',
      { sampling: { seed: 'x' } } as object,
      /seed must be an integer of 64 bits, found "x"/,
    ],
    ['text for a number', { sampling: { topK: '5' } } as object, /topK must be a number/],
    ['no choices', { n: 0 }, /n: found 0/],
    ['a negative temperature', { sampling: { temperature: -1 } }, /temperature: found -1/],
    ['a temperature that is no number', { sampling: { temperature: Number.NaN } }, /temperature/],
    ['too many logprobs', { sampling: { logprobs: 21 } }, /logprobs: found 21/],
    [
      'a fraction for a seed',
      { sampling: { seed: 0.5 } },
      /seed must be an integer of 64 bits, found 0.5/,
    ],
    ['a seed of 65 bits', { sampling: { seed: 1n << 64n } }, /seed must be an integer of 64 bits/],
    ['a wrong stop id', { sampling: { stopTokenIds: [0.5] } }, /stopTokenIds\[0\]/],
    ['an empty stop string', { sampling: { stop: [''] } }, /stop/],
    ['no token that is allowed', { sampling: { allowedTokenIds: [] } }, /at least one token id/],
    ['a bias beyond the vocabulary', { sampling: { logitBias: new Map([[4000, 1]]) } }, /4000/],
  ]
  for (const [name, change, message] of wrong) {
    test(`${name} is refused at once`, () => {
      const request = { promptTokenIds: prompt, ...change }
      const error = { name: 'EngineFailure', code: 'invalid_argument', message }
      assert.throws(() => engine.submit(request, () => {}), error)
      assert.throws(() => engine.generate(request), error)
      assert.ok(isIdle(engine))
    })
  }

  test('a request that is none, no listener, no signal are refused at once', () => {
    const error = (message: RegExp) => ({
      name: 'EngineFailure',
      code: 'invalid_argument',
      message,
    })
    for (const request of [undefined, null, 5, 'Hi', [1, 2]])
      assert.throws(
        () => engine.generate(request as never),
        error(/^the request must be an object/),
      )
    const request = { promptTokenIds: prompt }
    for (const listener of [undefined, 5, {}])
      assert.throws(
        () => engine.submit(request, listener as never),
        error(/^onDelta must be a func/),
      )
    for (const signal of [5, {}, null])
      assert.throws(() => engine.generate(request, { signal } as never), error(/^signal must be/))
    assert.ok(isIdle(engine))
  })

  test('a chat model does not score', async () => {
    await assert.rejects(engine.score({ promptTokenIds: prompt }), { name: 'EngineFailure' })
  })
})

describe('aborting', () => {
  const endless: Sampling = { maxTokens: 1900, ignoreEos: true }
  let engine: Engine
  before(async () => {
    engine = await openEngine(smallEngine(folder))
  })
  after(() => engine.close())

  test('by the handle: every choice ends with abort, once', async () => {
    const ends: Delta[] = []
    const request = { promptTokenIds: prompt, n: 2, sampling: endless }
    const handle = engine.submit(request, (delta) => {
      if (delta.finish) ends.push(delta)
    })
    await until('it runs', () => engine.stats().running === 2)
    handle.abort()
    handle.abort()
    await until('both ends', () => ends.length === 2)
    assert.deepEqual(
      ends.map(({ finish }) => finish),
      ['abort', 'abort'],
    )
    await until('idle', () => isIdle(engine))
    handle.abort()
  })

  test('by leaving the loop', async () => {
    const { finishedLength, finishedStop } = engine.stats()
    for await (const delta of engine.generate({ promptTokenIds: prompt, sampling: endless })) {
      if (delta.tokenIds.length > 0) break
    }
    await until('idle', () => isIdle(engine))
    const after = engine.stats()
    assert.deepEqual([after.finishedLength, after.finishedStop], [finishedLength, finishedStop])
  })

  test('by throwing out of the loop', async () => {
    await assert.rejects(async () => {
      for await (const _ of engine.generate({ promptTokenIds: prompt, sampling: endless })) {
        throw new Error('enough')
      }
    }, /enough/)
    await until('idle', () => isIdle(engine))
  })

  test('by a signal, before and while it runs', async () => {
    const controller = new AbortController()
    const { signal } = controller
    const running = gather(
      engine.generate({ promptTokenIds: prompt, sampling: endless }, { signal }),
    )
    await until('it runs', () => engine.stats().running === 1)
    controller.abort()
    assert.equal((await running).at(-1)?.finish, 'abort')
    const late = await gather(
      engine.generate({ promptTokenIds: prompt, sampling: endless }, { signal }),
    )
    assert.equal(late.at(-1)?.finish, 'abort')
    await until('idle', () => isIdle(engine))
  })

  test('an iterator that nobody reads on holds nothing up', async () => {
    const iterator = engine.generate({ promptTokenIds: prompt, sampling: endless })
    await iterator.next()
    assert.equal(idsOf(await generate(engine, greedy)).length, 24)
    await iterator.return?.()
    assert.deepEqual(await iterator.next(), { done: true, value: undefined })
    await until('idle', () => isIdle(engine))
  })
})

describe('admission and the end', () => {
  test('a full queue is refused, and open again when it has moved', async () => {
    const engine = await openEngine({ ...smallEngine(folder), maxNumSeqs: 1, maxWaiting: 3 })
    const running: Promise<readonly Delta[]>[] = []
    const fill = () => {
      for (let i = 0; i < 8; i++) running.push(generate(engine, greedy))
    }
    // None of them ends meanwhile.
    await engine.pause('keep')
    assert.throws(fill, { name: 'EngineFailure', code: 'queue_full', message: /queue is full/ })
    assert.equal(running.length, 4)
    assert.equal(engine.isFull(), true)
    assert.equal(engine.stats().rejected, 1)
    running.push(generate(engine, greedy, { admitted: true }))
    running.push(generate(engine, greedy, { background: true }))
    engine.resume()
    await Promise.all(running)
    assert.equal(engine.isFull(), false)
    assert.equal(idsOf(await generate(engine, greedy)).length, 24)
    await engine.close()
  })

  test('a number in packed deltas has the name that the types give it', () => {
    assert.deepEqual(loadAddon().packedNames, {
      finishes: ['none', 'stop', 'length', 'abort', 'error'],
      missReasons: ['none', 'never_seen', 'evicted', 'last_token'],
      codes: [
        'ok',
        'invalid_argument',
        'not_found',
        'unsupported',
        'out_of_memory',
        'unavailable',
        'queue_full',
        'aborted',
        'internal',
      ],
    } satisfies PackedNames)
  })

  test('draining lets what runs end and takes nothing new', async () => {
    const engine = await openEngine(smallEngine(folder))
    const running = generate(engine, greedy)
    engine.drain()
    assert.throws(() => engine.generate({ promptTokenIds: prompt }), { code: 'unavailable' })
    assert.equal((await running).at(-1)?.finish, 'length')
    await engine.close()
  })

  test('closing aborts what is left, twice does no harm', async () => {
    const engine = await openEngine(smallEngine(folder))
    const running = [1, 2, 3].map((seed) =>
      generate(engine, { maxTokens: 1900, ignoreEos: true, seed }),
    )
    await until('they run', () => engine.stats().running === 3)
    const closing = engine.close()
    assert.ok(closing instanceof Promise)
    assert.equal(engine.close(), closing)
    await Promise.all([closing, engine.close()])
    assert.equal(engine.close(), closing)
    for (const deltas of await Promise.all(running)) assert.equal(deltas.at(-1)?.finish, 'abort')
    await engine.close()
    assert.throws(() => engine.generate({ promptTokenIds: prompt }), { code: 'unavailable' })
    assert.equal(engine.stats().failure, null)
  })

  test('two engines in one process do not meet', async () => {
    const other = tinyCheckpoint({ seed: 2 })
    const [a, b] = await Promise.all([
      openEngine(smallEngine(folder)),
      openEngine(smallEngine(other)),
    ])
    const alone = idsOf(await generate(a, greedy))
    const both = await Promise.all([generate(a, greedy), generate(b, greedy)])
    assert.deepEqual(idsOf(both[0] ?? []), alone)
    assert.notDeepEqual(idsOf(both[1] ?? []), alone)
    await b.close()
    assert.deepEqual(idsOf(await generate(a, greedy)), alone)
    await a.close()
  })
})

describe('a reward model', () => {
  let engine: Engine
  before(async () => {
    engine = await openEngine(smallEngine(tinyCheckpoint({ classes: 3 })))
  })
  after(() => engine.close())

  test('gives a score a label, the same each time and among others', async () => {
    assert.deepEqual(engine.info.rewardLabels, ['quality_0', 'quality_1', 'quality_2'])
    assert.equal(engine.info.rewardKind, 'classification')
    const { scores, timings } = await engine.score({ promptTokenIds: prompt })
    assert.equal(scores.length, 3)
    assert.ok(scores.every(Number.isFinite))
    assert.ok(timings.prefillSeconds > 0)
    const crowd = [prompt, [256, 1, 2], prompt, [256, 9]]
    const all = await Promise.all(crowd.map((promptTokenIds) => engine.score({ promptTokenIds })))
    assert.deepEqual(all[0]?.scores, scores)
    assert.deepEqual(all[2]?.scores, scores)
    assert.notDeepEqual(all[1]?.scores, scores)
  })

  test('does not generate', () => {
    assert.throws(() => engine.generate({ promptTokenIds: prompt }), { name: 'EngineFailure' })
  })

  test('an aborted score is rejected', async () => {
    const signal = AbortSignal.abort()
    await assert.rejects(engine.score({ promptTokenIds: prompt }, { signal }), { code: 'aborted' })
  })
})
