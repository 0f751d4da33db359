// A disk that fills up in the middle of a download, of a batch, of its outputs, of a file of scores, of an import: it is
// said which file and what to do, nothing half made is taken for whole, and with space again the work goes on.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import OpenAI, { toFile } from 'openai'
import { importNemo } from '../../server/nemo/import.js'
import { packagePath } from '../../server/version.js'
import { runHere } from './command.js'
import { chatBody, startHarness, until } from './harness.js'
import { nemoFolder, readTensors } from './nemo-folder.js'
import { REPO, startRemote } from './remote-hub.js'
import { mountSmallDisk, noSmallDisk, type SmallDisk } from './small-disk.js'

const NO_SPACE = /cannot be written \(ENOSPC\): no space is left on the device: free some/

const LINES = 40
/** Bytes of an answer, each a token. */
const LONG = 2000
const batchLine = (i: number) =>
  JSON.stringify({
    custom_id: `line-${i}`,
    method: 'POST',
    url: '/v1/chat/completions',
    body: chatBody({ messages: [{ role: 'user', content: `line-${i}` }], max_tokens: LONG }),
  })

const startBatch = async (client: OpenAI) => {
  const input = Array.from({ length: LINES }, (_, i) => batchLine(i)).join('\n')
  const file = await toFile(Buffer.from(input), 'in.jsonl')
  const { id } = await client.files.create({ file, purpose: 'batch' })
  return client.batches.create({
    input_file_id: id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  })
}

const customIds = (text: string): readonly string[] =>
  text
    .trimEnd()
    .split('\n')
    .map((one) => JSON.parse(one))
    .filter(({ response }) => response.status_code === 200)
    .map(({ custom_id }) => custom_id)
    .sort()

const ALL = Array.from({ length: LINES }, (_, i) => `line-${i}`).sort()

