// npm run bench -- gpu --counts: what the products of generated rows cost on an H200, counted: from the
// compiled kernels (cubins of nvcc) and from how the backend launches them (gpu_bench --launches). The
// times are what the counts allow at the rates below. Nothing is measured.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { UsageError } from './flags.js'

// --- the machine: an H200 ---

const multiprocessors = 132
const sharedBytes = 228 << 10 // of a multiprocessor; a block takes 1 KiB more than it asks for
const registers = 65_536
const wavefrontBytes = 128

/** What is assumed, until bench/gpu.sh has measured it: bytes/s, FLOP/s, Hz, seconds. */
const assumed = {
  memory: 4.3e12,
  l2: 5.7e12,
  clock: 1.7e9,
  mma: 330e12,
  wgmma: 650e12,
  tensorLimit: 790e12,
  latency: 0.8e-6,
  boundary: 1.2e-6,
  /** From asking L2 for a few bytes to having them. */
  l2Latency: 0.4e-6,
  /** Of the decode attention: to fill and drain the GPU; what multiplying, merging and the arrival of blocks take after a unit's last keys; the share of memory's rate that many units reach. */
  attentionStart: 2e-6,
  attentionRest: 2.6e-6,
  attentionShare: 0.88,
  sampler: 40e-6,
  stepGap: 5e-6,
  /** Of a sum over 8 ranks of 32 KB, by the table of "Sums over ranks". */
  rankSum: 4.5e-6,
}

// --- cubins ---

/** What a kernel's main loop holds: the smallest loop with products of the tensor cores. */
export type CompiledKernel = {
  readonly name: string
  readonly registers: number
  readonly instructions: number
  /** mma.sync's of a warp: 16 weight rows, 8 tokens, 16 columns. */
  readonly products: number
  /** wgmma's of a warpgroup: 64 weight rows, all tokens of the block, 16 columns. */
  readonly groupProducts: number
  /** Of shared memory, by bytes a lane, and copies of sixteen bytes into it. */
  readonly loads: Readonly<Record<4 | 8 | 16, number>>
  readonly copies: number
  /** Of the loop's instructions those that make weights of scores, exponentials among them, and those of masks. */
  readonly exponentials: number
  readonly weighing: number
  readonly masking: number
}

const hmma = 0x23c
const hgmma = 0xdf0
const lds = 0x984
const ldsm = 0x83b
const ldgsts = 0xfae
const bra = 0x947
/** Whatever their operands are: MUFU; FMNMX, FADD, FFMA; ISETP, FSEL, VIADD. */
const families = {
  exponential: 0x108,
  weighing: [0x009, 0x021, 0x023],
  masking: [0x00c, 0x008, 0x036],
}

type Instruction = { readonly opcode: number; readonly low: bigint; readonly high: bigint }

const instructionsOf = (code: Buffer): readonly Instruction[] =>
  Array.from({ length: Math.floor(code.length / 16) }, (_, i) => {
    const low = code.readBigUInt64LE(i * 16)
    return { opcode: Number(low & 0xfffn), low, high: code.readBigUInt64LE(i * 16 + 8) }
  })

/** Where a branch leads, in instructions from the one after it. */
const branchOffset = ({ low, high }: Instruction): number => {
  const upper = BigInt.asIntN(48, (low >> 34n) | ((high & 0x3ffffn) << 30n))
  return Number(((upper << 8n) | ((low >> 16n) & 0xffn)) * 4n) / 16
}

/** nvcc puts loads that never run, @!PT LDS, before it commits a group of copies: a scheduler's time alone. */
const runs = ({ low }: Instruction): boolean => ((low >> 12n) & 0xfn) !== 0xfn

const count = (code: readonly Instruction[], opcode: number): number =>
  code.filter((instruction) => instruction.opcode === opcode && runs(instruction)).length

const countFamilies = (code: readonly Instruction[], wanted: readonly number[]): number =>
  code.filter(({ opcode }) => wanted.includes(opcode & 0x1ff)).length

const mainLoop = (code: readonly Instruction[]): readonly Instruction[] => {
  const loops = code.flatMap((instruction, at) => {
    if (instruction.opcode !== bra) return []
    const to = at + 1 + branchOffset(instruction)
    return to < at ? [code.slice(to, at + 1)] : []
  })
  const innermost = loops
    .filter((loop) => count(loop, hmma) + count(loop, hgmma) > 0)
    .sort((a, b) => a.length - b.length)[0]
  return innermost ?? []
}

const loopLoads = (loop: readonly Instruction[], code: number): number =>
  loop.filter(
    (instruction) =>
      instruction.opcode === lds &&
      runs(instruction) &&
      Number((instruction.high >> 9n) & 7n) === code,
  ).length

