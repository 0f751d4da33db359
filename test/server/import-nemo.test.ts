// `import-nemo`: NeMo folders, made of golden checkpoints, come back as those.

import assert from 'node:assert/strict'
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { findFolder } from '../../server/model/fetch.js'
import { importNemo } from '../../server/nemo/import.js'
import { packagePath } from '../../server/version.js'
import { readAnswer } from './harness.js'
import { type NemoOptions, nemoFolder, readTensors } from './nemo-folder.js'
import { noAddon, startReal } from './real-server.js'

const outside = (): string => join(mkdtempSync(join(tmpdir(), 'nemotron-imported-')), 'out')
const SHARD = 50_000
const LM: NemoOptions = { checkpoint: 'nemotron4' }
const REWARD: NemoOptions = { checkpoint: 'nemotron4_nine_outputs' }

const assertSame = (out: string, checkpoint: string): void => {
  const [found, expected] = [
    readTensors(out),
    readTensors(packagePath(`test/golden/${checkpoint}`)),
  ]
  assert.deepEqual([...found.keys()].sort(), [...expected.keys()].sort())
  for (const [name, { dtype, shape, data }] of expected) {
    const one = found.get(name)
    assert.deepEqual([one?.dtype, one?.shape], [dtype, shape], name)
    assert.ok(one?.data.equals(data), `${name} has other bytes`)
  }
}

