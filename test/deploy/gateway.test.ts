// What a gateway reads to choose a server. The names, types and labels are those of the model server protocol of
// Gateway API Inference Extension, as its endpoint picker and llm-d's are set for vLLM.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chatBody, startHarness } from '../server/harness.js'

type Family = { type: string; samples: { labels: Record<string, string>; value: number }[] }

const familiesOf = (text: string): ReadonlyMap<string, Family> => {
  const families = new Map<string, Family>()
  for (const line of text.split('\n')) {
    const [, named, type] = /^# TYPE (\S+) (\w+)$/.exec(line) ?? []
    if (named !== undefined && type !== undefined) families.set(named, { type, samples: [] })
    const [, name = '', labels = '', value] = /^([\w:]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? []
    families.get(name)?.samples.push({
      labels: Object.fromEntries(
        [...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key = '', text = '']) => [key, text]),
      ),
      value: Number(value),
    })
  }
  return families
}

/** Of the protocol: what it is called for vLLM now, and before vLLM 0.10. */
const GAUGES = {
  TotalQueuedRequests: ['vllm:num_requests_waiting'],
  TotalRunningRequests: ['vllm:num_requests_running'],
  KVCacheUtilization: ['vllm:kv_cache_usage_perc', 'vllm:gpu_cache_usage_perc'],
}

test('an endpoint picker finds every gauge of the protocol, with one sample a model', async () => {
  const harness = await startHarness({
    answer: () => ({ pieces: ['never'], delaySteps: 1e9 }),
    maxNumSeqs: 1,
  })
  const gone = new AbortController()
  try {
    const ask = () =>
      fetch(`${harness.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(chatBody()),
        signal: gone.signal,
      }).catch(() => {})
    const asked = [ask(), ask(), ask()]
    while (harness.engine.requests.length < 3) await new Promise((done) => setTimeout(done, 5))
    harness.engine.override.blocksUsed = 16
    const families = familiesOf(await (await fetch(`${harness.url}/metrics`)).text())
    for (const names of Object.values(GAUGES))
      for (const name of names) {
        const family = families.get(name)
        assert.equal(family?.type, 'gauge', name)
        assert.equal(family.samples.length, 1, name)
        assert.equal(family.samples[0]?.labels.model_name, harness.model.id, name)
      }
    const figure = (name: string): number | undefined => families.get(name)?.samples[0]?.value
    assert.equal(figure('vllm:num_requests_running'), 1)
    assert.equal(figure('vllm:num_requests_waiting'), 2)
    // A share from 0 to 1, whatever the name says.
    assert.equal(figure('vllm:kv_cache_usage_perc'), 16 / harness.engine.stats().blocksTotal)
    assert.equal(figure('vllm:gpu_cache_usage_perc'), figure('vllm:kv_cache_usage_perc'))
    gone.abort()
    await Promise.all(asked)
  } finally {
    gone.abort()
    await harness.close()
  }
})

test('a picker can send no key: with open_metrics it needs none, and all else does', async () => {
  const statuses = async (openMetrics: boolean): Promise<readonly number[]> => {
    const harness = await startHarness({ config: { apiKeys: ['secret'], openMetrics } })
    try {
      const asked = ['/metrics', '/v1/models'].map(async (path) => {
        const answer = await fetch(`${harness.url}${path}`)
        await answer.arrayBuffer()
        return answer.status
      })
      return await Promise.all(asked)
    } finally {
      await harness.close()
    }
  }
  assert.deepEqual(await statuses(false), [401, 401])
  assert.deepEqual(await statuses(true), [200, 401])
})

test('the prefix scorer finds the size and the number of blocks as labels', async () => {
  const harness = await startHarness()
  try {
    const families = familiesOf(await (await fetch(`${harness.url}/metrics`)).text())
    const info = families.get('vllm:cache_config_info')
    assert.equal(info?.type, 'gauge')
    const { plan } = harness.engine.info
    assert.deepEqual(
      info.samples.map(({ labels }) => [labels.block_size, labels.num_gpu_blocks]),
      [[String(plan.blockSize), String(plan.numBlocks)]],
    )
  } finally {
    await harness.close()
  }
})

test('the labels of the cache are its settings, in the words of vLLM', async () => {
  for (const [cache, dtype, prefixes] of [
    [{ kvCacheDtype: 'auto', prefixCache: true }, 'auto', 'True'],
    [{ kvCacheDtype: 'fp8', prefixCache: false }, 'fp8', 'False'],
  ] as const) {
    const harness = await startHarness({ cache })
    try {
      const families = familiesOf(await harness.server.metrics.text())
      const labels = families.get('vllm:cache_config_info')?.samples[0]?.labels
      assert.equal(labels?.cache_dtype, dtype)
      assert.equal(labels.enable_prefix_caching, prefixes)
    } finally {
      await harness.close()
    }
  }
})

test('the counters and histograms that llm-d plots are there', async () => {
  const harness = await startHarness()
  try {
    await (await harness.post('/v1/chat/completions', chatBody())).arrayBuffer()
    const families = familiesOf(await (await fetch(`${harness.url}/metrics`)).text())
    for (const [name, type] of [
      ['vllm:prompt_tokens_total', 'counter'],
      ['vllm:generation_tokens_total', 'counter'],
      ['vllm:request_success_total', 'counter'],
      ['vllm:prefix_cache_queries_total', 'counter'],
      ['vllm:prefix_cache_hits_total', 'counter'],
      ['vllm:time_to_first_token_seconds', 'histogram'],
      ['vllm:inter_token_latency_seconds', 'histogram'],
      ['vllm:time_per_output_token_seconds', 'histogram'],
      ['vllm:e2e_request_latency_seconds', 'histogram'],
      ['vllm:request_queue_time_seconds', 'histogram'],
      ['vllm:request_prefill_time_seconds', 'histogram'],
    ] as const)
      assert.equal(families.get(name)?.type, type, name)
  } finally {
    await harness.close()
  }
})
