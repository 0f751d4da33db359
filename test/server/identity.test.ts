import assert from 'node:assert/strict'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { describe, test } from 'node:test'
import { createEngine } from '../../server/library.js'
import { createMetrics } from '../../server/metrics/metrics.js'
import { defaultName, hubName, namesOfModel } from '../../server/model/identity.js'
import { loadModel } from '../../server/model/open.js'
import { findEntry } from '../../server/model/registry.js'
import { modelSettings, readSettings } from '../../server/settings/read.js'
import { packagePath } from '../../server/version.js'
import { chatCheckpoint } from './chat-checkpoint.js'
import { noAddon } from './real-server.js'

const REWARD = packagePath('models/tiny/tiny-reward')
const temporary = () => mkdtempSync(join(tmpdir(), 'nemotron-'))

/** A copy of a config.json that says nothing of its origin. */
const nameless = (folder: string): string => {
  mkdirSync(folder, { recursive: true })
  const config = JSON.parse(readFileSync(join(REWARD, 'config.json'), 'utf8'))
  const { _name_or_path: _, ...rest } = config
  writeFileSync(join(folder, 'config.json'), JSON.stringify(rest))
  return folder
}

const rowOf = (model: string, served: readonly string[] = []) =>
  findEntry(namesOfModel(model, model, served))?.reward?.rows?.[0]

describe('a model is known', () => {
  test('by the folder of the hub, however the path is typed', () => {
    const root = temporary()
    const snapshot = nameless(
      join(root, 'models--nvidia--Llama-3.1-Nemotron-70B-Reward-HF', 'snapshots', '0a1b2c3d'),
    )
    const link = join(root, 'mine')
    symlinkSync(snapshot, link)
    for (const typed of [
      snapshot,
      `${snapshot}/`,
      `${snapshot}/.`,
      join(snapshot, '..', '0a1b2c3d'),
      relative(process.cwd(), snapshot),
      link,
    ])
      assert.equal(rowOf(typed), 0, typed)
    assert.equal(hubName(snapshot), 'nvidia/Llama-3.1-Nemotron-70B-Reward-HF')
    assert.equal(defaultName(snapshot, snapshot), 'nvidia/Llama-3.1-Nemotron-70B-Reward-HF')
    assert.equal(defaultName(link, link), 'mine')
  })

  test('by the real path, the config and the served name', () => {
    const root = temporary()
    const real = nameless(join(root, 'tiny-reward'))
    symlinkSync(real, join(root, 'link'))
    assert.equal(rowOf(join(root, 'link')), 0)
    const here = process.cwd()
    process.chdir(real)
    try {
      assert.equal(rowOf('.'), 0)
      assert.equal(rowOf('./.'), 0)
      assert.equal(defaultName('.', '.'), 'tiny-reward')
    } finally {
      process.chdir(here)
    }
    const other = nameless(join(root, 'other'))
    assert.equal(rowOf(other), undefined)
    assert.equal(rowOf(other, ['team/tiny-reward']), 0)
    cpSync(REWARD, join(root, 'copied'), { recursive: true })
    assert.equal(rowOf(join(root, 'copied')), 0)
  })

  test("in NVIDIA's spellings and others'", () => {
    for (const [name, kind] of [
      ['nvidia/Llama-3_3-Nemotron-Super-49B-v1', 'Super-49B'],
      ['nvidia/Llama-3_1-Nemotron-Ultra-253B-v1', 'Super-49B'],
      ['Llama-3_1-Nemotron-Ultra-253B-v1-FP8', 'Super-49B'],
      ['nvidia_Llama-3.1-Nemotron-Nano-8B-v1', 'Nano (8B'],
      ['nvidia_Llama-3.1-Nemotron-Nano-4B-v1_1', 'Nano (8B'],
      ['nvidia-Llama-3_1-Nemotron-70B-Instruct-HF', '70B-Instruct'],
      ['Llama-3_1-Nemotron-70B-Reward-HF', '70B-Reward'],
      ['nvidia/Llama-3.3-Nemotron-70B-Reward-Multilingual', '-Multilingual'],
      ['nvidia/Llama-3_3-Nemotron-70B-Reward-Principle', '70B-Reward-Principle'],
      ['nvidia/Llama-3.3-Nemotron-70B-Select', '-Select'],
      ['nvidia/Llama-3.3-Nemotron-70B-Feedback', '-Feedback'],
      ['nvidia/Llama-3.3-Nemotron-70B-Edit', '-Edit'],
      ['nvidia/Llama-3_3-Nemotron-Super-49B-v1_5', 'v1.5'],
      ['nvidia/Llama-3_3-Nemotron-Super-49B-v1_5-FP8', 'v1.5'],
      ['nvidia/Llama-3_3-Nemotron-Super-49B-GenRM', 'GenRM'],
      ['nvidia/Llama-3_3-Nemotron-Super-49B-GenRM-Multilingual', 'GenRM'],
      ['nvidia/Llama-3.1-Nemotron-8B-UltraLong-4M-Instruct', 'UltraLong'],
      ['nvidia/Llama-3.1-Nemotron-Safety-Guard-8B-v3', 'Safety-Guard'],
      ['nvidia/Nemotron-4-340B-Instruct', 'Nemotron-4-340B-Instruct'],
      ['Nemotron-4-340B-Reward', 'Nemotron-4-340B-Reward'],
    ] as const)
      assert.match(findEntry([name])?.name ?? 'unknown', new RegExp(kind.replace('(', '\\(')), name)
    assert.equal(findEntry(['my-tiny-reward-notes']), undefined)
  })
})

describe('a reward model', { skip: noAddon }, () => {
  test('is one by the path that `pull` prints', async (t) => {
    const folder = join(temporary(), 'models--nvidia--tiny-reward', 'snapshots', '0a1b2c3d')
    cpSync(REWARD, folder, { recursive: true })
    nameless(folder)
    const engine = await createEngine({ model: folder, kvCacheMemory: 1 << 25 })
    t.after(() => engine.close())
    assert.equal(engine.info.rewardKind, 'lm_head_rows')
  })

  test('is never served as a chat model without a loud word', async () => {
    const folder = join(temporary(), 'My-Reward-8B')
    cpSync(chatCheckpoint(), folder, { recursive: true })
    const [settings] = modelSettings(
      readSettings({ model: [folder], kv_cache_memory: '16MiB' }, {}),
    )
    assert.ok(settings)
    const warnings: string[] = []
    const model = await loadModel({
      settings,
      folder,
      utilization: 0.5,
      metrics: createMetrics(),
      hooks: { onProgress: () => {}, onPlan: () => {}, warn: (message) => warnings.push(message) },
    })
    await model.engine.close()
    assert.ok(
      warnings.some((one) => /My-Reward-8B .*SERVED AS A CHAT MODEL/.test(one)),
      `${warnings}`,
    )
  })
})