describe('import-nemo', () => {
  const kinds: [string, NemoOptions][] = [
    ['a language model, chunks of two ways', LM],
    ['a reward model of nine outputs', REWARD],
    ['zlib', { ...REWARD, zlib: true }],
    ['chunks of three ways, padded at the edges', { ...LM, ways: 3 }],
    ['folders of chunks', { ...LM, separator: '/', ways: 4 }],
    ['an array a layer', { ...REWARD, perLayer: true }],
    ['F16 weights', { checkpoint: 'nemotron4_f16' }],
  ]
  for (const [what, options] of kinds)
    test(`${what}: every tensor byte for byte`, async () => {
      const out = outside()
      const told: [number, number][] = []
      await importNemo(nemoFolder(options), out, {
        shardBytes: SHARD,
        onProgress: (_, done, total) => told.push([done, total]),
      })
      assertSame(out, options.checkpoint)
      const [done, total] = told.at(-1) ?? []
      assert.ok(done !== undefined && done >= (total ?? 0))
      assert.ok(readdirSync(out).filter((name) => name.endsWith('.safetensors')).length > 1)
      assert.deepEqual(
        readdirSync(out).filter((name) => /partial|state|chunk|lock/.test(name)),
        [],
      )
    })

  test('a head that is shared with the embedding is not written a second time', async () => {
    const folder = nemoFolder({ ...LM, config: { share_embeddings_and_output_weights: 'true' } })
    rmSync(join(weightsOf(folder), 'model.output_layer.weight'), { recursive: true })
    const out = outside()
    await importNemo(folder, out)
    const config = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'))
    assert.equal(config.tie_word_embeddings, true)
    const files = readdirSync(out).filter((name) => name.endsWith('.safetensors'))
    const heads = files.map((name) => readFileSync(join(out, name)).includes('"lm_head.weight"'))
    assert.deepEqual(heads, [false])
  })

  test('its config says what the checkpoint is, and its tokenizer comes along', async () => {
    const [out, reward] = [outside(), outside()]
    await importNemo(nemoFolder(LM), out)
    await importNemo(nemoFolder(REWARD), reward)
    const configOf = (folder: string) =>
      JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
    const original = JSON.parse(
      readFileSync(packagePath('test/golden/nemotron4/config.json'), 'utf8'),
    )
    const config = configOf(out)
    for (const key of [
      'architectures',
      'head_dim',
      'hidden_act',
      'hidden_size',
      'intermediate_size',
      'max_position_embeddings',
      'norm_eps',
      'num_attention_heads',
      'num_hidden_layers',
      'num_key_value_heads',
      'partial_rotary_factor',
      'tie_word_embeddings',
      'vocab_size',
    ])
      assert.deepEqual(config[key], original[key], key)
    assert.equal(config.rope_theta, 10000)
    const judged = configOf(reward)
    assert.deepEqual(judged.architectures, ['NemotronForSequenceClassification'])
    assert.equal(judged._name_or_path, 'nvidia/Nemotron-4-340B-Reward')
    assert.equal(judged.id2label['4'], 'helpfulness')
    assert.ok(
      readFileSync(join(reward, 'tokenizer.model')).equals(
        readFileSync(packagePath('test/golden/pieces/nemotron.model')),
      ),
    )
  })

  test("an imported reward model gives transformers' scores, and the 340B's attributes", {
    skip: noAddon,
  }, async () => {
    const out = outside()
    await importNemo(nemoFolder(REWARD), out)
    const source = packagePath('test/golden/nemotron4_nine_outputs')
    // The golden conversations are of another tokenizer than the one that the folder brings.
    for (const name of ['tokenizer.json', 'tokenizer_config.json'])
      copyFileSync(join(source, name), join(out, name))
    const golden = JSON.parse(readFileSync(join(source, 'golden.json'), 'utf8'))
    const server = await startReal({ max_model_len: 256, models: [{ model: out }] })
    try {
      const inputs = golden.conversations.map(({ messages }: { messages: unknown }) => ({
        messages,
      }))
      const response = await server.post('/v1/reward', { model: 'out', inputs })
      const { data } = await readAnswer(response)
      for (const [i, item] of data.entries()) {
        for (const [k, score] of item.scores.entries()) {
          const expected = golden.conversations[i].scores[k]
          assert.ok(Math.abs(score - expected) <= 0.01 * Math.max(Math.abs(expected), 1))
        }
        assert.equal(item.attributes.helpfulness, item.scores[4])
        assert.ok(
          Math.abs(item.reward - golden.rewards[i]) <=
            0.02 * Math.max(1, Math.abs(golden.rewards[i])),
        )
      }
    } finally {
      await server.close()
    }
  })

  test('goes on where it was cut short, and touches no shard that is whole', async () => {
    const [folder, out] = [nemoFolder(LM), outside()]
    const cut = new Error('cut short')
    let calls = 0
    const broken = importNemo(folder, out, {
      shardBytes: SHARD,
      onProgress: () => {
        if (++calls === 6) throw cut
      },
    })
    await assert.rejects(broken, cut)
    const shards = readdirSync(out).filter((name) => name.endsWith('.safetensors'))
    assert.ok(shards.length > 0 && !existsSync(join(out, 'config.json')))
    for (const name of shards) utimesSync(join(out, name), 1, 1)
    await assert.rejects(importNemo(nemoFolder(REWARD), out), /unfinished import of another folder/)
    await importNemo(folder, out, { shardBytes: SHARD })
    for (const name of shards) assert.equal(statSync(join(out, name)).mtimeMs, 1000)
    assertSame(out, 'nemotron4')
    await assert.rejects(importNemo(folder, out), /is not empty, and no unfinished import/)
  })

  test('a second run on the same output is refused, and does no harm to the first', async () => {
    const [folder, out] = [nemoFolder({ ...LM, zlib: true }), outside()]
    let second: Promise<void> | undefined
    await importNemo(folder, out, {
      shardBytes: SHARD,
      onProgress: () => {
        second ??= assert.rejects(
          importNemo(folder, out, { shardBytes: SHARD }),
          new RegExp(`out is being written by process ${process.pid}: wait`),
        )
      },
    })
    assert.ok(second)
    await second
    assertSame(out, 'nemotron4')
  })

  test('a NeMo folder or archive where a model is to be is told what to do', async () => {
    const folder = nemoFolder(LM)
    await assert.rejects(
      findFolder(folder, {}),
      /has no config.json but a model_config.yaml: it is a NeMo folder. `nemotron-server import-nemo /,
    )
    const archive = join(folder, 'model.nemo')
    writeFileSync(archive, '')
    const bare = join(folder, 'bare')
    mkdirSync(bare)
    await assert.rejects(
      findFolder(bare, {}),
      /bare: has no config.json. A model is a folder that has/,
    )
    await assert.rejects(findFolder(archive, {}), /model.nemo: this is a NeMo archive; unpack it/)
  })

  test('a value that stands for another, and a length under its other name', async () => {
    for (const change of [
      {
        encoder_seq_length: '77',
        max_position_embeddings: ['$', '{.encoder_seq_length}'].join(''),
      },
      { encoder_seq_length: '77', max_position_embeddings: 'null' },
    ]) {
      const out = outside()
      await importNemo(nemoFolder({ ...LM, config: change }), out)
      const config = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'))
      assert.equal(config.max_position_embeddings, 77)
    }
  })

  const FC2 = 'model.decoder.layers.mlp.linear_fc2.weight'
  const weightsOf = (folder: string) => join(folder, 'model_weights')
  const refused: [string, NemoOptions, (folder: string) => void, RegExp][] = [
    [
      'a missing chunk',
      LM,
      (folder) => rmSync(join(weightsOf(folder), FC2, '1.0.1')),
      /linear_fc2.weight\/1\.0\.1: this chunk is missing; the array has 2 x 96 x 150 in chunks of 1 x 96 x 75/,
    ],
    [
      'a short chunk',
      LM,
      (folder) => truncateSync(join(weightsOf(folder), FC2, '1.0.1'), 100),
      /1\.0\.1: this chunk has 100 bytes; expected 14400/,
    ],
    [
      'a chunk that is too long',
      LM,
      (folder) => appendFileSync(join(weightsOf(folder), FC2, '0.0.0'), 'x'),
      /0\.0\.0: this chunk has 14401 bytes; expected 14400/,
    ],
    [
      'a broken compressed chunk',
      { ...LM, zlib: true },
      (folder) => writeFileSync(join(weightsOf(folder), FC2, '0.0.0'), 'not zlib'),
      /0\.0\.0: cannot be inflated: incorrect header check/,
    ],
    [
      'a compressed chunk that is cut',
      { ...LM, zlib: true },
      (folder) => truncateSync(join(weightsOf(folder), FC2, '0.0.0'), 60),
      /0\.0\.0: cannot be inflated: unexpected end of file/,
    ],
    [
      'another compressor',
      { ...LM, header: { [FC2]: { compressor: { id: 'blosc', cname: 'lz4' } } } },
      () => {},
      /linear_fc2.weight\/.zarray: compressor is "blosc"; read: none and "zlib"/,
    ],
    [
      'another order',
      { ...LM, header: { [FC2]: { order: 'F' } } },
      () => {},
      /order is "F"; read: "C"/,
    ],
    [
      'another dtype',
      { ...LM, header: { [FC2]: { dtype: '<i4' } } },
      () => {},
      /dtype is "<i4"; read: bfloat16, <f2, <f4/,
    ],
    [
      'filters',
      { ...LM, header: { [FC2]: { filters: [{ id: 'delta' }] } } },
      () => {},
      /it has filters; read: none/,
    ],
    [
      'a config that contradicts a tensor',
      { ...LM, config: { ffn_hidden_size: '151' } },
      () => {},
      /linear_fc1.weight\/.zarray: shape is 2 x 150 x 96; expected 2 x 151 x 96/,
    ],
    [
      'a config of another model',
      { ...LM, config: { activation: 'fast-swiglu' } },
      () => {},
      /model_config.yaml: activation: "fast-swiglu"\. Supported values are: "squared-relu"/,
    ],
    [
      'a config without a size',
      { ...LM, config: { num_layers: 'null' } },
      () => {},
      /model_config.yaml: num_layers: missing/,
    ],
    [
      'an array that is missing',
      LM,
      (folder) => rmSync(join(weightsOf(folder), FC2), { recursive: true }),
      /model.decoder.layers.0.mlp.linear_fc2.weight is missing/,
    ],
    [
      'an array that would be lost',
      LM,
      (folder) =>
        renameSync(
          join(weightsOf(folder), 'model.output_layer.weight'),
          join(weightsOf(folder), 'model.output_layer.bias'),
        ),
      /model.output_layer.weight or model.rm_head.weight is missing/,
    ],
    [
      'a reward head with a bias',
      REWARD,
      (folder) => {
        const bias = join(weightsOf(folder), 'model.rm_head.bias')
        mkdirSync(bias)
        const header = { chunks: [9], compressor: null, dtype: '<f4', order: 'C', shape: [9] }
        writeFileSync(join(bias, '.zarray'), JSON.stringify({ ...header, zarr_format: 2 }))
        writeFileSync(join(bias, '0'), Buffer.alloc(36, 1))
      },
      /rm_head.bias: the reward head has a bias that is not 0/,
    ],
    [
      'a disk without room for it',
      {
        ...LM,
        header: Object.fromEntries(
          ['model.embedding.word_embeddings.weight', 'model.output_layer.weight'].map((name) => [
            name,
            { shape: [1e12, 96] },
          ]),
        ),
      },
      () => {},
      /out: 3.84e\+5 GB are still to be written, and its disk has .* GB free/,
    ],
    [
      'a folder without its config',
      LM,
      (folder) => rmSync(join(folder, 'model_config.yaml')),
      /model_config.yaml: there is no such file: expected a NeMo folder/,
    ],
    [
      'a folder that is none',
      LM,
      (folder) => rmSync(weightsOf(folder), { recursive: true }),
      /model_weights: there is no such folder/,
    ],
  ]
  for (const [what, options, change, message] of refused)
    test(`${what} is named`, async () => {
      const folder = nemoFolder(options)
      change(folder)
      await assert.rejects(importNemo(folder, outside()), message)
    })
})
