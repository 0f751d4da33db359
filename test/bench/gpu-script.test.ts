// bench/gpu.sh with programs that fail, hang and are killed: what comes back has to be whole and to
// say so. Neither a GPU nor the emulation takes part.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { renderGpuPage, run as runPage } from '../../bench/gpu.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'nemotron-'))
after(() => rmSync(folder, { recursive: true, maxRetries: 3 }))

const program = (path: string, text: string): void => {
  writeFileSync(path, `#!/bin/sh\n${text}`)
  chmodSync(path, 0o755)
}

// What the real programs print, and what $FAIL, $HANG and $CRASH (a case or a part) do.
const cases = `
list="$CASES"
[ "$1" = --list ] && { echo "$list"; exit 0; }
failed=0 passed=0
for name in "$@"; do
  case $name in --*) continue ;; esac
  echo "RUNS $name"
  [ "$name" = "$HANG" ] && { sleep 60 & echo $! >"$HUNG_PID"; wait; }
  [ "$name" = "$CRASH" ] && kill -SEGV $$
  if [ "$name" = "$FAIL" ] && [ "$NEMOTRON_CUDA_GRAPHS" != 0 ]; then
    echo "  model_test.cc:7: 1 and 2"
    echo "FAILED $name"
    failed=$((failed + 1))
  else
    passed=$((passed + 1))
  fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
`
const bench = `
part= json=
[ "$1" = --list ] && { echo ceilings; exit 0; }
[ "$1" = --needs ] && { [ "$2" = 70b-fp8 ] && echo 200 || echo 6; exit 0; }
while [ $# -gt 0 ]; do
  case $1 in --part) part=$2 ;; --json) json=$2 ;; esac
  shift
done
[ -n "$json" ] && echo "{\\"kind\\": \\"measure\\", \\"by\\": \\"ours\\", \\"name\\": \\"$part one\\", \\"us\\": 2, \\"value\\": 3, \\"unit\\": \\"GB/s\\", \\"percent\\": 50}" >>"$json"
[ "$part" = "$HANG" ] && { printf '{"kind": "mea' >>"$json"; sleep 60 & echo $! >"$HUNG_PID"; wait; }
[ "$part" = "$CRASH" ] && kill -SEGV $$
case $part in
ranks | 70b-tp8) [ "\${CUDA_DEVICE_MAX_CONNECTIONS:-8}" -gt 8 ] || { echo "ranks share a queue"; exit 1; } ;;
esac
exit 0
`
const bin = join(folder, 'bin')
const tools = join(folder, 'tools')
for (const path of [bin, tools]) mkdirSync(path)
const listed = (names: readonly string[]): string => cases.replace('$CASES', names.join('\n'))
program(
  join(bin, 'gpu_ops_test'),
  listed([
    'cuda gemm 17x80x96 BF16',
    'cuda mlp_input BF16 34x40',
    'cuda norm after residual BF16 19x90',
    'cuda tied BF16',
    'cuda groups as widened: 4 bits of 32, 9 rows, sum',
    'cuda attention 4:2 d64 b16 BF16 prompts',
    'cuda sample vocab 33',
    'wgmma attention 2:2 d64 b16 BF16 prompts',
    'wgmma products gemm 17x80x96 BF16',
  ]),
)
program(
  join(bin, 'gpu_model_test'),
  listed(['model bf16', 'model fp8 weights and cache', 'row bits cuBLASLt BF16 4096x4096']),
)
program(join(bin, 'golden_test'), listed(['golden_mqa_stored_cuda', 'golden_mqa_stored_plain']))
program(join(bin, 'gpu_bench'), bench)
program(join(bin, 'libnemotron_cuda.so'), '')
program(
  join(tools, 'nvidia-smi'),
  `case "$*" in
*" -l "*) echo $$ >$SMI_PID; echo header; echo "now, 1980 MHz, 3201 MHz, 500 W, 60, 1 MiB"; exec sleep 60 ;;
*) echo "NVIDIA H100 80GB HBM3, 580.159.04, 9.0, 700.00, 1980, 81559" ;;
esac
`,
)
program(
  join(tools, 'compute-sanitizer'),
  'while case $1 in --*) true ;; *) false ;; esac; do shift 2; done\nexec "$@"\n',
)
program(join(tools, 'ncu'), 'echo "ncu $*"\n')

type Entry = {
  readonly name: string
  readonly status: string
  readonly reason: string
  readonly seconds: number
  readonly metrics?: readonly unknown[]
  readonly failing?: readonly string[]
  readonly said?: readonly string[]
  readonly passed?: number
  readonly repeated?: {
    readonly case: string
    readonly runs: readonly { readonly how: string; readonly status: string }[]
  }
}
type Result = { readonly ended: string; readonly phases: readonly Entry[] }

