// That bench/gpu-counts.ts counts rightly: by hand on two instances. gpu-counts.long.test.ts holds
// docs/kernels.md.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type CompiledKernel, countOf, type Launch, promptTileOf } from '../../bench/gpu-counts.js'

const launch: Launch = {
  model: '8B',
  fp8: false,
  wgmma: false,
  batch: 1,
  generated: 1,
  product: 'o',
  rows: 4096,
  cols: 4096,
  weightBytes: 2,
  kernel: 'one',
  blockRows: 16,
  blockTokens: 8,
  warps: 4,
  stageColumns: 256,
  stages: 8,
  shared: 98_336,
  tiles: 256,
  blocks: 256,
  cluster: 1,
  early: 0,
}
// 64 columns of 16 rows: two kilobytes of weights in four loads of a lane, and two of activations, each of
// which is copied into shared memory and read once.
const compiled: CompiledKernel = {
  name: 'kernel one',
  registers: 54,
  instructions: 64,
  products: 4,
  groupProducts: 0,
  loads: { 4: 0, 8: 0, 16: 6 },
  copies: 6,
  exponentials: 0,
  weighing: 0,
  masking: 0,
}

test('an instance of one row tile, by hand', () => {
  const c = countOf(launch, [compiled])
  assert.equal(c.wavefronts, 24)
  assert.equal(c.blocksFit, 2)
  assert.equal(c.resident, 2)
  assert.equal(c.free, 228 * 1024 - 2 * (98_336 + 1024))
  assert.equal(c.asked, 7 * 16 * 256 * 2)
  assert.equal(c.inFlight, 2 * 7 * 16 * 256 * 2)
  assert.equal(c.leftOut, 4096 * (4 + 4 + 2) + (4096 / 16) * 4)
  assert.equal(c.memoryBytes, 4096 * 4096 * 2)
  assert.equal(c.l2Bytes, 4096 * 4096 * 2 + 256 * 4096 * 2)
  assert.equal(c.bound, 'memory')
  assert.ok(Math.abs(c.seconds - 7.8e-6) < 0.01e-6)
})

test('an instance of 64 rows and 64 tokens of FP8 weights, by hand', () => {
  const of256 = { ...launch, batch: 256, weightBytes: 1, blockRows: 64, blockTokens: 64 }
  const c = countOf({ ...of256, stages: 4, shared: 196_864, blocks: 256 }, [
    { ...compiled, registers: 248, products: 128, loads: { 4: 0, 8: 0, 16: 24 }, copies: 24 },
  ])
  assert.equal(c.wavefronts, 48)
  assert.equal(c.blocksFit, 1)
  assert.equal(c.resident, 1)
  // Four passes of the weights, and 64 blocks of rows that read all activations.
  assert.equal(c.l2Bytes, 4096 * 4096 * 4 + 64 * 256 * 4096 * 2)
  assert.equal(c.bound, 'L2')
  assert.ok(Math.abs(c.seconds - 35.3e-6) < 0.1e-6)
})

test('an instance of wgmma with 128 rows and 256 tokens, by hand', () => {
  const gateUp = { ...launch, batch: 256, product: 'gate_up', rows: 28_672, wgmma: true }
  const c = countOf(
    {
      ...gateUp,
      blockRows: 128,
      blockTokens: 256,
      warps: 12,
      stageColumns: 64,
      stages: 4,
      shared: 197_696,
      tiles: 224,
      blocks: 132,
    },
    [
      {
        ...compiled,
        registers: 168,
        instructions: 119,
        products: 0,
        groupProducts: 8,
        loads: { 4: 0, 8: 0, 16: 8 },
        copies: 0,
      },
    ],
  )
  // 128 columns a turn: 32 KiB of weights and 64 of activations are written, the weights read by eight warps
  // in eight loads of four wavefronts, the activations by two warpgroups.
  assert.equal(c.wavefronts, (256 + 512 + 8 * 8 * 4 + 2 * 512) / 32)
  assert.equal(c.blocksFit, 1)
  // All four stages at first; then one is being used.
  assert.equal(c.asked, 4 * 128 * 64 * 2)
  assert.equal(c.inFlight, 3 * 128 * 64 * 2)
  // 256 floats of squares a token, which 132 blocks read; a value of BF16 for two weight rows.
  assert.equal(c.leftOut, 132 * 256 * 256 * 4 + (28_672 / 2) * 256 * 2)
  // The weights once, and 224 blocks of rows that read all activations.
  assert.equal(c.l2Bytes, 28_672 * 4096 * 2 + 224 * 256 * 4096 * 2)
  assert.equal(c.bound, 'L2')
  assert.ok(Math.abs(c.seconds - 123.6e-6) < 0.1e-6)
})