/** The kernels of an ELF file that nvcc -cubin made. */
const readCubin = (file: Buffer): readonly CompiledKernel[] => {
  const tableAt = Number(file.readBigUInt64LE(0x28))
  const entryBytes = file.readUInt16LE(0x3a)
  const sections = Array.from({ length: file.readUInt16LE(0x3c) }, (_, i) => {
    const at = tableAt + i * entryBytes
    const offset = Number(file.readBigUInt64LE(at + 24))
    const size = Number(file.readBigUInt64LE(at + 32))
    return { name: file.readUInt32LE(at), type: file.readUInt32LE(at + 4), offset, size }
  })
  const stringAt = (at: number): string => file.toString('latin1', at, file.indexOf(0, at))
  const namesAt = sections[file.readUInt16LE(0x3e)]?.offset ?? 0
  const named = sections.map((section) => ({ ...section, name: stringAt(namesAt + section.name) }))
  const find = (name: string) => {
    const section = named.find((one) => one.name === name)
    if (section === undefined) throw new Error(`a cubin without ${name}`)
    return section
  }
  const symbols = find('.symtab')
  const strings = find('.strtab')
  const symbolName = (index: number): string =>
    stringAt(strings.offset + file.readUInt32LE(symbols.offset + index * 24))
  // .nv.info: (format, attribute, size) and, for attribute 0x2f, (symbol, registers).
  const info = find('.nv.info')
  const used = new Map<string, number>()
  for (let at = info.offset; at < info.offset + info.size; ) {
    const format = file.readUInt8(at)
    const size = format === 4 ? file.readUInt16LE(at + 2) : 0
    if (format === 4 && file.readUInt8(at + 1) === 0x2f)
      used.set(symbolName(file.readUInt32LE(at + 4)), file.readUInt32LE(at + 8))
    at += 4 + size
  }
  return named
    .filter(({ name }) => name.startsWith('.text.'))
    .map(({ name, offset, size }) => {
      const kernel = name.slice('.text.'.length)
      const loop = mainLoop(instructionsOf(file.subarray(offset, offset + size)))
      return {
        name: kernel,
        registers: used.get(kernel) ?? 0,
        instructions: loop.length,
        products: count(loop, hmma),
        groupProducts: count(loop, hgmma),
        loads: {
          4: loopLoads(loop, 4),
          8: loopLoads(loop, 5),
          16: loopLoads(loop, 6) + count(loop, ldsm),
        },
        copies: count(loop, ldgsts),
        exponentials: countFamilies(loop, [families.exponential]),
        weighing: countFamilies(loop, [families.exponential, ...families.weighing]),
        masking: countFamilies(loop, families.masking),
      }
    })
}

export const findNvcc = (): string | undefined => {
  const paths = (process.env.PATH ?? '').split(':').map((folder) => join(folder, 'nvcc'))
  const all = [process.env.NVCC, process.env.CUDACXX, ...paths, '/usr/local/cuda/bin/nvcc']
  return all.find((path) => path !== undefined && path !== '' && existsSync(path))
}

export const nvccRelease = (nvcc: string): string =>
  /release ([\d.]+)/.exec(spawnSync(nvcc, ['--version'], { encoding: 'utf8' }).stdout)?.[1] ?? ''

