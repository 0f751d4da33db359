// A server that is killed at random moments of a batch: no line is lost, and none that was answered is
// asked again.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'libsql'
import OpenAI, { toFile } from 'openai'
import { nodeArgs } from '../../bench/source.js'
import { packagePath } from '../../server/version.js'
import { noAddon } from './real-server.js'

const serve = async (dataDir: string) => {
  const child = spawn(
    process.execPath,
    [
      ...[...nodeArgs('server/cli.ts'), 'serve', '--port', '0'],
      ...['--model', packagePath('models/tiny/tiny-reasoner'), '--kv-cache-memory', '32MiB'],
      ...['--threads', '1', '--max-num-seqs', '4', '--data-dir', dataDir],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  let text = ''
  child.stdout.on('data', (chunk) => {
    text += chunk
  })
  child.stderr.on('data', (chunk) => {
    text += chunk
  })
  const exit = new Promise((done) => child.once('close', done))
  const kill = async () => {
    child.kill('SIGKILL')
    await exit
  }
  for (let i = 0; i < 1200; i++) {
    const url = /^at (\S+)\/v1/m.exec(text)?.[1]
    if (url !== undefined) {
      const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 })
      return { kill, client }
    }
    if (child.exitCode !== null) break
    await sleep(50)
  }
  await kill()
  throw new Error(`it did not start: ${text}`)
}

/** What the ledger of a killed server holds: custom id -> line of the output. */
const answersOf = (dataDir: string): ReadonlyMap<string, string> => {
  const copy = mkdtempSync(join(tmpdir(), 'nemotron-copy-'))
  cpSync(dataDir, copy, { recursive: true })
  const db = new Database(join(copy, 'batches.sqlite'))
  const rows = db
    .prepare('SELECT customId, answer FROM lines WHERE answer IS NOT NULL')
    .all() as readonly { readonly customId: string; readonly answer: string }[]
  db.close()
  return new Map(rows.map(({ customId, answer }) => [customId, answer]))
}

const LINES = 300
const KILLS = process.env.NEMOTRON_TEST_LONG === '1' ? 12 : 2

describe('a batch, killed', { skip: noAddon }, () => {
  it(`goes on after ${KILLS} kills at random moments`, async (t) => {
    const dataDir = mkdtempSync(join(tmpdir(), 'nemotron-kill-'))
    const ids = Array.from({ length: LINES }, (_, i) => `line-${i}`)
    const lines = ids.map((custom_id) =>
      JSON.stringify({
        custom_id,
        method: 'POST',
        url: '/v1/chat/completions',
        body: {
          model: 'tiny-reasoner',
          messages: [{ role: 'user', content: `What is ${custom_id}?` }],
          max_tokens: 24,
          min_tokens: 24,
        },
      }),
    )
    let id = ''
    const known = new Map<string, string>()
    let began = 0
    for (let life = 0; life < KILLS; life++) {
      const { client, kill } = await serve(dataDir)
      if (life === 0) {
        const file = await toFile(Buffer.from(lines.join('\n')), 'in.jsonl')
        const { id: input_file_id } = await client.files.create({ file, purpose: 'batch' })
        const endpoint = '/v1/chat/completions'
        id = (await client.batches.create({ input_file_id, endpoint, completion_window: '24h' })).id
      }
      // A busy machine takes its time: the moment is counted in lines.
      const wanted = known.size + 1 + Math.floor((Math.random() * LINES) / (2 * KILLS))
      let told = 0
      for (let i = 0; i < 6000 && told < wanted; i++) {
        await sleep(10)
        told = (await client.batches.retrieve(id)).request_counts?.completed ?? 0
      }
      await sleep(Math.random() * 250)
      await kill()
      const now = answersOf(dataDir)
      // What a client was told is there, and what was there before is as it was.
      if (now.size > 0) assert.ok(now.size >= told, `${now.size} of ${told} answers`)
      for (const [name, text] of known) if (now.size > 0) assert.equal(now.get(name), text)
      for (const [name, text] of now) known.set(name, text)
      if (now.size > 0 && now.size < LINES) began++
    }
    const { client, kill } = await serve(dataDir)
    try {
      let batch = await client.batches.retrieve(id)
      for (let i = 0; i < 2400 && batch.status !== 'completed'; i++) {
        await sleep(50)
        batch = await client.batches.retrieve(id)
      }
      assert.deepEqual(batch.request_counts, { total: LINES, completed: LINES, failed: 0 })
      const output = await (await client.files.content(batch.output_file_id ?? '')).text()
      const texts = output.trimEnd().split('\n')
      assert.deepEqual(
        texts.map((text) => JSON.parse(text).custom_id),
        ids,
      )
      const last = new Map(texts.map((text) => [String(JSON.parse(text).custom_id), text]))
      for (const [name, text] of known) assert.equal(last.get(name), text)
      if (began === 0) t.diagnostic('no kill came while lines were being answered')
    } finally {
      await kill()
    }
  })
})
