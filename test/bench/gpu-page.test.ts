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
    // What a dry run leaves is no result, nor is any other file.
    writeFileSync(join(folder, 'result.json'), '{"run": {"dry_run": true}, "phases": []}')
    const add = ['--add', join(folder, 'result.json'), '--results', folder, '--out', out]
    await assert.rejects(run(add), /result.json comes from a dry run/)
    writeFileSync(join(folder, 'result.json'), '[]')
    await assert.rejects(run(add), /result.json is no result.json of bench.gpu.sh/)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('a run becomes tables with shares of the limit and peers', () => {
  const page = renderGpuPage([
    {
      file: 'x-gpu.json',
      result: {
        run: {
          gpu: 'NVIDIA H200',
          date: '2026-12-01T00:00:00Z',
          driver: '580',
          nvcc: '13.0',
          device: 'NVIDIA H200 (sm_90, cuBLASLt 13.1)',
        },
        seconds: 500,
        ended: 'complete',
        phases: [
          {
            name: '8b-bf16',
            status: 'ok',
            reason: '',
            seconds: 40,
            metrics: [
              {
                by: 'ours',
                name: '8B BF16 decode batch 1 ctx 1K',
                us: 4000,
                value: 250,
                unit: 'tok/s',
                percent: 88,
              },
            ],
          },
          {
            name: 'ceilings',
            status: 'ok',
            reason: '',
            seconds: 3,
            metrics: [
              { by: 'ours', name: 'read only', us: 1, value: 4300, unit: 'GB/s', percent: 0 },
            ],
            notes: ['no cuBLASLt'],
          },
          {
            name: 'torch',
            status: 'ok',
            reason: '',
            seconds: 60,
            metrics: [{ by: 'torch', name: '8B BF16 decode batch 1 ctx 1K', us: 5000 }],
          },
          { name: '70b-fp8', status: 'failed', reason: 'cut off after 90 s', seconds: 90 },
        ],
      },
    },
  ])
  assert.match(page, /## NVIDIA H200, 2026-12-01/)
  assert.match(
    page,
    /\| 8B BF16 decode batch 1 ctx 1K \| 4000 \| 250 tok\/s \| 88\.0 % \| █{18} \| torch 1\.25x \|/,
  )
  assert.match(page, /### Ceilings[^#]*\| read only \|/)
  assert.match(page, /- ceilings: no cuBLASLt/)
  assert.match(page, /\| 70b-fp8 \| failed: cut off after 90 s \| {2}\| 90 \|/)
})
