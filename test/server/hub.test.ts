import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import {
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createHub, type HubLimits, isRepoId } from '../../server/model/hub.js'
import { COMMIT, REPO, sha256, startRemote as startHub } from './remote-hub.js'

const weights = randomBytes(300_000)
const files: Record<string, Buffer> = {
  'config.json': Buffer.from('{"a": 1}'),
  'tokenizer.json': Buffer.from('{"b": 2}'),
  'model-00001-of-00002.safetensors': weights,
  'model-00002-of-00002.safetensors': randomBytes(50_000),
  'model.safetensors.index.json': Buffer.from(
    JSON.stringify({
      weight_map: { x: 'model-00001-of-00002.safetensors', y: 'model-00002-of-00002.safetensors' },
    }),
  ),
  'pytorch_model.bin': Buffer.from('not wanted'),
  'original/consolidated.pth': Buffer.from('not wanted'),
}
const startRemote = (options?: Parameters<typeof startHub>[1]) => startHub(files, options)

const quick: Partial<HubLimits> = { stallMs: 10_000, retryMs: 5, attempts: 4 }
const WANTED = Object.keys(files).filter((name) => !name.includes('/') && !name.endsWith('.bin'))

const checkWhole = async (folder: string) => {
  for (const name of WANTED) assert.deepEqual(await readFile(join(folder, name)), files[name], name)
}

