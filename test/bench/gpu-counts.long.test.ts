// The counted tables of docs/kernels.md are what bench/gpu-counts.ts makes. Compiles kernels by nvcc.
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { findNvcc, makeCounts, nvccRelease, releaseOf, withCounts } from '../../bench/gpu-counts.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const page = readFileSync(join(root, 'docs/kernels.md'), 'utf8')
const program = join(root, 'build/test/emu/emulated_gpu_bench')

/** Why the compiled kernels cannot be counted here; false: they can. */
const missing = (): string | false => {
  const nvcc = findNvcc()
  if (nvcc === undefined) return 'no nvcc: the counts of docs/kernels.md are not compared'
  const release = nvccRelease(nvcc)
  if (release !== releaseOf(page))
    return `nvcc ${release}: docs/kernels.md was made by nvcc ${releaseOf(page)}`
  return existsSync(program) ? false : `${program} is not built`
}

test('docs/kernels.md has what is counted', { skip: missing() }, () => {
  assert.equal(withCounts(page, makeCounts(root, program)), page)
})
