// npm run bench -- import: bytes a second and memory of `nemotron-server import-nemo`, from files that the page
// cache has, beside a plain copy of as many bytes. The command is a process of its own, as on a user's machine.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deflateSync } from 'node:zlib'
import { packagePath } from '../server/version.js'
import { count, readFlags, text, toggle, UsageError } from './flags.js'
import { machineLine } from './machine.js'
import { compare, digits, median, percent } from './stats.js'

const flags = {
  layers: count('of the model; each has 176 MB', 8),
  ways: count('of tensor parallelism that the folder was written with: chunks of a matrix', 8),
  zlib: toggle('compressed chunks'),
  rounds: count('of each measurement', 3),
  folder: text('DIR', 'where the files go, such as /dev/shm for what no disk slows down', tmpdir()),
}

const GOAL = { rate: 1e9, memory: 1e9 }
const SIZES = { hidden: 4096, ffn: 8192, heads: 32, groups: 8, headDim: 128, vocab: 32000 }

/** Bytes of BF16 values, none of which is a NaN; they compress about as badly as weights. */
const createFiller = () => {
  const bytes = Buffer.allocUnsafe(1 << 26)
  let state = 1
  for (let i = 0; i < bytes.length; i += 2) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes.writeUInt16LE(0x3c00 + (state >>> 23), i)
  }
  return (size: number) =>
    size <= bytes.length
      ? bytes.subarray(0, size)
      : Buffer.concat([bytes, Buffer.alloc(size - bytes.length, 1)])
}

type Folder = { readonly layers: number; readonly ways: number; readonly zlib: boolean }

/** Writes a folder in NVIDIA's layout; returns the bytes of its tensors. */
const writeNemo = (folder: string, { layers, ways, zlib }: Folder): number => {
  const { hidden, ffn, heads, groups, headDim, vocab } = SIZES
  const fill = createFiller()
  let total = 0
  /** `split`: the axis that the ways share. */
  const write = (name: string, shape: readonly number[], split?: number): void => {
    const path = join(folder, 'model_weights', name)
    mkdirSync(path, { recursive: true })
    const isStacked = name.includes('.layers.')
    const chunks = shape.map((size, i) =>
      isStacked && i === 0 ? 1 : i === split ? Math.ceil(size / ways) : size,
    )
    writeFileSync(
      join(path, '.zarray'),
      JSON.stringify({
        ...{ zarr_format: 2, shape, chunks, dtype: 'bfloat16', order: 'C', fill_value: null },
        ...{ compressor: zlib ? { id: 'zlib', level: 1 } : null, filters: null },
      }),
    )
    const raw = fill(chunks.reduce((all, one) => all * one, 2))
    const bytes = zlib ? deflateSync(raw, { level: 1 }) : raw
    for (let layer = 0; layer < (isStacked ? layers : 1); layer++)
      for (let way = 0; way < (split === undefined ? 1 : ways); way++) {
        const at = shape.map((_, i) => (isStacked && i === 0 ? layer : i === split ? way : 0))
        writeFileSync(join(path, at.join('.')), bytes)
      }
    total += shape.reduce((all, one) => all * one, 2)
  }
  const ofLayers = (name: string, shape: readonly number[], split?: number) =>
    write(`model.decoder.layers.${name}`, [layers, ...shape], split)
  write('model.embedding.word_embeddings.weight', [vocab, hidden], 0)
  write('model.output_layer.weight', [vocab, hidden], 0)
  ofLayers('self_attention.linear_qkv.weight', [(heads + 2 * groups) * headDim, hidden], 1)
  ofLayers('self_attention.linear_proj.weight', [hidden, heads * headDim], 2)
  ofLayers('mlp.linear_fc1.weight', [ffn, hidden], 1)
  ofLayers('mlp.linear_fc2.weight', [hidden, ffn], 2)
  for (const kind of ['weight', 'bias']) {
    ofLayers(`self_attention.linear_qkv.layer_norm_${kind}`, [hidden])
    ofLayers(`mlp.linear_fc1.layer_norm_${kind}`, [hidden])
    write(`model.decoder.final_layernorm.${kind}`, [hidden])
  }
  writeFileSync(
    join(folder, 'model_config.yaml'),
    `num_layers: ${layers}
hidden_size: ${hidden}
ffn_hidden_size: ${ffn}
num_attention_heads: ${heads}
num_query_groups: ${groups}
kv_channels: ${headDim}
max_position_embeddings: 4096
normalization: layernorm1p
activation: squared-relu
position_embedding_type: rope
rotary_percentage: 0.5
`,
  )
  return total
}

