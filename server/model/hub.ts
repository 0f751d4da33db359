// Hugging Face's hub and its cache: the same folders, names and links as its own tools, so that what
// they downloaded is used, and what we download they find.

import { randomUUID } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import {
  mkdir,
  readFile,
  readlink,
  rename,
  stat,
  statfs,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { z } from 'zod'
import { messageOf } from '../failure.js'
import { DownloadError, download, partialSize } from './download.js'

type PullOptions = {
  readonly revision?: string
  readonly onProgress?: (label: string, done: number, total: number) => void
  /** What a person who waits wants to know besides: what is asked, and what is tried again. */
  readonly say?: (text: string) => void
  readonly signal?: AbortSignal
}

type Hub = {
  readonly endpoint: string
  readonly cache: string
  readonly offline: boolean
  /** The folder of a complete snapshot, without asking anyone. */
  readonly cached: (repo: string, revision?: string) => Promise<string | undefined>
  /** Downloads what is missing and returns the folder. */
  readonly pull: (repo: string, options?: PullOptions) => Promise<string>
}

export type HubLimits = {
  readonly parallel: number
  readonly stallMs: number
  readonly attempts: number
  readonly retryMs: number
}

class HubError extends Error {}

const PART = /^[A-Za-z0-9][\w.-]*$/

/** `org/name`, as the hub writes it. */
export const isRepoId = (name: string): boolean => {
  const parts = name.split('/')
  return parts.length === 2 && parts.every((part) => PART.test(part) && !part.includes('..'))
}

/** What serving needs; weights in other formats stay where they are. */
const isWanted = (path: string): boolean =>
  /^(?:[^/]+\.(?:json|jinja|safetensors|txt|model)|additional_chat_templates\/[^/]+\.jinja)$/.test(
    path,
  ) && !path.startsWith('consolidated')

const truthy = (text: string | undefined): boolean =>
  ['1', 'true', 'yes', 'on'].includes((text ?? '').toLowerCase())

const readToken = (env: NodeJS.ProcessEnv, home: string): string | undefined => {
  const given = env.HF_TOKEN ?? env.HUGGING_FACE_HUB_TOKEN
  if (given !== undefined && given.trim() !== '') return given.trim()
  const path = env.HF_TOKEN_PATH ?? join(home, 'token')
  return existsSync(path) ? readFileSync(path, 'utf8').trim() || undefined : undefined
}

const Size = z.int().min(0)

/** Checksums are names of files in the cache. */
const Revision = z.looseObject({
  sha: z.string().regex(/^[0-9a-f]{7,64}$/i),
  siblings: z.array(
    z.looseObject({
      rfilename: z.string(),
      size: Size.nullish(),
      blobId: z
        .string()
        .regex(/^[0-9a-f]{40}$/)
        .nullish(),
      lfs: z.looseObject({ sha256: z.string().regex(/^[0-9a-f]{64}$/), size: Size }).nullish(),
    }),
  ),
})

type RemoteFile = { readonly path: string; readonly size: number; readonly etag: string }

const cleanTag = (tag: string): string => tag.replace(/^W\//, '').replace(/^"|"$/g, '')

/** To those who show no token the hub says 401 of what it does not have, as of what they may not read. */
const explain = (response: Response, repo: string, url: string, hasToken: boolean): HubError => {
  const { status, headers } = response
  const missing = headers.get('x-error-code') === 'RepoNotFound'
  if (status === 404 || (missing && hasToken))
    return new HubError(`${repo}: not found on the hub (${url}). Is the name right?`)
  if (missing)
    return new HubError(
      `${repo}: not found on the hub (${url}), or not public. Is the name right? A private model needs HF_TOKEN.`,
    )
  if (status === 401 || status === 403)
    return new HubError(
      `${repo}: access refused (HTTP ${status}). ${hasToken ? 'The token in HF_TOKEN may not read it: accept the licence on its page first.' : 'Accept the licence on its page and set HF_TOKEN.'}`,
    )
  return new HubError(`${repo}: the hub answered HTTP ${status} (${url})`)
}

const giga = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`

const isFile = async (path: string, size?: number): Promise<boolean> => {
  const found = await stat(path).catch(() => undefined)
  return found?.isFile() === true && (size === undefined || found.size === size)
}

/** Has config, tokenizer and every shard of the weights. */
const isComplete = async (folder: string): Promise<boolean> => {
  const has = (name: string) => isFile(join(folder, name))
  if (!(await has('config.json'))) return false
  if (!(await has('tokenizer.json')) && !(await has('tokenizer.model'))) return false
  const index = await readFile(join(folder, 'model.safetensors.index.json'), 'utf8').catch(() => '')
  if (index === '') return has('model.safetensors')
  const map = z
    .looseObject({ weight_map: z.record(z.string(), z.string()) })
    .safeParse(JSON.parse(index))
  if (!map.success) return false
  const there = await Promise.all([...new Set(Object.values(map.data.weight_map))].map(has))
  return there.every(Boolean)
}

const LIMITS: HubLimits = { parallel: 4, stallMs: 30_000, attempts: 6, retryMs: 500 }

/** Where to ask, as whom, and how patiently. */
type Site = HubLimits & {
  readonly endpoint: string
  readonly cache: string
  readonly headers: Readonly<Record<string, string>>
  readonly hasToken: boolean
  readonly say: (text: string) => void
}

/** A small request; passing troubles are tried again. */
const ask = async (site: Site, repo: string, url: string, init: RequestInit): Promise<Response> => {
  const { headers, stallMs, attempts, retryMs, say } = site
  for (let tries = 1; ; tries++) {
    let trouble: string
    try {
      const signal = AbortSignal.timeout(stallMs)
      const response = await fetch(url, { ...init, headers, signal })
      if (response.status < 500 && response.status !== 429) return response
      trouble = `HTTP ${response.status}`
    } catch (error) {
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
      trouble = messageOf(cause)
    }
    if (tries >= attempts) throw new HubError(`${repo}: cannot reach ${url}: ${trouble}`)
    const waitMs = retryMs * 2 ** tries
    say(
      `${repo}: cannot reach ${url}: ${trouble}. Trying again in ${waitMs / 1000} s (${tries} of ${attempts - 1}).`,
    )
    await new Promise((done) => setTimeout(done, waitMs))
  }
}

const fileUrl = ({ endpoint }: Site, repo: string, commit: string, path: string): string =>
  `${endpoint}/${repo}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`

/** Size and checksum, from the listing or, where that has none, from the file's own headers. */
const describe = async (
  site: Site,
  repo: string,
  commit: string,
  sibling: z.output<typeof Revision>['siblings'][number],
): Promise<RemoteFile> => {
  const { rfilename: path, lfs, size, blobId } = sibling
  if (lfs) return { path, size: lfs.size, etag: lfs.sha256 }
  if (typeof size === 'number' && typeof blobId === 'string') return { path, size, etag: blobId }
  const url = fileUrl(site, repo, commit, path)
  const response = await ask(site, repo, url, { method: 'HEAD', redirect: 'manual' })
  if (response.status >= 400) throw explain(response, repo, url, site.hasToken)
  const etag = cleanTag(response.headers.get('x-linked-etag') ?? response.headers.get('etag') ?? '')
  const length = response.headers.get('x-linked-size') ?? response.headers.get('content-length')
  if (!/^\w[\w.-]*$/.test(etag) || !/^\d+$/.test(length ?? ''))
    throw new HubError(`${repo}: ${path} has no usable etag and size (${url})`)
  return { path, size: Number(length), etag }
}

/** What there is instead of what could be served, and what can be done with it. */
const unservable = (repo: string, names: readonly string[]): HubError => {
  const hasTensors = names.some((name) => name.endsWith('.safetensors'))
  const find = (end: RegExp) => (hasTensors ? undefined : names.find((name) => end.test(name)))
  const gguf = find(/\.gguf$/)
  if (gguf !== undefined)
    return new HubError(
      `${repo}: has no safetensors but GGUF files such as ${gguf}: download one (hf download ${repo} FILE) and serve it by its path`,
    )
  const pickled = find(/\.(?:bin|pth?)$/)
  return new HubError(
    pickled === undefined
      ? `${repo}: is no model that can be served, which is a config.json and safetensors`
      : `${repo}: has no safetensors but ${pickled}, which is not read: save the model anew as safetensors (save_pretrained of transformers does)`,
  )
}

const list = async (site: Site, repo: string, revision: string) => {
  const url = `${site.endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`
  const response = await ask(site, repo, url, {})
  if (!response.ok) throw explain(response, repo, url, site.hasToken)
  const parsed = Revision.safeParse(await response.json().catch(() => undefined))
  if (!parsed.success)
    throw new HubError(`${repo}: the hub's listing is not what it should be (${url})`)
  const { sha, siblings } = parsed.data
  const has = (name: string) => siblings.some(({ rfilename }) => rfilename === name)
  if (!has('config.json') && has('model_config.yaml'))
    throw new HubError(
      `${repo}: is a NeMo checkpoint, which is not served as it is: download all of it (hf download ${repo}), and make a checkpoint of its folder: nemotron-server import-nemo FOLDER OUT`,
    )
  const wanted = siblings.filter(({ rfilename }) => isWanted(rfilename))
  if (!has('config.json') || !wanted.some(({ rfilename }) => rfilename.endsWith('.safetensors')))
    throw unservable(
      repo,
      siblings.map(({ rfilename }) => rfilename),
    )
  const files = await Promise.all(wanted.map((one) => describe(site, repo, sha, one)))
  return { commit: sha, files }
}

const checkSpace = async ({ cache }: Site, needed: number): Promise<void> => {
  const disk = await statfs(cache)
  const free = disk.bavail * disk.bsize
  if (needed > free)
    throw new HubError(`${cache}: needs ${giga(needed)}, but only ${giga(free)} are free`)
}

const blobPath = (folder: string, file: RemoteFile): string => join(folder, 'blobs', file.etag)

/** What is there is replaced at once: others may be reading it. */
const replace = async (path: string, make: (fresh: string) => Promise<void>): Promise<void> => {
  await mkdir(dirname(path), { recursive: true })
  const fresh = `${path}.${randomUUID()}`
  await make(fresh)
  await rename(fresh, path)
}

const link = async (folder: string, commit: string, file: RemoteFile): Promise<void> => {
  const path = join(folder, 'snapshots', commit, file.path)
  const target = relative(dirname(path), blobPath(folder, file))
  if ((await readlink(path).catch(() => undefined)) === target) return
  await replace(path, (fresh) => symlink(target, fresh))
}

type Wanted = {
  readonly repo: string
  readonly commit: string
  readonly files: readonly RemoteFile[]
  readonly folder: string
}

/** Fetches the contents that are not there yet, several at a time, the largest first. */
const fetchBlobs = async (
  site: Site,
  { repo, commit, files, folder }: Wanted,
  { onProgress = () => {}, signal }: PullOptions,
): Promise<void> => {
  const blobs = [...new Map(files.map((file) => [file.etag, file])).values()]
  const total = blobs.reduce((sum, file) => sum + file.size, 0)
  const missing: RemoteFile[] = []
  let done = 0
  for (const file of blobs) {
    const path = blobPath(folder, file)
    const isThere = await isFile(path, file.size)
    if (!isThere) missing.push(file)
    done += isThere ? file.size : await partialSize(path)
  }
  await checkSpace(site, total - done)
  missing.sort((a, b) => b.size - a.size)
  onProgress(repo, done, total)
  const onBytes = (bytes: number) => {
    done += bytes
    onProgress(repo, Math.min(done, total), total)
  }
  const fetchNext = async (): Promise<void> => {
    for (let file = missing.shift(); file !== undefined; file = missing.shift()) {
      const { path, size, etag } = file
      const url = fileUrl(site, repo, commit, path)
      await download({ ...site, url, target: blobPath(folder, file), size, etag, signal, onBytes })
    }
  }
  await Promise.all(Array.from({ length: site.parallel }, fetchNext)).catch((error) => {
    missing.length = 0
    throw error instanceof DownloadError ? new HubError(`${repo}: ${error.message}`) : error
  })
}

/** What can never be asked is said at once, by the name of the variable. */
const checkEndpoint = (endpoint: string): void => {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined
  if (url?.protocol !== 'https:' && url?.protocol !== 'http:')
    throw new HubError(
      `HF_ENDPOINT is the address of a hub, such as https://huggingface.co; found '${endpoint}'`,
    )
}

export const createHub = (env: NodeJS.ProcessEnv, limits: Partial<HubLimits> = {}): Hub => {
  const home = env.HF_HOME ?? join(env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface')
  const offline = truthy(env.HF_HUB_OFFLINE) || truthy(env.TRANSFORMERS_OFFLINE)
  const token = readToken(env, home)
  const site: Site = {
    ...LIMITS,
    ...limits,
    endpoint: (env.HF_ENDPOINT ?? 'https://huggingface.co').replace(/\/+$/, ''),
    cache: env.HF_HUB_CACHE ?? env.HUGGINGFACE_HUB_CACHE ?? join(home, 'hub'),
    headers: {
      'user-agent': 'nemotron-server',
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    },
    hasToken: token !== undefined,
    say: () => {},
  }
  const { endpoint, cache } = site
  const folderOf = (repo: string): string => join(cache, `models--${repo.replaceAll('/', '--')}`)

  const cached = async (repo: string, revision = 'main'): Promise<string | undefined> => {
    const folder = folderOf(repo)
    const commit = await readFile(join(folder, 'refs', revision), 'utf8').catch(() => revision)
    const snapshot = join(folder, 'snapshots', commit.trim())
    return (await isComplete(snapshot)) ? snapshot : undefined
  }

  const pull = async (repo: string, options: PullOptions = {}): Promise<string> => {
    const { revision = 'main' } = options
    if (!isRepoId(repo)) throw new HubError(`'${repo}' is no Hugging Face id such as nvidia/NAME`)
    if (revision === '')
      throw new HubError('a revision is a branch, a tag or a commit, not nothing')
    if (offline) {
      const there = await cached(repo, revision)
      if (there !== undefined) return there
      throw new HubError(
        `${repo} is not (wholly) in ${cache}, and HF_HUB_OFFLINE forbids to fetch it`,
      )
    }
    const { say = site.say } = options
    checkEndpoint(endpoint)
    say(`${repo}: asking ${endpoint} for its files`)
    const asked = { ...site, say }
    const { commit, files } = await list(asked, repo, revision)
    const folder = folderOf(repo)
    await mkdir(join(folder, 'blobs'), { recursive: true })
    await fetchBlobs(asked, { repo, commit, files, folder }, options)
    for (const file of files) await link(folder, commit, file)
    await replace(join(folder, 'refs', revision), (fresh) => writeFile(fresh, commit))
    return join(folder, 'snapshots', commit)
  }

  return { endpoint, cache, offline, cached, pull }
}
