import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { renderGpuPage, run } from '../../bench/gpu.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('docs/gpu-results.md is what the committed results make', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
  try {
    const out = join(folder, 'page.md')
    await run(['--out', out])
    assert.equal(readFileSync(join(root, 'docs/gpu-results.md'), 'utf8'), readFileSync(out, 'utf8'))
    // Other files beside the results are none of them.
    writeFileSync(join(folder, '20260101-0000-other-engine.json'), '{}')
    await run(['--results', folder, '--out', out])
    assert.match(readFileSync(out, 'utf8'), /There are none/)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('a run becomes tables with shares of the limit and peers', () => {
  const page = renderGpuPage([
    {
      file: 'x-gpu.json',
      lines: [
        {
          kind: 'run',
          gpu: 'NVIDIA H200',
          date: '2026-12-01T00:00:00Z',
          driver: '580',
          nvcc: '13.0',
        },
        { kind: 'machine', device: 'NVIDIA H200 (sm_90, cuBLASLt 13.1)' },
        {
          kind: 'measure',
          by: 'ours',
          name: '8B BF16 decode batch 1 ctx 1K',
          us: 4000,
          value: 250,
          unit: 'tok/s',
          percent: 88,
        },
        { kind: 'measure', by: 'torch', name: '8B BF16 decode batch 1 ctx 1K', us: 5000 },
        {
          kind: 'measure',
          by: 'ours',
          name: 'read only',
          us: 1,
          value: 4300,
          unit: 'GB/s',
          percent: 0,
        },
        { kind: 'note', text: 'no cuBLASLt' },
        { kind: 'phase', name: '70b-fp8', status: 'cut off after 90 s', seconds: 90 },
      ],
    },
  ])
  assert.match(page, /## NVIDIA H200, 2026-12-01/)
  assert.match(
    page,
    /\| 8B BF16 decode batch 1 ctx 1K \| 4000 \| 250 tok\/s \| 88\.0 % \| █{18} \| torch 1\.25x \|/,
  )
  assert.match(page, /### Ceilings[^#]*\| read only \|/)
  assert.match(page, /- no cuBLASLt/)
  assert.match(page, /\| 70b-fp8 \| cut off after 90 s \| 90 \|/)
})
