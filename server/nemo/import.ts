// A NeMo folder to Hugging Face's form, shard by shard: one that is whole has its name, so that an import
// which was cut short goes on with the next.

import { createHash } from 'node:crypto'
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs'
import {
  copyFile,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  statfs,
  writeFile,
} from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { fileError } from '../failure.js'
import { lockOutput } from '../lock.js'
import { type NemoConfig, readModelConfig } from './model-config.js'
import { type Plan, planImport, type Source, type Tensor } from './plan.js'
import { bandsOf, createReading, type Reading } from './zarr.js'

type Shard = { readonly sources: readonly Source[]; readonly bytes: number }

/** Sources in their order, as many as fit. */
const shardsOf = (sources: readonly Source[], most: number): readonly Shard[] => {
  const shards: { sources: Source[]; bytes: number }[] = []
  for (const source of sources) {
    const bytes = source.tensors.reduce((sum, one) => sum + one.bytes, 0)
    const last = shards.at(-1)
    if (last === undefined || last.bytes + bytes > most) shards.push({ sources: [source], bytes })
    else {
      last.sources.push(source)
      last.bytes += bytes
    }
  }
  return shards
}

const shardName = (i: number, of: number): string =>
  `model-${String(i + 1).padStart(5, '0')}-of-${String(of).padStart(5, '0')}.safetensors`

/** The header of a shard, and where each tensor's bytes begin in the file. */
const layOut = ({ sources }: Shard) => {
  const entries: [string, unknown][] = [['__metadata__', { format: 'pt' }]]
  const starts = new Map<string, number>()
  let at = 0
  for (const { name, dtype, shape, bytes } of sources.flatMap(({ tensors }) => tensors)) {
    entries.push([name, { dtype, shape, data_offsets: [at, at + bytes] }])
    starts.set(name, at)
    at += bytes
  }
  const text = JSON.stringify(Object.fromEntries(entries))
  const json = Buffer.from(text.padEnd(Math.ceil(Buffer.byteLength(text) / 8) * 8))
  const header = Buffer.alloc(8 + json.length)
  header.writeBigUInt64LE(BigInt(json.length))
  json.copy(header, 8)
  return { header, startOf: (name: string) => header.length + (starts.get(name) ?? 0), size: at }
}

type Out = { readonly fd: number; readonly path: string }

const writeAll = (
  { fd, path }: Out,
  bytes: Buffer,
  from: number,
  size: number,
  position: number,
): void => {
  try {
    for (let done = 0; done < size; )
      done += writeSync(fd, bytes, from + done, size - done, position + done)
  } catch (error) {
    throw fileError(error, path, 'written')
  }
}

const writeSource = async (
  out: Out,
  { array, layer, moves, rowBytes }: Source,
  {
    startOf,
    reading,
    onBytes,
  }: {
    readonly startOf: (name: string) => number
    readonly reading: Reading
    readonly onBytes: (bytes: number) => void
  },
): Promise<void> => {
  for await (const { firstRow, rows, bytes } of bandsOf(array, layer, reading)) {
    for (const { from, rows: count, tensor, to } of moves) {
      const begin = Math.max(from, firstRow)
      const end = Math.min(from + count, firstRow + rows)
      if (begin >= end) continue
      writeAll(
        out,
        bytes,
        (begin - firstRow) * rowBytes,
        (end - begin) * rowBytes,
        startOf(tensor) + (to + begin - from) * rowBytes,
      )
    }
    onBytes(bytes.length)
  }
}

const NO_ROOM = new Set(['ENOSPC', 'EDQUOT'])

const writeShard = async (
  path: string,
  shard: Shard,
  reading: Reading,
  onBytes: (bytes: number) => void,
): Promise<void> => {
  const { header, startOf } = layOut(shard)
  const partial = `${path}.partial`
  const fd = openSync(partial, 'w')
  try {
    const out = { fd, path }
    writeAll(out, header, 0, header.length, 0)
    for (const source of shard.sources)
      await writeSource(out, source, { startOf, reading, onBytes })
    fsyncSync(fd)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || !NO_ROOM.has(code)) throw error
    throw new Error(`${partial}: the disk is full (${code}): make room and run the import again`, {
      cause: error,
    })
  } finally {
    closeSync(fd)
  }
  await rename(partial, path)
}