/** The kernels of cuda/NAME.cu, compiled for sm_90a as the build does. */
const compile = (root: string, nvcc: string, names: readonly string[]): CompiledKernel[] => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
  const lists = readFileSync(join(root, 'cuda/CMakeLists.txt'), 'utf8')
  try {
    return names.flatMap((name) => {
      const own = new RegExp(
        `^set_source_files_properties\\(${name}\\.cu .*COMPILE_LANGUAGE:CUDA>:([^>]*)>`,
        'm',
      ).exec(lists)?.[1]
      const out = join(folder, `${name}.cubin`)
      const options = ['-std=c++20', '-O3', '-I.', '-Iaddon', '-arch=sm_90a', '-cubin']
      const args = [...options, ...(own?.split(' ') ?? []), `cuda/${name}.cu`, '-o', out]
      const { status, stderr } = spawnSync(nvcc, args, { cwd: root, encoding: 'utf8' })
      if (status !== 0) throw new Error(`nvcc cuda/${name}.cu: ${stderr}`)
      return readCubin(readFileSync(out))
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

// --- launches ---

/** A line of gpu_bench --launches. */
export type Launch = {
  readonly model: string
  readonly fp8: boolean
  readonly wgmma: boolean
  /** Rows of the step; more than are generated where a prompt has some. */
  readonly batch: number
  readonly generated: number
  readonly product: string
  readonly rows: number
  readonly cols: number
  readonly weightBytes: number
  readonly kernel: string
  readonly blockRows: number
  readonly blockTokens: number
  readonly warps: number
  readonly stageColumns: number
  readonly stages: number
  readonly shared: number
  /** Each block takes one tile or several. */
  readonly tiles: number
  readonly blocks: number
  /** Blocks that share what each of them brings of the activations, by multicast. */
  readonly cluster: number
  /** Bytes of each weight row that L2 is asked for while attention runs. */
  readonly early: number
}

/** A line about the decode attention, of `batch` rows with `context` keys each. */
type AttentionLaunch = {
  readonly model: string
  readonly fp8: boolean
  readonly batch: number
  readonly context: number
  /** Blocks that share an item of 512 keys; units of work. */
  readonly parts: number
  readonly units: number
  /** Of sixteen keys, that a warp takes one after another; and how many it asks for at once. */
  readonly tiles: number
  readonly askedFor: number
  readonly shared: number
}

type Launches = {
  readonly products: readonly Launch[]
  readonly attention: readonly AttentionLaunch[]
}

const readLaunches = (program: string): Launches => {
  if (!existsSync(program))
    throw new UsageError(`--launches ${program} is not there: expected a built gpu_bench`)
  const { status, stdout, stderr } = spawnSync(program, ['--launches'], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} --launches: ${stdout}${stderr}`)
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Launch | AttentionLaunch)
  return {
    products: lines.filter((line): line is Launch => 'product' in line),
    attention: lines.filter((line): line is AttentionLaunch => 'context' in line),
  }
}

// --- counts ---

type Counts = {
  readonly launch: Launch
  readonly registers: number
  /** That a multiprocessor holds at once, by shared memory, registers and threads. */
  readonly blocksFit: number
  /** That are there at once of this grid. */
  readonly resident: number
  /** Bytes of weights that a block asks for before it waits for the kernel before it. */
  readonly asked: number
  /** Bytes: of weights in flight while others are used, a multiprocessor; left in shared memory. */
  readonly inFlight: number
  readonly free: number
  /** Of shared memory, for a KiB of weights. */
  readonly wavefronts: number
  readonly memoryBytes: number
  readonly l2Bytes: number
  /** Of the squares of a split norm and of results, which no other number here holds. */
  readonly leftOut: number
  readonly seconds: number
  readonly bound: string
}

const stageWeights = (launch: Launch): number =>
  launch.blockRows * launch.stageColumns * launch.weightBytes

/** Weights of a block in flight: of its stages one is being used. */
const inFlightWeights = (launch: Launch): number => (launch.stages - 1) * stageWeights(launch)

/** And those that it asks for at first: with the copy engine for all stages, else for all but the one after them. */
const askedWeights = (launch: Launch): number =>
  (launch.wgmma ? launch.stages : launch.stages - 1) * stageWeights(launch)

/**
 * Bytes of a product's results, and of what they are added to or made into, for each weight row and row: an
 * x that is read and written, x * gain, its squares; half a value of BF16; a logit; a query or key.
 */
const resultBytes: Readonly<Record<string, number>> = {
  o: 10 + 4 / 16,
  down: 10 + 4 / 16,
  gate_up: 1,
  head: 4,
  qkv: 2,
}

const leftOutOf = (launch: Launch, passes: number): number => {
  const results = resultBytes[launch.product]
  if (results === undefined) throw new Error(`no results of ${launch.product}`)
  // Each block reads the squares of its tokens once, four bytes for sixteen columns.
  const isScaled = launch.product === 'qkv' || launch.product === 'gate_up'
  const squares = isScaled ? ((launch.blocks / passes) * launch.batch * launch.cols * 4) / 16 : 0
  return squares + launch.rows * launch.batch * results
}

/** What a turn of the main loop costs a block: KiB of weights, wavefronts of shared memory, instructions of a scheduler. */
type Turn = { readonly weights: number; readonly wavefronts: number; readonly cycles: number }

const turnOf = (launch: Launch, kernel: CompiledKernel): Turn => {
  // Sixteen bytes a lane are four wavefronts where they do not meet in a bank: lanes' places are made so.
  const ofWarp = 4 * (kernel.loads[16] + kernel.copies) + 2 * kernel.loads[8] + kernel.loads[4]
  if (launch.wgmma) {
    const multiplying = launch.blockRows / 16
    const columns = kernel.groupProducts * 16
    const weights = launch.blockRows * columns * launch.weightBytes
    const activations = launch.blockTokens * columns * 2
    // The copy engine writes both; each warpgroup's products read the activations.
    const written = (weights + activations) / wavefrontBytes
    const read = (launch.blockRows / 64) * (activations / wavefrontBytes)
    return {
      weights: weights / 1024,
      wavefronts: multiplying * ofWarp + written + read,
      cycles: (multiplying / 4) * kernel.instructions,
    }
  }
  // So many products of a warp take a block's weights once.
  const perTokens = launch.blockTokens / 8
  return {
    weights: ((kernel.products * launch.warps * 16 * 16) / perTokens / 1024) * launch.weightBytes,
    wavefronts: launch.warps * ofWarp,
    cycles: (launch.warps / 4) * kernel.instructions,
  }
}

export const countOf = (launch: Launch, kernels: readonly CompiledKernel[]): Counts => {
  const kernel = kernels.find(({ name }) => name.includes(launch.kernel))
  if (kernel === undefined) throw new Error(`no compiled kernel has ${launch.kernel} in its name`)
  const blockBytes = launch.shared + 1024
  const warpRegisters = Math.ceil((kernel.registers * 32) / 256) * 256
  const blocksFit = Math.min(
    Math.floor(sharedBytes / blockBytes),
    Math.floor(registers / (warpRegisters * launch.warps)),
    Math.floor(64 / launch.warps),
  )
  const resident = Math.min(blocksFit, Math.ceil(launch.blocks / multiprocessors))
  const passes = Math.ceil(launch.batch / launch.blockTokens)
  const weights = launch.rows * launch.cols * launch.weightBytes
  // A cluster reads its activations from L2 once; each of its blocks receives all of them.
  const places = Math.ceil(launch.rows / launch.blockRows)
  const activations = launch.batch * launch.cols * 2
  const l2Bytes = weights * passes + Math.ceil(places / launch.cluster) * activations
  const received = weights * passes + places * activations
  const turn = turnOf(launch, kernel)
  const wavefronts = turn.wavefronts / turn.weights
  const used = Math.min(multiprocessors, launch.blocks)
  const slots = Math.min(launch.blocks, blocksFit * multiprocessors)
  const inFlight = resident * inFlightWeights(launch)
  // Whole turns of all blocks, and what is left for some of them at the end.
  const last = launch.tiles % slots
  const reading = (blocks: number): number =>
    Math.min(assumed.memory, (blocks * inFlightWeights(launch)) / assumed.latency)
  const tileBytes = weights / launch.tiles
  const memorySeconds =
    ((launch.tiles - last) * tileBytes) / reading(slots) +
    (last > 0 ? (last * tileBytes) / reading(last) : 0)
  const tile = 2 * launch.blockRows * launch.blockTokens * launch.cols
  const bounds: readonly (readonly [string, number])[] = [
    ['memory', memorySeconds],
    ['L2', Math.max(l2Bytes / assumed.l2, received / (used * 64 * assumed.clock))],
    ['shared memory', ((weights * passes) / 1024) * (wavefronts / (used * assumed.clock))],
    [
      'instructions',
      ((weights * passes) / 1024) * (turn.cycles / turn.weights / (used * assumed.clock)),
    ],
    [
      'tensor cores',
      (Math.ceil(launch.tiles / used) * tile) /
        ((launch.wgmma ? assumed.wgmma : assumed.mma) / multiprocessors),
    ],
  ]
  const [bound, seconds] = bounds.reduce((a, b) => (b[1] > a[1] ? b : a))
  return {
    launch,
    registers: kernel.registers,
    blocksFit,
    resident,
    asked: askedWeights(launch),
    inFlight,
    free: sharedBytes - resident * blockBytes,
    wavefronts,
    memoryBytes: weights,
    l2Bytes,
    leftOut: leftOutOf(launch, passes),
    seconds,
    bound,
  }
}

// --- whole steps ---

type ModelShape = {
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** Of a group of ranks: turns of a step beside two sums a layer (embedding, logits, ids). */
  readonly turns?: number
}
const models: Readonly<Record<string, ModelShape>> = {
  '8B': { layers: 32, heads: 32, kvHeads: 8, headDim: 128 },
  '70B': { layers: 80, heads: 64, kvHeads: 8, headDim: 128 },
  '70B, a rank of 8': { layers: 80, heads: 8, kvHeads: 1, headDim: 128, turns: 3 },
}
const context = 1024

/** Bytes of keys and values that a layer reads. */
const cacheBytes = ({ model, fp8, batch, context: keys }: AttentionLaunch): number => {
  const shape = models[model]
  if (shape === undefined) throw new Error(`no shape of ${model}`)
  return batch * keys * 2 * shape.kvHeads * shape.headDim * (fp8 ? 1 : 2)
}

/**
 * Seconds of a layer's decode attention. `early`: its blocks are there before the kernel before it has
 * ended, and have read the metadata and asked for the first keys; then they wait for the query and the
 * newest key, which are in L2.
 */
const attentionOf = (launch: AttentionLaunch, early: boolean): number => {
  const turns = Math.ceil(launch.tiles / launch.askedFor)
  const first = early ? assumed.l2Latency : 3 * assumed.l2Latency + assumed.latency
  const merging = launch.parts > 1 ? assumed.l2Latency : 0
  const one = first + (turns - 1) * assumed.latency + assumed.attentionRest + merging
  const all = cacheBytes(launch) / (assumed.attentionShare * assumed.memory)
  return Math.max(one, all) + assumed.attentionStart
}

type Attention = (launch: Pick<Launch, 'model' | 'fp8' | 'generated'>) => AttentionLaunch

const attentionIn =
  (all: readonly AttentionLaunch[]): Attention =>
  ({ model, fp8, generated }) => {
    const found = all.find(
      (l) => l.model === model && l.fp8 === fp8 && l.batch === generated && l.context === context,
    )
    if (found === undefined) throw new Error(`no attention of ${generated} rows of ${model}`)
    return found
  }

type Step = {
  readonly name: string
  readonly batch: number
  readonly launches: number
  readonly memoryBytes: number
  readonly l2Bytes: number
  readonly sharedBytes: number
  readonly seconds: number
  readonly limit: number
  readonly bounds: string
}

/**
 * Seconds of memory's time that a product asks for before it waits: what the queues of its blocks hold that
 * fit beside the kernel before, which leaves `free` bytes of each multiprocessor.
 */
const askedEarly = (free: number, after: Counts): number => {
  const room = Math.floor(free / (after.launch.shared + 1024))
  const blocks = Math.min(room * multiprocessors, after.launch.blocks)
  return (blocks * after.asked) / assumed.memory
}

const stepOf = (products: readonly Counts[], attentionFor: Attention): Step => {
  const one = (name: string): Counts => {
    const found = products.find(({ launch }) => launch.product === name)
    if (found === undefined) throw new Error(`no launch of ${name}`)
    return found
  }
  const [qkv, o, gateUp, down, head] = ['qkv', 'o', 'gate_up', 'down', 'head'].map(one) as [
    Counts,
    Counts,
    Counts,
    Counts,
    Counts,
  ]
  const { model, fp8, wgmma, batch } = qkv.launch
  const shape = models[model]
  if (shape === undefined) throw new Error(`no shape of ${model}`)
  const attending = attentionFor(qkv.launch)
  const kv = cacheBytes(attending)
  const attention = attentionOf(attending, qkv.free >= attending.shared + 1024)
  const pause = (before: Counts, after: Counts): number =>
    Math.max(0, assumed.boundary - askedEarly(before.free, after))
  // Two blocks of attention on a multiprocessor; those that have nothing to do are gone at once.
  const there = Math.min(2, Math.ceil(attending.units / multiprocessors))
  const besideAttention = sharedBytes - there * (attending.shared + 1024)
  // Attention leaves memory idle for all but the time of its keys and values.
  const idle = assumed.boundary + attention - kv / assumed.memory
  const early = (o.launch.early * o.launch.rows) / assumed.memory
  const hidden = Math.min(idle, askedEarly(besideAttention, o) + early)
  const pauses =
    pause(down, qkv) + 2 * assumed.boundary - hidden + pause(o, gateUp) + pause(gateUp, down)
  const layer = [qkv, o, gateUp, down]
  const sum = (value: (c: Counts) => number): number =>
    shape.layers * layer.reduce((total, c) => total + value(c), 0) + value(head)
  const turns = shape.turns === undefined ? 0 : 2 * shape.layers + shape.turns
  const seconds =
    sum((c) => c.seconds) +
    turns * assumed.rankSum +
    shape.layers * (attention + pauses) +
    6 * assumed.boundary +
    assumed.sampler +
    assumed.stepGap
  const weights = sum((c) => c.memoryBytes)
  const flops = sum((c) => 2 * c.launch.rows * c.launch.cols * batch)
  const memoryBytes = weights + shape.layers * kv
  const limit =
    Math.max(weights / assumed.memory, flops / assumed.tensorLimit) +
    (shape.layers * kv) / assumed.memory
  const shared = (c: Counts): number =>
    (c.memoryBytes / 1024) * Math.ceil(batch / c.launch.blockTokens) * c.wavefronts * wavefrontBytes
  return {
    name: `${model} ${fp8 ? 'FP8, cache FP8' : 'BF16'}${wgmma ? ', wgmma' : ''}`,
    batch,
    launches: shape.layers * 5 + 6 + turns,
    memoryBytes,
    l2Bytes: sum((c) => c.l2Bytes) + shape.layers * kv,
    sharedBytes: sum(shared),
    seconds,
    limit,
    bounds: [...layer, head].map((c) => `${c.launch.product} ${c.bound}`).join(', '),
  }
}

// --- steps with prompt rows ---

/** What one kind of such a step takes: launches, seconds. */
type Mixed = { readonly launches: number; readonly seconds: number }

/**
 * Of `products`, those of all rows, and `ofGenerated`, those of the generated rows alone by mma.sync: both
 * ways to take the step. cuBLASLt is counted without what tiles lose that do not fill the GPU.
 */
const mixedOf = (
  products: readonly Counts[],
  ofGenerated: readonly Counts[],
  attentionFor: Attention,
): { readonly byKind: Mixed; readonly allRows: Mixed } => {
  const { model, fp8, batch, generated } = (products[0] as Counts).launch
  const shape = models[model]
  if (shape === undefined) throw new Error(`no shape of ${model}`)
  const isLayers = ({ launch }: Counts): boolean => launch.product !== 'head'
  const prompt = batch - generated
  const total = (counts: readonly Counts[], value: (c: Counts) => number): number =>
    counts.filter(isLayers).reduce((sum, c) => sum + value(c), 0)
  const attention =
    attentionOf(attentionFor({ model, fp8, generated }), false) +
    assumed.attentionStart +
    (2 * shape.heads * shape.headDim * prompt * prompt) / assumed.mma
  const head = ofGenerated.find((c) => !isLayers(c))?.seconds ?? 0
  const step = (launches: number, layer: number): Mixed => ({
    launches: shape.layers * launches + 6,
    seconds:
      shape.layers * (layer + attention + launches * assumed.boundary) +
      head +
      6 * assumed.boundary +
      assumed.sampler +
      assumed.stepGap,
  })
  const library = total(products, ({ launch: { rows, cols } }) =>
    Math.max((2 * rows * cols) / assumed.memory, (2 * rows * cols * prompt) / assumed.wgmma),
  )
  const widen = fp8
    ? total(products, ({ launch }) => (3 * launch.rows * launch.cols) / assumed.memory)
    : 0
  // Of a product's result and what is made of it: read and written; of a sum that has scales, three times four bytes.
  const between = total(products, ({ launch: { product, rows } }) => {
    const isAdded = product === 'o' || product === 'down'
    return (prompt * rows * (isAdded ? (fp8 ? 12 : 0) + 6 : 4)) / assumed.memory
  })
  return {
    byKind: step(fp8 ? 20 : 14, total(ofGenerated, (c) => c.seconds) + library + widen + between),
    allRows: step(
      6,
      total(products, (c) => c.seconds),
    ),
  }
}

/** By what tells steps apart. */
const grouped = (counts: readonly Counts[], key: (launch: Launch) => string) => {
  const groups = new Map<string, Counts[]>()
  for (const c of counts) groups.set(key(c.launch), [...(groups.get(key(c.launch)) ?? []), c])
  return groups
}

type StepKey = Pick<Launch, 'wgmma' | 'model' | 'fp8' | 'batch' | 'generated'>
const stepKey = ({ wgmma, model, fp8, batch, generated }: StepKey): string =>
  `${wgmma} ${model} ${fp8} ${batch} ${generated}`

const mixedRows = (
  mixed: readonly Counts[],
  generated: readonly Counts[],
  attentionFor: Attention,
): readonly string[] => {
  const ofGenerated = grouped(generated, stepKey)
  const ofAll = grouped(mixed, stepKey)
  const ms = ({ seconds }: Mixed): string => (seconds * 1e3).toFixed(2)
  return [...ofAll.values()].flatMap((products) => {
    const { launch } = products[0] as Counts
    // Ranks also tell each other sums of all rows, which is not counted here.
    if (launch.wgmma || models[launch.model]?.turns !== undefined) return []
    const alone = ofGenerated.get(stepKey({ ...launch, batch: launch.generated })) ?? []
    const { byKind, allRows } = mixedOf(products, alone, attentionFor)
    const byWgmma = mixedOf(
      ofAll.get(stepKey({ ...launch, wgmma: true })) ?? [],
      alone,
      attentionFor,
    ).allRows
    return [
      `| ${launch.model} ${launch.fp8 ? 'FP8, cache FP8' : 'BF16'} | ${launch.batch - launch.generated} | ` +
        `${byKind.launches} | ${ms(byKind)} | ${microseconds(byKind.seconds / byKind.launches)} | ${allRows.launches} | ${ms(allRows)} | ${ms(byWgmma)} |`,
    ]
  })
}

// --- attention of prompt rows by wgmma ---

/** Cycles of a tile of 128 keys and 64 pairs for the tensor core and the scheduler of one of a warpgroup's warps. */
type PromptTile = {
  readonly scores: number
  readonly sums: number
  readonly exponentials: number
  readonly instructions: number
  /** Of a tile of both warpgroups: where these are always at the same thing, and by turns. */
  readonly inStep: number
  readonly byTurns: number
}

/** A scheduler begins an exponential of a warp every eight cycles. */
const exponentialCycles = 8

/** Of a tile that all rows see: masks are for the last ones. */
export const promptTileOf = (kernel: CompiledKernel, headDim: number): PromptTile => {
  if (kernel.groupProducts !== headDim / 16 + 8)
    throw new Error(`${kernel.name} has ${kernel.groupProducts} products a tile`)
  // 64 x 128 x 16 takes a tensor core 64 cycles: keys 128 columns, values headDim.
  const scores = (headDim / 16) * 64
  const sums = 8 * (headDim / 2)
  const exponentials = exponentialCycles * kernel.exponentials
  const instructions = kernel.instructions - kernel.masking
  // Weights are made while values are multiplied; what comes after both, while nothing is.
  const weights = Math.max(exponentials, kernel.weighing)
  const rest = instructions - kernel.weighing
  return {
    scores,
    sums,
    exponentials,
    instructions,
    inStep: 2 * (scores + Math.max(sums, weights) + rest),
    byTurns: Math.max(
      2 * (scores + sums),
      2 * exponentials,
      2 * instructions,
      scores + Math.max(sums, weights) + rest,
    ),
  }
}

const promptRows = (kernels: readonly CompiledKernel[]): readonly string[] =>
  [false, true].flatMap((fp8) =>
    [64, 128].map((headDim) => {
      const name = `attention_prompt_wgmma_kernelILi${headDim}ELb${Number(fp8)}E`
      const kernel = kernels.find((one) => one.name.includes(name))
      if (kernel === undefined) throw new Error(`no compiled kernel has ${name} in its name`)
      const tile = promptTileOf(kernel, headDim)
      const share = (cycles: number): string =>
        `${((200 * (tile.scores + tile.sums)) / cycles).toFixed(0)} %`
      return (
        `| ${fp8 ? 'FP8' : 'BF16'} | ${headDim} | ${tile.scores} | ${tile.sums} | ${tile.exponentials} | ${tile.instructions} | ` +
        `${tile.inStep} | ${share(tile.inStep)} | ${tile.byTurns} | ${share(tile.byTurns)} |`
      )
    }),
  )

const promptPage = (kernels: readonly CompiledKernel[]): readonly string[] => [
  'A tile of 128 keys in `attention_prompt_wgmma`, cycles of a tensor core and of its scheduler: of one warpgroup the products for scores',
  'and for sums of values, exponentials (eight cycles each) and all instructions (but for masks and what widening FP8 takes); of both',
  'warpgroups where they are always at the same thing, and by turns, with the share of the time that the tensor core multiplies.',
  '',
  '| cache | columns | scores | sums | exponentials | instructions | in step | multiplying | by turns | multiplying |',
  '|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|',
  ...promptRows(kernels),
  '',
]

// --- a draft model ---

/** Guesses of the draft model before each step of the large one, whose rows are then one more. */
const guesses = [3, 7]
const acceptances = [0.5, 0.7, 0.8, 0.9]

/**
 * How many times as fast one sequence of 70B is with 8B guessing, where each guess is right with the same
 * chance. Steps of up to 8 rows take the kernels of 8, and are counted as such.
 */
const draftRows = (counts: readonly Counts[], attentionFor: Attention): readonly string[] => {
  const steps = grouped(
    counts.filter(({ launch }) => launch.fp8 && !launch.wgmma),
    stepKey,
  )
  const secondsOf = (model: string, batch: number): number => {
    const products = steps.get(stepKey({ wgmma: false, fp8: true, model, batch, generated: batch }))
    if (products === undefined) throw new Error(`no step of ${model} with ${batch} rows`)
    return stepOf(products, attentionFor).seconds
  }
  const plain = secondsOf('70B', 1)
  return guesses.map((n) => {
    const turn = n * secondsOf('8B', 1) + secondsOf('70B', 8)
    const cells = acceptances.map((right) => {
      const tokens = (1 - right ** (n + 1)) / (1 - right)
      return `${tokens.toFixed(2)} | ${((tokens * plain) / turn).toFixed(2)}x`
    })
    return `| ${n} | ${(turn * 1e3).toFixed(2)} | ${cells.join(' | ')} |`
  })
}

// --- the page ---

const kib = (bytes: number): string => (bytes / 1024).toFixed(bytes < 10_240 ? 1 : 0)
const microseconds = (seconds: number): string => (seconds * 1e6).toFixed(1)
const gb = (bytes: number): string => (bytes / 1e9).toFixed(1)

const instanceRows = (counts: readonly Counts[]): readonly string[] => {
  const seen = new Map<string, Counts>()
  for (const c of counts) if (!seen.has(c.launch.kernel)) seen.set(c.launch.kernel, c)
  return [...seen.values()].map((c) => {
    const { launch } = c
    const free = sharedBytes - c.blocksFit * (launch.shared + 1024)
    const what = `${launch.weightBytes === 1 ? 'FP8' : 'BF16'}, ${launch.blockRows} x ${launch.blockTokens}`
    const paired = launch.kernel.endsWith('Lb1EE') ? ', pairs' : ''
    const by = launch.wgmma ? 'wgmma ' : ''
    return (
      `| ${by}${what}${paired} | ${launch.warps} | ${c.registers} | ${kib(launch.shared)} | ${c.blocksFit} | ` +
      `${kib(c.asked)} | ${kib(free)} | ${c.wavefronts.toFixed(0)} |`
    )
  })
}

const productRows = (counts: readonly Counts[]): readonly string[] =>
  counts
    .filter(({ launch }) => launch.model === '8B' && launch.product !== 'head')
    .map((c) => {
      const { launch } = c
      const times = (bytes: number): string => (bytes / c.memoryBytes).toFixed(2)
      const limit = Math.max(
        c.memoryBytes / assumed.memory,
        (2 * launch.rows * launch.cols * launch.batch) / assumed.tensorLimit,
      )
      return (
        `| ${launch.wgmma ? 'wgmma ' : ''}${launch.fp8 ? 'FP8' : 'BF16'} ${launch.batch} | ${launch.product} | ` +
        `${launch.blockRows} x ${launch.blockTokens} | ${launch.tiles} | ${launch.blocks} | ${c.resident} | ${kib(c.inFlight)} | ` +
        `${kib(c.free)} | ${times(c.l2Bytes)} | ${microseconds(c.seconds)} | ${c.bound} | ` +
        `${((100 * limit) / c.seconds).toFixed(0)} % |`
      )
    })

/** The product of generated rows whose bytes are short by the largest share. */
const mostLeftOut = (counts: readonly Counts[]): string => {
  const share = ({ leftOut, l2Bytes }: Counts): number => leftOut / l2Bytes
  const { launch, ...most } = counts.reduce((a, b) => (share(b) > share(a) ? b : a))
  const what = `${launch.product} of ${launch.model} ${launch.fp8 ? 'FP8' : 'BF16'} at ${launch.batch} rows`
  return `${(100 * share({ launch, ...most })).toFixed(0)} % (${what}${launch.wgmma ? ', wgmma' : ''})`
}

const attentionRows = (all: readonly AttentionLaunch[]): readonly string[] =>
  all
    // 70B has as many KV heads as 8B, and so the same numbers.
    .filter(
      ({ model, batch, context: keys }) =>
        model !== '70B' && batch <= 8 && (keys === 1024 || keys === 4096),
    )
    .map((launch) => {
      const { parts } = launch
      const whole = all.find(
        (l) => l.parts === 1 && l.model === launch.model && l.fp8 === launch.fp8,
      )
      if (whole === undefined) throw new Error(`no attention of ${launch.model} by whole items`)
      const { tiles, askedFor } = whole
      const unshared = { ...launch, parts: 1, units: launch.units / parts, tiles, askedFor }
      const cells = (l: AttentionLaunch, early: boolean): string =>
        `${Math.min(multiprocessors, l.units)} | ${Math.ceil(l.tiles / l.askedFor)} | ${microseconds(attentionOf(l, early))}`
      return (
        `| ${launch.model} ${launch.fp8 ? 'FP8' : 'BF16'} | ${launch.batch} | ${launch.context} | ${cells(unshared, false)} | ` +
        `${microseconds(attentionOf(unshared, true))} | ${parts} | ${cells(launch, true)} |`
      )
    })

/** What a step is to reach, in percent of the limit: model, batch, aim. */
const aims: readonly (readonly [string, number, number])[] = [
  ['8B BF16', 1, 92],
  ['8B BF16', 32, 85],
  ['8B BF16', 256, 75],
  ['8B FP8, cache FP8', 1, 90],
  ['8B FP8, cache FP8', 32, 80],
  ['8B FP8, cache FP8', 256, 70],
  ['70B FP8, cache FP8', 1, 94],
]

const aimRows = (steps: readonly Step[]): readonly string[] =>
  aims.map(([model, batch, aim]) => {
    const share = (name: string): number => {
      const step = steps.find((s) => s.name === name && s.batch === batch)
      if (step === undefined) throw new Error(`no step of ${name} with ${batch} rows`)
      return Math.round((100 * step.limit) / step.seconds)
    }
    const [mma, wgmma] = [share(model), share(`${model}, wgmma`)]
    const missing = aim - Math.max(mma, wgmma)
    return `| ${model} | ${batch} | ${aim} % | ${mma} % | ${wgmma} % | ${missing > 0 ? `${missing} points short` : 'yes'} |`
  })

const stepsOf = (counts: readonly Counts[], attentionFor: Attention): readonly Step[] =>
  [...grouped(counts, stepKey).values()].map((products) => stepOf(products, attentionFor))

/** Steps by wgmma without clusters, as they are, and where all 32 clusters of 128 multiprocessors fit. */
const clusterRows = (ways: readonly (readonly Step[])[]): readonly string[] =>
  (ways[0] ?? []).flatMap(({ name, batch, limit }, i) => {
    if (batch < 32) return []
    const cells = ways.map((steps) => {
      const { seconds } = steps[i] as Step
      return `${(seconds * 1e3).toFixed(2)} | ${((100 * limit) / seconds).toFixed(0)} %`
    })
    return [`| ${name} | ${batch} | ${cells.join(' | ')} |`]
  })

/** Clusters that `launch` would have on a GPU with room for 32 of four. */
const inFours = (launch: Launch): Launch =>
  launch.cluster > 1 && launch.blockRows === 64 && launch.blocks <= 128
    ? { ...launch, cluster: 4 }
    : launch

const stepRows = (steps: readonly Step[]): readonly string[] => {
  return steps.map((step) => {
    const ms = (seconds: number): string => (seconds * 1e3).toFixed(2)
    return (
      `| ${step.name} | ${step.batch} | ${step.launches} | ${gb(step.memoryBytes)} | ${gb(step.l2Bytes)} | ` +
      `${gb(step.sharedBytes)} | ${ms(step.limit)} | ${ms(step.seconds)} | ` +
      `${((100 * step.limit) / step.seconds).toFixed(0)} % | ${step.bounds} |`
    )
  })
}

const attentionPage = (attention: readonly AttentionLaunch[]): readonly string[] => [
  'Attention of few generated rows, a layer, by model, batch and tokens of each: multiprocessors that have work, turns of',
  `memory's latency one after another, microseconds (${microseconds(assumed.attentionStart)} to fill and drain the GPU, ${microseconds(assumed.attentionRest)} after a unit's last keys, ${microseconds(assumed.l2Latency)} a trip to L2), with`,
  'a block an item that reads nothing before the kernel before it has ended; the same with metadata and first keys read',
  'before; and with blocks that share an item as well: how many, multiprocessors, turns, microseconds.',
  '',
  '| model | batch | tokens | busy | turns | us | read before, us | blocks an item | busy | turns | us |',
  '|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|',
  ...attentionRows(attention),
  '',
]

const stepPage = (
  steps: readonly Step[],
  byCluster: readonly (readonly Step[])[],
): readonly string[] => [
  `Whole steps, each sequence with ${context} tokens: launches, GB from memory, from L2 and through shared memory`,
  `(products), milliseconds. A rank of 8 has ${microseconds(assumed.rankSum)} us for each turn with the others; the limit has none.`,
  '',
  '| model | batch | launches | memory | L2 | shared | limit | counted | of the limit | bounds |',
  '|---|---:|---:|---:|---:|---:|---:|---:|---:|---|',
  ...stepRows(steps),
  '',
  'What is aimed at, of the limit, and what is counted:',
  '',
  '| model | batch | aim | mma.sync | wgmma | reached |',
  '|---|---:|---:|---:|---:|---|',
  ...aimRows(steps),
  '',
  'Steps by wgmma as they would be if each block read all of its activations itself; as they are; and on a GPU with room for 32',
  'clusters of four at once: milliseconds, share of the limit.',
  '',
  '| model | batch | alone: ms | of the limit | clusters: ms | of the limit | 32 of four: ms | of the limit |',
  '|---|---:|---:|---:|---:|---:|---:|---:|',
  ...clusterRows(byCluster),
  '',
]

/** The part of docs/kernels.md that is counted. */
const renderCounts = (
  { products, attention }: Launches,
  kernels: readonly CompiledKernel[],
  release: string,
): string => {
  const all = products.map((launch) => countOf(launch, kernels))
  const attentionFor = attentionIn(attention)
  const counts = all.filter(({ launch }) => launch.generated === launch.batch)
  const mixed = all.filter(({ launch }) => launch.generated < launch.batch)
  const steps = stepsOf(counts, attentionFor)
  const ofWgmma = counts.filter(({ launch }) => launch.wgmma).map(({ launch }) => launch)
  const alone = (launch: Launch): Launch => ({ ...launch, cluster: 1 })
  const byCluster = [alone, (launch: Launch): Launch => launch, inFours].map((way) =>
    stepsOf(
      ofWgmma.map((launch) => countOf(way(launch), kernels)),
      attentionFor,
    ),
  )
  return [
    `Compiled by nvcc ${release} for sm_90a; an H200 of ${multiprocessors} multiprocessors. **Times are`,
    `counted, not measured**: ${assumed.memory / 1e12} TB/s of memory, ${assumed.l2 / 1e12} TB/s from L2, a wavefront`,
    `of shared memory a cycle at ${assumed.clock / 1e9} GHz, ${assumed.mma / 1e12} TFLOP/s of mma.sync, ${assumed.wgmma / 1e12} of`,
    `wgmma, an instruction a cycle and scheduler, ${microseconds(assumed.boundary)} us for a kernel to follow another, ${microseconds(assumed.latency)} us from asking for bytes to having them. The limit is memory, or`,
    `${assumed.tensorLimit / 1e12} TFLOP/s.`,
    '',
    'Left out of the bytes from L2 are results and the squares of split norms: at most',
    `${mostLeftOut(counts)} of the others.`,
    '',
    'Each instance, rows x tokens a block: warps, registers a thread, KiB of shared memory, blocks that a',
    'multiprocessor holds, KiB of weights that a block asks for before it waits for the kernel before it, KiB of shared memory left',
    'beside so many blocks, and wavefronts of shared memory for a KiB of weights.',
    '',
    '| instance | warps | registers | shared | blocks | asked for | left | wavefronts |',
    '|---|---:|---:|---:|---:|---:|---:|---:|',
    ...instanceRows(counts),
    '',
    'Each product of 8B by batch: tiles, blocks in all and at once on a multiprocessor, KiB of weights in flight and KiB',
    'of shared memory free there, bytes from L2 over the bytes of the weights, microseconds, what bounds them.',
    '',
    '| batch | product | block | tiles | blocks | at once | in flight | free | L2 | us | bound | of the limit |',
    '|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|---:|',
    ...productRows(counts),
    '',
    ...attentionPage(attention),
    ...promptPage(kernels),
    ...stepPage(steps, byCluster),
    `Steps of 32 generated rows, each of ${context} tokens, and a new prompt's rows: launches and milliseconds by the kind of the`,
    'rows (mma.sync, cuBLASLt, FP8 widened in memory), and with one product for all rows. A kernel follows another at the',
    'full price in all of them.',
    '',
    '| model | prompt rows | launches by kind | ms | us a launch | launches of all rows | mma.sync, ms | wgmma, ms |',
    '|---|---:|---:|---:|---:|---:|---:|---:|',
    ...mixedRows(mixed, counts, attentionFor),
    '',
    `One sequence of 70B FP8, ${context} tokens, with 8B FP8 as the draft model, on the same GPU: guesses`,
    'a turn, milliseconds of a turn, and for each chance that a guess is right the tokens of a turn and how many times as fast that',
    'is as without a draft model.',
    '',
    `| guesses | ms | ${acceptances.map((right) => `${right}: tokens | speed`).join(' | ')} |`,
    `|---:|---:|${'---:|---:|'.repeat(acceptances.length)}`,
    ...draftRows(counts, attentionFor),
    '',
  ].join('\n')
}

const startMark = '<!-- npm run bench -- gpu --counts -->'
const endMark = '<!-- end of the counts -->'

/** `page` with the counted part replaced. */
export const withCounts = (page: string, counts: string): string => {
  const from = page.indexOf(startMark)
  const to = page.indexOf(endMark)
  if (from < 0 || to < from) throw new Error(`docs/kernels.md has no ${startMark} ... ${endMark}`)
  return `${page.slice(0, from)}${startMark}\n${counts}${page.slice(to)}`
}

/** The nvcc release that the page was made by. */
export const releaseOf = (page: string): string => /Compiled by nvcc ([\d.]+)/.exec(page)?.[1] ?? ''

/** Compiles, asks `program` for the launches, and returns the counted part. */
export const makeCounts = (root: string, program: string): string => {
  const nvcc = findNvcc()
  if (nvcc === undefined)
    throw new UsageError(
      '--counts reads compiled kernels: expected nvcc on PATH, or NVCC=/path/to/nvcc',
    )
  return renderCounts(
    readLaunches(program),
    compile(root, nvcc, [
      'gemm_decode',
      'gemm_decode_wide',
      'gemm_decode_wgmma',
      'attention_prompt_wgmma',
    ]),
    nvccRelease(nvcc),
  )
}

export const writeCounts = (root: string, program: string): string => {
  const file = join(root, 'docs/kernels.md')
  writeFileSync(file, withCounts(readFileSync(file, 'utf8'), makeCounts(root, program)))
  return file
}