describe('a disk that is full', { skip: noSmallDisk }, () => {
  let disk: SmallDisk
  beforeEach(() => {
    const mounted = mountSmallDisk(4)
    assert.ok(mounted)
    disk = mounted
  })
  afterEach(() => disk.close())

  test('a download says so at once, keeps what came, and goes on from there', async () => {
    const weights = randomBytes(1_500_000)
    const remote = await startRemote(
      { 'config.json': Buffer.from('{}'), 'model.safetensors': weights },
      {
        trouble: (name, response, body, start) => {
          if (name !== 'model.safetensors' || start > 0) return false
          response.writeHead(200, { 'content-length': String(body.length) })
          response.write(body.subarray(0, 400_000))
          setTimeout(() => {
            disk.fill()
            response.end(body.subarray(400_000))
          }, 300)
          return true
        },
      },
    )
    try {
      const cache = join(disk.folder, 'hub')
      const env = remote.env({ HF_HUB_CACHE: cache, HF_HOME: cache })
      const since = performance.now()
      const full = await runHere(['pull', REPO], { env })
      assert.equal(full.code, 1, full.text)
      assert.match(full.text, NO_SPACE)
      assert.match(full.text, new RegExp(cache))
      assert.doesNotMatch(full.text, /tried|Going on/)
      assert.ok(performance.now() - since < 15_000)
      disk.free()
      const { code, text } = await runHere(['pull', REPO], { env })
      assert.equal(code, 0, text)
      const ranges = remote.log.flatMap(({ range }) => range ?? [])
      assert.ok(Number(/bytes=(\d+)-/.exec(ranges.at(-1) ?? '')?.[1]) >= 400_000, ranges.join())
      const folder = text.trimEnd().split('\n').at(-1) ?? ''
      assert.ok(readFileSync(join(folder, 'model.safetensors')).equals(weights))
    } finally {
      await remote.close()
    }
  })

  test('a batch waits for space, uploads are refused, and who asks directly is answered', async () => {
    const server = await startHarness({
      dataDir: join(disk.folder, 'data'),
      stepMs: 10,
      maxNumSeqs: 4,
      info: { maxModelLen: 4096 },
    })
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
    try {
      const { id } = await startBatch(client)
      const completed = async () =>
        (await client.batches.retrieve(id)).request_counts?.completed ?? 0
      await until(async () => (await completed()) > 0, 'a line is answered')
      disk.fill()
      const waits = () =>
        server.lines.filter(({ msg }) => /^batches wait: .*full/.test(String(msg)))
      await until(() => waits().length > 0, 'the log says so')
      const refused = await client.files
        .create({ file: await toFile(Buffer.alloc(50_000, 'x'), 'b'), purpose: 'batch' })
        .catch((error: unknown) => error)
      assert.ok(refused instanceof OpenAI.APIError, String(refused))
      assert.equal(refused.status, 503)
      assert.equal(refused.code, 'disk_full')
      assert.equal((await server.post('/v1/chat/completions', chatBody())).status, 200)
      assert.equal((await fetch(`${server.url}/health`)).status, 200)
      assert.equal((await client.batches.retrieve(id)).status, 'in_progress')
      disk.free()
      await until(async () => (await client.batches.retrieve(id)).status === 'completed', 'its end')
      const { output_file_id, error_file_id } = await client.batches.retrieve(id)
      assert.equal(error_file_id ?? null, null)
      const output = await client.files.content(output_file_id ?? '')
      assert.deepEqual(customIds(await output.text()), ALL)
    } finally {
      await server.close()
    }
  })

  test('outputs of a batch that do not fit are not there, until they are whole', async () => {
    const last = `line-${LINES - 1}`
    const server = await startHarness({
      dataDir: join(disk.folder, 'data'),
      maxNumSeqs: 1,
      info: { maxModelLen: 4096 },
      stepMs: 10,
      answer: (prompt) => {
        const pieces = ['x'.repeat(LONG)]
        if (!prompt.includes(last)) return { pieces }
        // The others are in the ledger by then. This one fits too; all of them a second time do not.
        setTimeout(() => disk.fill(60_000), 600)
        return { pieces, delaySteps: 120 }
      },
    })
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
    try {
      const { id } = await startBatch(client)
      const says = /^batches wait: .*full/
      await until(() => server.lines.some(({ msg }) => says.test(String(msg))), 'the log says so')
      const waiting = await client.batches.retrieve(id)
      assert.equal(waiting.status, 'finalizing')
      assert.equal(waiting.request_counts?.completed, LINES)
      const names = () => readdirSync(join(disk.folder, 'data/files'))
      assert.deepEqual(names(), [waiting.input_file_id])
      disk.free()
      await until(async () => (await client.batches.retrieve(id)).status === 'completed', 'its end')
      const { output_file_id } = await client.batches.retrieve(id)
      const output = await client.files.content(output_file_id ?? '')
      assert.deepEqual(customIds(await output.text()), ALL)
    } finally {
      await server.close()
    }
  })

  test('a file of scores ends with whole lines, and the same command goes on', async () => {
    let asked = 0
    const server = await startHarness({
      reward: {
        score: () => {
          if (++asked === 150) disk.fill()
          return [1]
        },
      },
    })
    try {
      const input = join(disk.folder, 'in.jsonl')
      const output = join(disk.folder, 'out.jsonl')
      const rows = Array.from({ length: 300 }, (_, i) =>
        JSON.stringify({ prompt: `p${i}`, response: 'r'.repeat(200), row: i }),
      )
      writeFileSync(input, `${rows.join('\n')}\n`)
      const command = ['score', input, '-o', output, '--url', `${server.url}/v1`]
      const full = await runHere(command)
      assert.equal(full.code, 1, full.text)
      assert.match(full.text, NO_SPACE)
      disk.free()
      const again = await runHere(command)
      assert.equal(again.code, 0, again.text)
      const scored = readFileSync(output, 'utf8').trimEnd().split('\n')
      assert.deepEqual(
        scored.map((line) => JSON.parse(line).row),
        rows.map((_, i) => i),
      )
    } finally {
      await server.close()
    }
  })

  test('a file of scores whose first records do not fit is gone on with', async () => {
    let asked = 0
    const server = await startHarness({
      reward: {
        score: () => {
          if (++asked === 1) disk.fill(4096)
          return [1]
        },
      },
    })
    try {
      const [input, output] = [join(disk.folder, 'in.jsonl'), join(disk.folder, 'out.jsonl')]
      const row = JSON.stringify({ prompt: 'p', response: 'r'.repeat(200) })
      writeFileSync(input, `${row}\n`.repeat(100))
      const command = ['score', input, '-o', output, '--url', `${server.url}/v1`]
      const full = await runHere(command)
      assert.equal(full.code, 1, full.text)
      assert.match(full.text, NO_SPACE)
      assert.ok(readFileSync(output).length > 0, 'a part of them is there')
      disk.free()
      const again = await runHere(command)
      assert.equal(again.code, 0, again.text)
      assert.equal(readFileSync(output, 'utf8').trimEnd().split('\n').length, 100)
    } finally {
      await server.close()
    }
  })

  test('an import names the file, and goes on with the shards that are there', async () => {
    const out = join(disk.folder, 'out')
    mkdirSync(out)
    const folder = nemoFolder({ checkpoint: 'nemotron4' })
    const options = { shardBytes: 50_000 }
    let isFilled = false
    const onProgress = (_: string, done: number) => {
      if (done < 300_000 || isFilled) return
      isFilled = true
      disk.fill()
    }
    await assert.rejects(importNemo(folder, out, { ...options, onProgress }), NO_SPACE)
    assert.ok(!readdirSync(out).includes('config.json'))
    const whole = readdirSync(out).filter((name) => name.endsWith('.safetensors'))
    assert.ok(whole.length >= 1, 'what was written stays')
    disk.free()
    await importNemo(folder, out, options)
    const expected = readTensors(packagePath('test/golden/nemotron4'))
    const found = readTensors(out)
    assert.deepEqual([...found.keys()].sort(), [...expected.keys()].sort())
    for (const [name, { data }] of expected) assert.ok(found.get(name)?.data.equals(data), name)
  })
})