/** Of Aligner's reward models; five of them are trained. */
const NINE = [
  'quality',
  'toxicity',
  'humor',
  'creativity',
  'helpfulness',
  'correctness',
  'coherence',
  'complexity',
  'verbosity',
]

const configOf = (config: NemoConfig, { vocab, outputs, dtype }: Plan) => ({
  ...(outputs === NINE.length && {
    // models/registry.json knows by this name which outputs count, and for how much.
    _name_or_path: 'nvidia/Nemotron-4-340B-Reward',
    id2label: Object.fromEntries(NINE.map((name, i) => [i, name])),
    label2id: Object.fromEntries(NINE.map((name, i) => [name, i])),
  }),
  architectures: [
    outputs === undefined ? 'NemotronForCausalLM' : 'NemotronForSequenceClassification',
  ],
  model_type: 'nemotron',
  ...(outputs !== undefined &&
    outputs !== NINE.length && {
      id2label: Object.fromEntries(Array.from({ length: outputs }, (_, i) => [i, `LABEL_${i}`])),
    }),
  vocab_size: vocab,
  hidden_size: config.hidden_size,
  intermediate_size: config.ffn_hidden_size,
  num_hidden_layers: config.num_layers,
  num_attention_heads: config.num_attention_heads,
  num_key_value_heads: config.num_query_groups ?? config.num_attention_heads,
  head_dim: config.kv_channels ?? config.hidden_size / config.num_attention_heads,
  hidden_act: 'relu2',
  norm_eps: config.layernorm_epsilon,
  partial_rotary_factor: config.rotary_percentage,
  rope_theta: config.rotary_base,
  max_position_embeddings: config.max_position_embeddings,
  tie_word_embeddings: outputs === undefined && config.share_embeddings_and_output_weights,
  attention_bias: false,
  mlp_bias: false,
  // Nemotron-4's SentencePiece model has these.
  bos_token_id: 2,
  eos_token_id: 3,
  torch_dtype: { BF16: 'bfloat16', F16: 'float16', F32: 'float32' }[dtype],
})

/** The tokenizer's model, under the name that model_config.yaml has for it, or the only one. */
const findTokenizer = async (
  folder: string,
  named: string | null | undefined,
): Promise<string | undefined> => {
  const files = (await readdir(folder)).filter((name) => name.endsWith('.model'))
  const wanted = named
    ?.replace(/^nemo:/, '')
    .split('/')
    .at(-1)
  const found = files.find((name) => name === wanted) ?? (files.length === 1 ? files[0] : undefined)
  if (found === undefined && files.length > 1)
    throw new Error(
      `${folder}: tokenizer.model of model_config.yaml is ${JSON.stringify(wanted ?? null)}, and there are ${files.join(', ')}`,
    )
  return found === undefined ? undefined : join(folder, found)
}

const writeText = async (path: string, text: string): Promise<void> => {
  await writeFile(path, text).catch((error) => {
    throw fileError(error, path, 'written')
  })
}

/** A file that says which import an unfinished folder is of. */
const STATE = 'import-nemo.state'
/** In the folder: it may be a mount, beside which nothing can be written. */
const LOCK = 'import-nemo.lock'

const checkOut = async (out: string, print: string): Promise<void> => {
  const names = (await readdir(out)).filter((name) => !name.startsWith(LOCK))
  const state = await readFile(join(out, STATE), 'utf8').catch(() => undefined)
  if (state !== undefined && state !== print)
    throw new Error(`${out}: it holds an unfinished import of another folder`)
  if (state === undefined && names.length > 0)
    throw new Error(`${out}: it is not empty, and no unfinished import`)
  await writeText(join(out, STATE), print)
}

const gb = (bytes: number): string => `${(bytes / 1e9).toPrecision(3)} GB`