/** The most memory that a process had, in bytes, and the seconds that it had a processor; undefined once it is
 * gone. */
const usageOf = (pid: number | undefined) => {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const memory = /VmHWM:\s+(\d+)/.exec(status)?.[1]
    const times = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ')
    // In hundredths, on every Linux.
    const cpu = (Number(times[11]) + Number(times[12])) / 100
    return memory === undefined ? undefined : { memory: 1024 * Number(memory), cpu }
  } catch {
    return undefined
  }
}

/** Seconds by the clock, and what the process used. */
const runImport = async (from: string, to: string) => {
  const begun = performance.now()
  const command = [packagePath('dist/server/cli.js'), 'import-nemo', from, to]
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  let usage = { memory: 0, cpu: 0 }
  child.stderr.on('data', (data) => {
    said += data
  })
  const watch = setInterval(() => {
    usage = usageOf(child.pid) ?? usage
  }, 20)
  const [code] = await once(child, 'close')
  clearInterval(watch)
  if (code !== 0) throw new UsageError(`import-nemo failed: ${said.trim()}`)
  return { seconds: (performance.now() - begun) / 1000, ...usage }
}

/** Seconds of reading the shards that an import made and writing them again, down to the disk. */
const copy = (from: string, to: string): number => {
  const index = JSON.parse(readFileSync(join(from, 'model.safetensors.index.json'), 'utf8'))
  const begun = performance.now()
  const memory = Buffer.allocUnsafeSlow(8 << 20)
  for (const name of new Set(Object.values<string>(index.weight_map))) {
    const [input, output] = [openSync(join(from, name), 'r'), openSync(join(to, name), 'w')]
    for (let read = 1; read > 0; ) {
      read = readSync(input, memory, 0, memory.length, null)
      writeSync(output, memory, 0, read)
    }
    fsyncSync(output)
    closeSync(input)
    closeSync(output)
  }
  return (performance.now() - begun) / 1000
}

export const run = async (args: readonly string[]): Promise<void> => {
  const values = readFlags('import', 'a NeMo folder through import-nemo', flags, args)
  if (!values) return
  const { layers, ways, zlib, rounds } = values
  const folder = mkdtempSync(join(values.folder, 'nemotron-bench-'))
  const [from, to, copied] = ['nemo', 'out', 'copy'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ]
  try {
    const bytes = writeNemo(from, { layers, ways, zlib })
    const [ours, plain, byCpu]: [number[], number[], number[]] = [[], [], []]
    let memory = 0
    for (let round = 0; round <= rounds; round++) {
      rmSync(to, { recursive: true, force: true })
      rmSync(copied, { recursive: true, force: true })
      const one = await runImport(from, to)
      mkdirSync(copied)
      const seconds = copy(to, copied)
      memory = Math.max(memory, one.memory)
      if (round === 0) continue // the page cache gets its files
      ours.push(bytes / one.seconds)
      byCpu.push(bytes / one.cpu)
      plain.push(bytes / seconds)
    }
    const share = compare(ours, plain)
    const rate = median(ours)
    const met = (is: boolean) => (is ? 'met' : 'missed')
    console.log(`${machineLine()}\n${values.folder}`)
    console.log(
      `${digits(bytes / 1e9)} GB in ${ways} ways${zlib ? ', zlib' : ''}: ${digits(rate / 1e9)} GB/s ` +
        `(goal >= 1, ${met(rate >= GOAL.rate)}), ${digits(median(byCpu) / 1e9)} GB a second of one processor, a copy ${digits(median(plain) / 1e9)} GB/s, share ` +
        `${percent(share.ratio)} (${share.range.map(percent).join(' to ')}); ${digits(memory / 1e6)} MB of ` +
        `memory (goal < 1000, ${met(memory < GOAL.memory)})`,
    )
  } finally {
    rmSync(folder, { recursive: true })
  }
}