test('an instance of wgmma whose blocks share activations, by hand', () => {
  const o = { ...launch, batch: 256, weightBytes: 2, wgmma: true, cluster: 4 }
  const c = countOf(
    {
      ...o,
      blockRows: 64,
      blockTokens: 128,
      warps: 8,
      stageColumns: 64,
      stages: 8,
      shared: 197_248,
      tiles: 128,
      blocks: 128,
    },
    [
      {
        ...compiled,
        registers: 142,
        instructions: 119,
        products: 0,
        groupProducts: 8,
        loads: { 4: 0, 8: 0, 16: 8 },
        copies: 0,
      },
    ],
  )
  // 128 columns a turn: 16 KiB of weights and 32 of activations are written, whoever asked for them; the
  // weights are read by four warps, the activations by one warpgroup.
  assert.equal(c.wavefronts, (128 + 256 + 4 * 8 * 4 + 256) / 16)
  // Two passes of the weights. 64 blocks of rows want all activations; four of them read them once.
  assert.equal(c.l2Bytes, 4096 * 4096 * 2 * 2 + 16 * 256 * 4096 * 2)
  assert.equal(c.bound, 'L2')
  assert.ok(Math.abs(c.seconds - 17.7e-6) < 0.1e-6)
  // Alone each would: what all blocks receive is the same.
  const alone = countOf({ ...c.launch, cluster: 1 }, [{ ...compiled, groupProducts: 8 }])
  assert.equal(alone.l2Bytes, 4096 * 4096 * 2 * 2 + 64 * 256 * 4096 * 2)
  // On few multiprocessors what they receive bounds them, 64 bytes a cycle each.
  const few = { ...c.launch, rows: 256, tiles: 8, blocks: 8 }
  const received = 256 * 4096 * 2 * 2 + 4 * 256 * 4096 * 2
  const narrow = countOf(few, [{ ...compiled, groupProducts: 800 }])
  assert.equal(narrow.bound, 'L2')
  assert.ok(Math.abs(narrow.seconds - received / (8 * 64 * 1.7e9)) < 1e-9)
})

test('a tile of prompt attention, in step and by turns, by hand', () => {
  const kernel = { ...compiled, groupProducts: 16, instructions: 600, masking: 150 }
  const tile = promptTileOf({ ...kernel, exponentials: 66, weighing: 270 }, 128)
  assert.deepEqual(
    [tile.scores, tile.sums, tile.exponentials, tile.instructions],
    [512, 512, 528, 450],
  )
  // Scores of both, then exponentials of both, then what else there is.
  assert.equal(tile.inStep, 2 * (512 + 528 + 180))
  // The tensor core is never idle.
  assert.equal(tile.byTurns, 2 * (512 + 512))
  // Heads of 64 columns: half the products, but as many exponentials.
  const narrow = promptTileOf({ ...kernel, groupProducts: 12, exponentials: 66, weighing: 270 }, 64)
  assert.equal(narrow.inStep, 2 * (256 + 528 + 180))
  assert.equal(narrow.byTurns, 2 * 528)
  assert.throws(() => promptTileOf(kernel, 64), /16 products a tile/)
})