/** Before hours are spent: room for what is still to be written. An unfinished file is written anew. */
const checkSpace = async (out: string, left: number): Promise<void> => {
  const { bavail, bsize } = await statfs(out)
  const names = (await readdir(out)).filter((name) => name.includes('.partial'))
  const sizes = await Promise.all(
    names.map(async (name) => (await stat(join(out, name))).blocks * 512),
  )
  const free = bavail * bsize + sizes.reduce((sum, size) => sum + size, 0)
  if (free < left)
    throw new Error(
      `${out}: ${gb(left)} are still to be written, and its disk has ${gb(free)} free`,
    )
}

type ImportOptions = {
  readonly onProgress?: (label: string, done: number, total: number) => void
  readonly say?: (text: string) => void
  /** Bytes of a shard, at most, unless one matrix has more. */
  readonly shardBytes?: number
}

const weightMap = (shards: readonly Shard[]) =>
  Object.fromEntries(
    shards.flatMap(({ sources }, i) =>
      sources.flatMap(({ tensors }) =>
        tensors.map(({ name }): [string, string] => [name, shardName(i, shards.length)]),
      ),
    ),
  )

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

const prepare = async (folder: string, shardBytes: number) => {
  const config = await readModelConfig(join(folder, 'model_config.yaml'))
  const plan = await planImport(join(folder, 'model_weights'), config)
  const tokenizer = await findTokenizer(folder, config['tokenizer.model'])
  const shards = shardsOf(plan.sources, shardBytes)
  const map = weightMap(shards)
  const tensors: readonly Tensor[] = plan.sources.flatMap((source) => source.tensors)
  const print = createHash('sha256')
    .update(JSON.stringify([resolve(folder), config, map, tensors]))
    .digest('hex')
  return { config, plan, tokenizer, shards, map, print }
}

const write = async (
  out: string,
  { config, plan, tokenizer, shards, map, print }: Awaited<ReturnType<typeof prepare>>,
  onProgress: (done: number, total: number) => void,
): Promise<void> => {
  await checkOut(out, print)
  const total = shards.reduce((sum, one) => sum + one.bytes, 0)
  const paths = shards.map((_, i) => join(out, shardName(i, shards.length)))
  const isThere = await Promise.all(
    shards.map(async (shard, i) => {
      const { header, size } = layOut(shard)
      const found = await stat(paths[i] ?? '').catch(() => undefined)
      return found?.size === header.length + size
    }),
  )
  await checkSpace(
    out,
    shards.reduce((sum, { bytes }, i) => sum + (isThere[i] ? 0 : bytes), 0),
  )
  let done = 0
  const reading = createReading(join(out, 'chunk.partial'))
  for (const [i, shard] of shards.entries()) {
    const path = paths[i] ?? ''
    if (isThere[i]) done += shard.bytes
    else
      await writeShard(path, shard, reading, (bytes) => {
        done += bytes
        onProgress(done, total)
      })
  }
  await writeText(
    join(out, 'model.safetensors.index.json'),
    json({ metadata: { total_size: total }, weight_map: map }),
  )
  if (tokenizer !== undefined) await copyFile(tokenizer, join(out, 'tokenizer.model'))
  await writeText(join(out, 'generation_config.json'), json({ bos_token_id: 2, eos_token_id: 3 }))
  await writeText(join(out, 'config.json'), json(configOf(config, plan)))
  await rm(join(out, STATE))
}

/** Throws while another run imports into `out`: both would write the same files. */
export const importNemo = async (
  folder: string,
  out: string,
  { onProgress = () => {}, say = () => {}, shardBytes = 5e9 }: ImportOptions = {},
): Promise<void> => {
  const prepared = await prepare(folder, shardBytes)
  if (prepared.tokenizer === undefined)
    say(`${folder} has no *.model: put the tokenizer into ${out} before you serve it`)
  await mkdir(out, { recursive: true })
  const unlock = await lockOutput(out, join(out, LOCK))
  const label = `importing ${basename(resolve(folder))}`
  try {
    await write(out, prepared, (done, total) => onProgress(label, done, total))
  } finally {
    await unlock()
  }
}