const resultOf = (out: string): Result => JSON.parse(readFileSync(join(out, 'result.json'), 'utf8'))

const SHORT = ['--budget', '600', '--pace', '0.1']

const start = (
  name: string,
  env: Readonly<Record<string, string>>,
  flags: readonly string[] = ['--budget', '600', '--pace', '1'],
): {
  readonly child: ChildProcess
  readonly code: Promise<number>
  readonly out: string
  readonly text: () => string
  readonly temporary: string
  /** Of nvidia-smi (smi), or of what hangs (hung). */
  readonly pid: (what: string) => number
} => {
  const out = join(folder, name)
  const temporary = join(folder, `${name}-temporary`)
  mkdirSync(temporary)
  const pid = (what: string): string => join(folder, `${name}-${what}.pid`)
  const child = spawn('bash', ['bench/gpu.sh', '--bin', bin, '--out', out, ...flags], {
    cwd: root,
    env: {
      ...process.env,
      PATH: `${tools}:${process.env.PATH}`,
      FAIL: '-',
      HANG: '-',
      CRASH: '-',
      SMI_PID: pid('smi'),
      HUNG_PID: pid('hung'),
      TMPDIR: temporary,
      ...env,
    },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (data) => {
      output += data
    })
  }
  const code = once(child, 'close').then(([status]) => Number(status))
  return {
    child,
    code,
    out,
    text: () => output,
    temporary,
    pid: (what) => Number(readFileSync(pid(what), 'utf8')),
  }
}
/** One that ended and that nobody has waited for yet (a zombie) is gone. */
const isGone = async (pid: number): Promise<boolean> => {
  for (let i = 0; i < 1000; i++) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') Z')
    if (/\) [ZX]/.test(stat)) return true
    await sleep(20)
  }
  return false
}

const order = [
  ['build', 'ops-products', 'ops-attention', 'ops-sample', 'goldens', 'model', 'row-bits'],
  [
    'ceilings',
    '8b-bf16',
    '8b-fp8',
    'ncu',
    'ops-wgmma',
    'ops-groups',
    'attention',
    '70b-fp8',
    'gemm',
    'sampler',
    'ranks',
    '70b-tp8',
  ],
  ['memcheck', 'memcheck-steps', 'racecheck', 'memcheck-wgmma', 'initcheck', '8b-128k', 'torch'],
].flat()

