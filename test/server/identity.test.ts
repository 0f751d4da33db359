import assert from 'node:assert/strict'
import { once } from 'node:events'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { describe, test } from 'node:test'
import { createEngine } from '../../server/library.js'
import { createMetrics } from '../../server/metrics/metrics.js'
import { defaultName, hubName, namesOfModel } from '../../server/model/identity.js'
import { prepareModel } from '../../server/model/open.js'
import { findEntry } from '../../server/model/registry.js'
import { modelSettings, readSettings } from '../../server/settings/read.js'
import { packagePath } from '../../server/version.js'
import { chatCheckpoint } from './chat-checkpoint.js'
import { writeTexts } from './gguf-writer.js'
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

  test('by every link on the way, and by the files that are linked into a folder', () => {
    const root = temporary()
    const blind = nameless(join(root, 'abc'))
    symlinkSync(blind, join(root, 'Llama-3.3-Nemotron-70B-Reward'))
    symlinkSync('Llama-3.3-Nemotron-70B-Reward', join(root, 'stage'))
    symlinkSync('./stage', join(root, 'prod'))
    assert.equal(rowOf(join(root, 'prod')), 0)
    const blobs = nameless(join(root, 'models--nvidia--tiny-reward', 'blobs'))
    const farm = join(root, 'farm')
    mkdirSync(farm)
    symlinkSync(join(blobs, 'config.json'), join(farm, 'config.json'))
    assert.equal(rowOf(farm), 0)
    symlinkSync('loop', join(root, 'loop'))
    assert.equal(rowOf(join(root, 'loop')), undefined)
  })

  test('by the folder above one that says a version, and above a GGUF file', () => {
    const root = temporary()
    for (const version of ['1', 'main', '0a1b2c3d', 'checkpoint-200'])
      assert.equal(rowOf(nameless(join(root, 'tiny-reward', version))), 0, version)
    assert.equal(rowOf(nameless(join(root, 'tiny-reward', 'chat'))), undefined)
    assert.equal(rowOf(join(root, 'nvidia_Llama-3.3-Nemotron-70B-Reward-GGUF', 'Q4_K_M.gguf')), 0)
    // What is surer comes first.
    const file = join(root, 'tiny-reward', 'tiny-reasoner-Q8_0.gguf')
    assert.equal(findEntry(namesOfModel(file))?.kind, 'chat')
  })

  test('by the path that the config was made from', () => {
    const root = temporary()
    for (const path of [
      '/root/.cache/huggingface/hub/models--nvidia--tiny-reward/snapshots/0a1b2c3d',
      '/lustre/team/tiny-reward/',
      '/lustre/team/tiny-reward/.',
    ]) {
      const folder = nameless(join(root, `x${path.length}`))
      writeFileSync(join(folder, 'config.json'), JSON.stringify({ _name_or_path: path }))
      assert.equal(rowOf(folder), 0, path)
    }
  })

  test('by what a GGUF file is called, before what it was trained from', () => {
    const file = join(temporary(), 'model-Q4_K_M.gguf')
    const base = {
      'general.base_model.0.name': 'Llama 3_3 Nemotron Super 49B v1',
      'general.base_model.0.repo_url':
        'https://huggingface.co/nvidia/Llama-3_3-Nemotron-Super-49B-v1',
    }
    const known = (own: Readonly<Record<string, string>>, path = file) => {
      writeTexts(path, { ...base, ...own })
      return findEntry(namesOfModel(path))?.name ?? 'unknown'
    }
    for (const [own, expected] of [
      [{ 'general.name': 'Llama 3_3 Nemotron Super 49B GenRM' }, /-GenRM/],
      [{ 'general.name': 'Llama 3_3 Nemotron Super 49B v1_5' }, /v1\.5/],
      [
        {
          'general.name': 'Models',
          'general.basename': 'Llama-3.3-Nemotron-Super',
          'general.size_label': '49B',
          'general.finetune': 'GenRM',
        },
        /-GenRM/,
      ],
      [
        { 'general.repo_url': 'https://huggingface.co/nvidia/Llama-3.3-Nemotron-70B-Edit' },
        /-Edit/,
      ],
      [{ 'general.name': 'Models' }, /^Llama-3.3-Nemotron-Super-49B and/],
    ] as const)
      assert.match(known(own), expected)
    const named = join(temporary(), 'Llama-3_3-Nemotron-Super-49B-GenRM-Q4_K_M.gguf')
    assert.match(known({}, named), /-GenRM/)
    const inFolder = join(temporary(), 'Llama-3_3-Nemotron-Super-49B-v1_5-GGUF')
    mkdirSync(inFolder)
    assert.match(known({}, join(inFolder, 'Q4_K_M.gguf')), /v1\.5/)
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
      ['nvidia/Llama-3.1-8B-UltraLong-1M-Instruct', 'UltraLong'],
      ['nvidia/Llama-3.1-Nemotron-Safety-Guard-8B-v3', 'Safety-Guard'],
      ['nvidia/Nemotron-4-340B-Instruct', 'Nemotron-4-340B-Instruct'],
      ['Nemotron-4-340B-Reward', 'Nemotron-4-340B-Reward'],
      ['Llama-3_3-Nemotron-Super-49B-v1-Q4_K_M.gguf', 'Super-49B and'],
      ['nvidia_Llama-3_3-Nemotron-Super-49B-v1-GGUF', 'Super-49B and'],
      ['Llama-3_3-Nemotron-Super-49B-v1.i1-IQ2_M', 'Super-49B and'],
      ['Llama-3_1-Nemotron-Ultra-253B-v1-UD-Q2_K_XL-00001-of-00005', 'Super-49B and'],
      ['RedHatAI/Llama-3_3-Nemotron-Super-49B-v1-quantized.w8a8', 'Super-49B and'],
      ['unsloth_Llama-3_3-Nemotron-Super-49B-v1_5-Q8_0', 'v1.5'],
      ['nvidia/Llama-3_3-Nemotron-Super-49B-v1_5-NVFP4', 'v1.5'],
      ['Llama-3_3-Nemotron-Super-49B-GenRM-Q4_0', 'GenRM'],
      ['nvidia.Llama-3.1-Nemotron-Nano-8B-v1.Q8_0', 'Nano (8B'],
      ['nvidia/Llama-3___1-Nemotron-70B-Reward-HF', '70B-Reward'],
      ['llama3.3-nemotron-super-49b-v1', 'Super-49B and'],
      ['LLAMA-3-3-NEMOTRON-SUPER-49B-V1.5', 'v1.5'],
      ['tiny_reward.f16', 'embedded reward'],
    ] as const)
      assert.match(findEntry([name])?.name ?? 'unknown', new RegExp(kind.replace('(', '\\(')), name)
    for (const name of [
      'my-tiny-reward-notes',
      'Llama-3_1-Nemotron-Ultra-253B-CPT-v1',
      'Llama-3_3-Nemotron-Super-49B-v1_5-Reward-Q8_0',
      'Llama-3_3-Nemotron-Super-49B-v1_6',
    ])
      assert.equal(findEntry([name]), undefined, name)
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
      readSettings({ model: [folder], kv_cache_memory: '32MiB' }, {}),
    )
    assert.ok(settings)
    const warnings: string[] = []
    const prepared = await prepareModel({
      settings,
      folder,
      utilization: 0.5,
      metrics: createMetrics(),
      hooks: { onProgress: () => {}, onPlan: () => {}, warn: (message) => warnings.push(message) },
    })
    await (await prepared.load()).engine.close()
    assert.ok(
      warnings.some((one) => /My-Reward-8B .*SERVED AS A CHAT MODEL/.test(one)),
      `${warnings}`,
    )
    const told = once(process, 'warning')
    const engine = await createEngine({ model: folder, kvCacheMemory: 1 << 24 })
    await engine.close()
    assert.match(String(await told), /My-Reward-8B .*SERVED AS A CHAT MODEL/)
  })
})