describe('pull', () => {
  test("lays files out as Hugging Face's tools do, and uses what is there", async (t) => {
    const remote = await startRemote()
    t.after(() => remote.close())
    const hub = createHub(remote.env(), quick)
    assert.equal(await hub.cached(REPO), undefined)
    const seen: number[] = []
    const folder = await hub.pull(REPO, {
      onProgress: (_label, done, total) => {
        assert.ok(done <= total)
        seen.push(done / total)
      },
    })
    assert.equal(seen.at(-1), 1)
    const root = join(remote.cache, 'models--nvidia--Tiny-Model')
    assert.equal(folder, join(root, 'snapshots', COMMIT))
    await checkWhole(folder)
    const link = await readlink(join(folder, 'model-00001-of-00002.safetensors'))
    assert.equal(link, join('..', '..', 'blobs', sha256(weights)))
    assert.equal(await readFile(join(root, 'refs', 'main'), 'utf8'), COMMIT)
    await assert.rejects(stat(join(folder, 'pytorch_model.bin')))
    assert.equal(await hub.cached(REPO), folder)

    const asked = remote.log.length
    assert.equal(await hub.pull(REPO), folder)
    assert.equal(remote.log.length, asked + 1, 'only the listing')

    const offline = createHub(remote.env({ HF_HUB_OFFLINE: '1' }), quick)
    assert.equal(await offline.pull(REPO), folder)
    assert.equal(remote.log.length, asked + 1, 'nothing')
    await rm(join(folder, 'model-00002-of-00002.safetensors'))
    await assert.rejects(offline.pull(REPO), /HF_HUB_OFFLINE/)
    assert.equal(await hub.cached(REPO), undefined)
  })

  test('sizes and checksums from headers where the listing has none', async (t) => {
    const remote = await startRemote({ listing: false })
    t.after(() => remote.close())
    await checkWhole(await createHub(remote.env(), quick).pull(REPO))
    assert.ok(remote.log.some(({ method }) => method === 'HEAD'))
  })

  test('a listing says nothing of where files go', async (t) => {
    const away = '../../../away'
    const lfs = { sha256: sha256(weights), size: weights.length }
    for (const says of [
      { blobId: away, lfs: null },
      { blobId: '..', lfs: null },
      { lfs: { ...lfs, sha256: away } },
      { lfs: { ...lfs, sha256: sha256(weights).toUpperCase() } },
      { lfs: { ...lfs, size: -1 } },
      { size: 0.5 },
      { size: -1 },
    ]) {
      const remote = await startRemote({ says: () => says })
      t.after(() => remote.close())
      const pulled = createHub(remote.env(), quick).pull(REPO)
      await assert.rejects(pulled, /the hub's listing is not what it should be/)
      assert.equal(remote.log.length, 1)
      assert.deepEqual(await readdir(remote.cache), [])
    }
    for (const headers of [
      { etag: '".."', 'x-linked-etag': '".."' },
      { etag: `"${away}"`, 'x-linked-etag': `"${away}"` },
      { 'x-linked-size': '-1' },
    ]) {
      const remote = await startRemote({ listing: false, headers })
      t.after(() => remote.close())
      const pulled = createHub(remote.env(), quick).pull(REPO)
      await assert.rejects(pulled, /has no usable etag and size/)
      assert.deepEqual(await readdir(remote.cache), [])
    }
  })

  test('connections that break go on where they stopped', async (t) => {
    let broken = 0
    const remote = await startRemote({
      trouble: (name, response, body, start) => {
        if (name !== 'model-00001-of-00002.safetensors' || broken >= 6) return false
        broken++
        if (start > 0)
          response.writeHead(206, {
            'content-range': `bytes ${start}-${body.length - 1}/${body.length}`,
          })
        response.write(body.subarray(start, start + 40_000), () => response.destroy())
        return true
      },
    })
    t.after(() => remote.close())
    await checkWhole(await createHub(remote.env(), quick).pull(REPO))
    const ranges = remote.log.filter(({ range }) => range !== undefined)
    assert.ok(ranges.length >= 5, `${ranges.length} ranges`)
  })

  test('a stall is given up and tried again; a server without ranges starts over', async (t) => {
    let stalls = 0
    const remote = await startRemote({
      trouble: (name, response, body) => {
        if (name !== 'model-00001-of-00002.safetensors') return false
        if (stalls++ < 2) response.write(body.subarray(0, 1000))
        else response.writeHead(200).end(body)
        return true
      },
    })
    t.after(() => remote.close())
    await checkWhole(await createHub(remote.env(), { ...quick, stallMs: 300 }).pull(REPO))
    assert.ok(stalls >= 3)
  })

  test('corrupt content is thrown away and fetched again, but not for ever', async (t) => {
    for (const [times, works] of [
      [1, true],
      [99, false],
    ] as const) {
      let bad = 0
      const remote = await startRemote({
        trouble: (name, response, body) => {
          if (name !== 'model-00001-of-00002.safetensors' || bad >= times) return false
          bad++
          response.end(Buffer.alloc(body.length))
          return true
        },
      })
      t.after(() => remote.close())
      const hub = createHub(remote.env(), quick)
      if (works) await checkWhole(await hub.pull(REPO))
      else await assert.rejects(hub.pull(REPO), /checksum/)
      const blob = join(remote.cache, 'models--nvidia--Tiny-Model', 'blobs', sha256(weights))
      assert.equal(
        await stat(blob).then(
          () => true,
          () => false,
        ),
        works,
      )
    }
  })

  test('a corrupt small file is found too', async (t) => {
    const remote = await startRemote({
      trouble: (name, response, body) => {
        if (name !== 'config.json') return false
        response.end(Buffer.alloc(body.length, 0x20))
        return true
      },
    })
    t.after(() => remote.close())
    await assert.rejects(createHub(remote.env(), quick).pull(REPO), /checksum/)
  })

  test('what an earlier run left is completed, not fetched again', async (t) => {
    let allow = false
    const remote = await startRemote({
      trouble: (name, response, body) => {
        if (allow || name !== 'model-00001-of-00002.safetensors') return false
        response.write(body.subarray(0, 200_000))
        return true
      },
    })
    t.after(() => remote.close())
    const stop = new AbortController()
    const first = createHub(remote.env(), quick).pull(REPO, {
      signal: stop.signal,
      onProgress: (_, done, total) => {
        if (total - done === weights.length - 200_000) stop.abort(new Error('stopped'))
      },
    })
    await assert.rejects(first, /stopped/)
    allow = true
    remote.log.length = 0
    await checkWhole(await createHub(remote.env(), quick).pull(REPO))
    const again = remote.log.find(({ url }) => url.endsWith('00001-of-00002.safetensors'))
    assert.equal(again?.range, 'bytes=200000-')
  })

  test('several at once do not disturb each other', async (t) => {
    // Some connections end in the middle, some are answered from the start again.
    let asked = 0
    const remote = await startRemote({
      trouble: (name, response, body, start) => {
        if (!name.endsWith('.safetensors')) return false
        asked++
        if (asked % 3 === 0) response.writeHead(200).end(body)
        else {
          const from = Math.min(start, body.length - 1)
          response.writeHead(206, {
            'content-range': `bytes ${from}-${body.length - 1}/${body.length}`,
          })
          response.write(body.subarray(from, from + 60_000), () => response.destroy())
        }
        return true
      },
    })
    t.after(() => remote.close())
    const pulls = Array.from({ length: 6 }, (_, i) =>
      sleep(5 * i).then(() => createHub(remote.env(), quick).pull(REPO)),
    )
    const folders = await Promise.all(pulls)
    for (const folder of folders) await checkWhole(folder)
    const root = join(remote.cache, 'models--nvidia--Tiny-Model')
    assert.deepEqual(
      (await readdir(root, { recursive: true })).filter((name) =>
        /incomplete|[0-9a-f]{8}-[0-9a-f]{4}-/.test(name),
      ),
      [],
    )
  })

  test('several that find a wrong content do not disturb who begins anew', async (t) => {
    // Large enough that one finds it wrong while another has begun anew.
    const name = 'model-00001-of-00002.safetensors'
    const large = randomBytes(1 << 24)
    const remote = await startHub(
      { ...files, [name]: large },
      {
        trouble: (asked, response, body, start) => {
          if (asked !== name) return false
          const half = (start + body.length) >> 1
          response.writeHead(start === 0 ? 200 : 206, {
            'content-range': `bytes ${start}-${body.length - 1}/${body.length}`,
          })
          response.write(body.subarray(start, half))
          setTimeout(() => response.end(body.subarray(half)), 500)
          return true
        },
      },
    )
    t.after(() => remote.close())
    const blobs = join(remote.cache, 'models--nvidia--Tiny-Model', 'blobs')
    await mkdir(blobs, { recursive: true })
    await writeFile(join(blobs, `${sha256(large)}.incomplete`), Buffer.alloc(large.length))
    const pulls = Array.from({ length: 6 }, (_, i) =>
      sleep(5 * i).then(() => createHub(remote.env(), quick).pull(REPO)),
    )
    for (const folder of await Promise.all(pulls))
      assert.equal(Buffer.compare(await readFile(join(folder, name)), large), 0)
    assert.deepEqual(
      (await readdir(blobs)).filter((path) => path.endsWith('incomplete')),
      [],
    )
  })

  test('what is linked stays linked while it is pulled again', async (t) => {
    const remote = await startRemote()
    t.after(() => remote.close())
    const hub = createHub(remote.env(), quick)
    const path = join(await hub.pull(REPO), 'config.json')
    const { mtimeMs } = await lstat(path)
    await hub.pull(REPO)
    assert.equal((await lstat(path)).mtimeMs, mtimeMs)
    // One that leads elsewhere is put right.
    await rm(path)
    await symlink('elsewhere', path)
    await checkWhole(await hub.pull(REPO))
  })

  test('a server that never works is given up with its last words', async (t) => {
    const remote = await startRemote({
      trouble: (_name, response) => {
        response.writeHead(503).end()
        return true
      },
    })
    t.after(() => remote.close())
    await assert.rejects(createHub(remote.env(), quick).pull(REPO), /HTTP 503 \(tried 4 times\)/)
  })

  test('HF_TOKEN is sent; without it the error says what to do', async (t) => {
    const remote = await startRemote({ token: 'hf_secret' })
    t.after(() => remote.close())
    await assert.rejects(createHub(remote.env(), quick).pull(REPO), /HF_TOKEN/)
    await checkWhole(await createHub(remote.env({ HF_TOKEN: 'hf_secret' }), quick).pull(REPO))
    const file = await startRemote({ token: 'hf_secret' })
    t.after(() => file.close())
    await writeFile(join(file.cache, 'token'), 'hf_secret\n')
    await checkWhole(await createHub(file.env(), quick).pull(REPO))
  })

  test('a disk that is too small is told before anything is fetched', async (t) => {
    const remote = await startRemote({ claim: 1e15 })
    t.after(() => remote.close())
    await assert.rejects(
      createHub(remote.env(), quick).pull(REPO),
      /needs .* GB, but only .* GB are free/,
    )
    assert.equal(remote.log.length, 1)
  })

  test('a repository that is a NeMo checkpoint is told before anything is fetched', async (t) => {
    const nemo = { 'model_config.yaml': Buffer.from('a: 1'), 'a.model': Buffer.from('b') }
    const remote = await startHub(nemo)
    t.after(remote.close)
    await assert.rejects(
      createHub(remote.env(), quick).pull(REPO),
      /Tiny-Model: is a NeMo checkpoint, .*hf download nvidia\/Tiny-Model\).* import-nemo FOLDER OUT/,
    )
    assert.equal(remote.log.length, 1)
  })

  test('a repository without what can be served is told before anything is fetched', async (t) => {
    const config = files['config.json'] ?? Buffer.alloc(0)
    const some = Buffer.from('x')
    for (const [there, message] of [
      [
        { 'config.json': config, 'README.md': some, 'a.Q4_K_M.gguf': some, 'b.bin': some },
        /has no safetensors but GGUF files such as a\.Q4_K_M\.gguf: .*hf download nvidia\/Tiny-Model FILE/,
      ],
      [
        { 'config.json': config, 'pytorch_model.bin': some },
        /has no safetensors but pytorch_model\.bin, which is not read: save the model anew/,
      ],
      [{ 'config.json': config, 'tokenizer.json': some }, /is no model that can be served/],
      [
        { 'adapter_model.safetensors': some, 'training_args.bin': some },
        /is no model that can be served/,
      ],
    ] as const) {
      const remote = await startHub(there)
      t.after(remote.close)
      await assert.rejects(createHub(remote.env(), quick).pull(REPO), message)
      assert.equal(remote.log.length, 1)
      assert.deepEqual(await readdir(remote.cache), [])
    }
  })

  test('a template for tools comes along from its folder', async (t) => {
    const template = Buffer.from('{{ tools }}')
    const name = 'additional_chat_templates/tool_use.jinja'
    const other = { 'other/x.jinja': template, 'additional_chat_templates/x/y.jinja': template }
    const remote = await startHub({ ...files, [name]: template, ...other })
    t.after(remote.close)
    const folder = await createHub(remote.env(), quick).pull(REPO)
    assert.deepEqual(await readFile(join(folder, name)), template)
    await checkWhole(folder)
    assert.deepEqual((await readdir(folder)).sort(), [...WANTED, dirname(name)].sort())
  })

  test('unknown models, names that are none, a hub that is not there', async (t) => {
    const remote = await startRemote()
    t.after(() => remote.close())
    await assert.rejects(createHub(remote.env(), quick).pull('nvidia/none'), /not found/)
    await assert.rejects(createHub(remote.env(), quick).pull('../etc'), /no Hugging Face id/)
    const env = remote.env({ HF_ENDPOINT: 'http://127.0.0.1:9' })
    await assert.rejects(createHub(env, { ...quick, attempts: 1 }).pull(REPO), /cannot reach/)
    await assert.rejects(createHub(env, quick).pull(REPO, { revision: '' }), /a revision is/)
    for (const endpoint of ['nonsense', 'huggingface.co', 'ftp://a.example', '']) {
      const hub = createHub(remote.env({ HF_ENDPOINT: endpoint }), { ...quick, retryMs: 1e6 })
      await assert.rejects(hub.pull(REPO), /^Error: HF_ENDPOINT is the address of a hub/)
    }
    for (const name of ['a/b', 'nvidia/Llama-3.1-Nemotron-Nano-8B-v1']) assert.ok(isRepoId(name))
    for (const name of ['a', './a', '../a/b', 'a/b/c', 'a/..', '/a/b', 'a b/c'])
      assert.ok(!isRepoId(name), name)
  })

  test('whoever waits hears what is asked, what is tried again, and how far it is', async (t) => {
    let broken = 0
    const trouble = (name: string, response: ServerResponse) => {
      if (!name.startsWith('model-00001') || broken++ > 0) return false
      response.destroy()
      return true
    }
    const remote = await startRemote({ trouble })
    t.after(() => remote.close())
    const said: string[] = []
    const say = (text: string) => said.push(text)
    const onProgress = (label: string, done: number, total: number) =>
      said.push(`${label} ${done}/${total}`)
    await createHub(remote.env(), quick).pull(REPO, { say, onProgress })
    assert.match(said[0] ?? '', /^nvidia\/Tiny-Model: asking http:\S+ for its files$/)
    assert.match(said[1] ?? '', /^nvidia\/Tiny-Model 0\/\d+$/)
    assert.equal(said.filter((text) => /Going on in 0\.01 s\.$/.test(text)).length, 1)

    said.length = 0
    const env = remote.env({ HF_ENDPOINT: 'http://127.0.0.1:9' })
    await assert.rejects(createHub(env, { ...quick, attempts: 3 }).pull(REPO, { say }))
    assert.equal(said.length, 3)
    for (const text of said.slice(1))
      assert.match(text, /cannot reach .* Trying again in [\d.]+ s \(\d of 2\)\.$/)
  })

  test('what the hub does not have is told apart from what may not be read', async () => {
    const hub = createServer((request, response) => {
      const isGated = request.url?.includes('gated') === true
      response.writeHead(401, { 'x-error-code': isGated ? 'GatedRepo' : 'RepoNotFound' }).end()
    })
    await new Promise<void>((done) => hub.listen(0, '127.0.0.1', done))
    const { port } = hub.address() as AddressInfo
    const env = { HF_ENDPOINT: `http://127.0.0.1:${port}`, HF_HOME: tmpdir() }
    const pull = (repo: string, more = {}) => createHub({ ...env, ...more }, quick).pull(repo)
    await assert.rejects(pull('m/tipo'), /not found on the hub .* or not public/)
    await assert.rejects(pull('m/tipo', { HF_TOKEN: 'x' }), /not found on the hub .*Is the name/)
    await assert.rejects(pull('m/gated'), /access refused .* set HF_TOKEN/)
    hub.close()
  })
})