describe('bench/gpu.sh', { concurrency: 4 }, () => {
  test('every phase of a good run is there, in order, in at most six files', async () => {
    const { code, out, text, pid, temporary } = start('good', {})
    assert.equal(await code, 0, text())
    const { phases, ended: how } = resultOf(out)
    assert.equal(how, 'complete')
    assert.deepEqual(
      phases.map(({ name }) => name),
      order,
    )
    for (const { name, status, reason } of phases) {
      if (name === '70b-fp8') assert.match(reason, /it needs 200 GB, the GPU has 86/)
      else if (name === 'torch' && status === 'skipped') assert.equal(reason, 'no PyTorch')
      else assert.equal(status, 'ok', `${name}: ${reason}`)
    }
    assert.deepEqual(readdirSync(out).sort(), ['logs.tgz', 'ncu.txt', 'result.json', 'smi.csv'])
    assert.deepEqual(readdirSync(temporary), [])
    assert.equal(phases.find(({ name }) => name === 'gemm')?.metrics?.length, 1)
    assert.match(readFileSync(join(out, 'ncu.txt'), 'utf8'), /ncu .*gpu_bench --part kernels/)
    assert.ok(await isGone(pid('smi')), 'nvidia-smi goes on')
  })

  test('a case that fails is repeated in the ways that tell why', async () => {
    const { code, out } = start('failing', { FAIL: 'model bf16' })
    assert.equal(await code, 1)
    const { phases } = resultOf(out)
    const model = phases.find(({ name }) => name === 'model')
    assert.equal(model?.status, 'failed')
    assert.deepEqual(model?.failing, ['model bf16'])
    assert.equal(model?.passed, 1)
    assert.deepEqual(model?.said?.slice(0, 1), ['  model_test.cc:7: 1 and 2'])
    assert.equal(model?.repeated?.case, 'model bf16')
    assert.deepEqual(
      model?.repeated?.runs.map(({ how, status }) => `${how} ${status}`),
      [
        'alone failed',
        'memcheck failed',
        'NEMOTRON_CUDA_GRAPHS=0 ok',
        'NEMOTRON_CUDA_PDL=0 failed',
        'NEMOTRON_CUDA_SYNC=1 failed',
      ],
    )
    // The page shows it, and a result can be added.
    const page = renderGpuPage([
      { file: 'x-gpu.json', result: JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) },
    ])
    assert.match(page, /\*\*model\*\*: exit 1\. `model bf16`/)
    assert.match(page, /NEMOTRON_CUDA_GRAPHS=0: ok; NEMOTRON_CUDA_PDL=0: failed \(exit 1\)/)
    const results = join(folder, 'results')
    mkdirSync(results)
    await runPage([
      '--add',
      join(out, 'result.json'),
      '--results',
      results,
      '--out',
      join(folder, 'page.md'),
    ])
    assert.match(readdirSync(results).join(), /^\d{8}-\d{4}-h100-80gb-hbm3-gpu\.json$/)
    assert.match(readFileSync(join(folder, 'page.md'), 'utf8'), /## NVIDIA H100 80GB HBM3, /)
  })

  test('what hangs or crashes costs one phase, and its numbers stay', async () => {
    const [hung, crashed] = [
      // Limits that a busy machine holds, and that are waited for.
      start('hanging', { HANG: '8b-bf16', CRASH: 'cuda sample vocab 33' }, SHORT),
      start('crashing', { HANG: 'golden_mqa_stored_cuda', CRASH: 'gemm' }, SHORT),
    ]
    assert.equal(await hung.code, 1)
    const one = resultOf(hung.out).phases
    const part = one.find(({ name }) => name === '8b-bf16')
    assert.match(part?.reason ?? '', /^cut off after \d+ s$/)
    assert.equal(part?.metrics?.length, 1)
    assert.ok(await isGone(hung.pid('hung')), 'what hung goes on')
    const sample = one.find(({ name }) => name === 'ops-sample')
    assert.equal(sample?.reason, 'ended by SIGSEGV')
    assert.deepEqual(sample?.failing, ['cuda sample vocab 33'])
    assert.equal(one.find(({ name }) => name === '8b-fp8')?.status, 'ok')
    assert.equal(one.find(({ name }) => name === 'ops-attention')?.status, 'ok')

    assert.equal(await crashed.code, 1)
    const other = resultOf(crashed.out).phases
    const goldens = other.find(({ name }) => name === 'goldens')
    assert.match(goldens?.reason ?? '', /^cut off/)
    assert.deepEqual(goldens?.failing, ['golden_mqa_stored_cuda'])
    assert.equal(other.find(({ name }) => name === 'gemm')?.reason, 'ended by SIGSEGV')
    assert.equal(other.find(({ name }) => name === '8b-128k')?.status, 'ok')
  })

  test('a phase that no longer fits is skipped and says so', async () => {
    const { code, out } = start('short', {}, ['--budget', '20', '--pace', '2'])
    assert.equal(await code, 0)
    const { phases } = resultOf(out)
    assert.deepEqual(
      phases.map(({ name }) => name),
      order,
    )
    const skipped = phases.filter(({ reason }) =>
      /^\d+ s of the budget are left, it takes about \d+$/.test(reason),
    )
    assert.ok(
      skipped.some(({ name }) => name === '8b-128k'),
      JSON.stringify(skipped),
    )
  })

  test('result.json is whole whenever the script is killed', async () => {
    await Promise.all(
      [300, 600, 1000, 1500].map(async (ms) => {
        const { child, code, out } = start(`killed-${ms}`, { HANG: 'attention' })
        const until = Date.now() + ms
        while (Date.now() < until) {
          if (existsSync(join(out, 'result.json'))) resultOf(out)
          await sleep(5)
        }
        child.kill('SIGKILL')
        await code
        if (!existsSync(join(out, 'result.json'))) return
        const { phases, ended: how } = resultOf(out)
        assert.equal(how, '')
        assert.ok(readdirSync(out).length <= 6)
        for (const { status } of phases) assert.match(status, /^(ok|skipped|failed|running)$/)
      }),
    )
  })

  test('asked to stop, it ends what runs and says so', async () => {
    const { child, code, out, pid } = start('stopped', { HANG: '8b-bf16' })
    while (
      !(
        existsSync(join(out, 'result.json')) &&
        resultOf(out).phases.some(({ name }) => name === '8b-bf16')
      )
    ) {
      await sleep(20)
    }
    child.kill('SIGTERM')
    assert.equal(await code, 1)
    const { phases, ended: how } = resultOf(out)
    assert.equal(how, 'stopped by SIGTERM')
    assert.equal(phases.at(-1)?.reason, 'stopped by SIGTERM')
    assert.ok(await isGone(pid('smi')), 'nvidia-smi goes on')
  })

  test('a phase that does not exist is refused with those that do', async () => {
    const { code, text } = start('unknown', {}, ['--budget', '60', '8b'])
    assert.equal(await code, 1)
    assert.match(text(), /no phase '8b'; there are ops-products .* 8b-bf16 /)
  })
})
