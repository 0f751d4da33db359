// How each competitor is installed and started.

import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cacheFolder } from '../random-model.js'
import { type Running, startProcess } from './process.js'
import type { ChildOptions } from './protocol.js'

const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

const typescript = (name: string, options: ChildOptions): readonly string[] => [
  '--import',
  'tsx',
  script(name),
  JSON.stringify(options),
]

// malloc asks for huge pages: 1.3 to 1.6 times the read rate where the kernel's setting is "madvise".
const hugePages = { GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1' }

export const startOurs = (name: string, options: ChildOptions): Promise<Running> =>
  startProcess(name, {
    file: process.execPath,
    args: typescript('ours.ts', options),
    env: {},
  })

const llamaVersion = '3.22.1'

const installLlama = (): void => {
  const folder = join(cacheFolder, 'node-llama-cpp')
  if (existsSync(join(folder, 'node_modules/node-llama-cpp'))) return
  if (process.platform !== 'linux') throw new Error('the llama.cpp peer is set up for Linux only')
  console.error(`installing node-llama-cpp ${llamaVersion} into ${folder}`)
  const flags = ['--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund']
  const binaries = `@node-llama-cpp/linux-${process.arch}@${llamaVersion}`
  execFileSync(
    'npm',
    ['install', ...flags, '--omit=optional', `node-llama-cpp@${llamaVersion}`, binaries],
    { stdio: ['ignore', 2, 2] },
  )
}

/** `options.model` is the GGUF file. */
export const startLlama = async (options: ChildOptions): Promise<Running> => {
  installLlama()
  return startProcess('llama.cpp', {
    file: process.execPath,
    args: typescript('llama.ts', options),
    env: hugePages,
  })
}

/** torch and transformers of bench/.cache/venv, else of python3. */
export const startTorch = async (options: ChildOptions): Promise<Running> => {
  const venv = join(cacheFolder, 'venv/bin/python')
  const python = existsSync(venv) ? venv : 'python3'
  if (spawnSync(python, ['--version']).status !== 0) throw new Error('no python3')
  return startProcess('torch', {
    file: python,
    args: [script('pytorch.py'), JSON.stringify(options)],
    env: { ...hugePages, THP_MEM_ALLOC_ENABLE: '1' },
  })
}
