// A step loop that stands still: health says where, and the log what was running, once.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { watchStalls } from '../../server/api/stall.js'
import { chatBody, readAnswer, startHarness, until } from './harness.js'

test('health names the step and the rank, the log the requests; once a stall', async () => {
  const harness = await startHarness({
    config: { stallTimeout: 8 },
    answer: () => ({ pieces: ['never'], delaySteps: 1e9 }),
  })
  const stop = watchStalls(harness.server)
  const { override } = harness.engine
  try {
    const secret = 'a prompt that nobody may read in a log'
    const messages = [{ role: 'user', content: secret }]
    const controller = new AbortController()
    const under = fetch(`${harness.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-request-id': 'req_stuck' },
      body: JSON.stringify(chatBody({ messages })),
      signal: controller.signal,
    }).catch(() => {})
    await until(() => harness.engine.requests.length === 1, 'it runs')
    Object.assign(override, { lastStepAge: 9.24, launchedRows: 512, launchedSeqs: 3 })
    override.rankLayers = [12, 11, 12]
    const health = await fetch(`${harness.url}/health`)
    assert.equal(health.status, 503)
    const { phase, message } = await readAnswer(health)
    assert.equal(phase, 'stalled')
    assert.match(
      message,
      /no progress for 9\.2 s in a step of 512 tokens of 3 sequences, rank 1 after layer 11\.$/,
    )
    const dumps = () => harness.lines.filter(({ rank_layers }) => rank_layers !== undefined)
    await until(() => dumps().length > 0, 'a dump')
    await new Promise((done) => setTimeout(done, 1200))
    assert.equal(dumps().length, 1)
    const [line] = dumps()
    assert.deepEqual(line?.rank_layers, [12, 11, 12])
    assert.equal(line?.step_tokens, 512)
    assert.equal(line?.drafting, false)
    const { requests } = JSON.parse(JSON.stringify(line))
    assert.equal(requests.length, 1)
    assert.equal(requests[0].request_id, 'req_stuck')
    assert.equal(requests[0].path, '/v1/chat/completions')
    assert.ok(requests[0].seconds >= 0)
    assert.ok(!JSON.stringify(harness.lines).includes(secret))

    override.lastStepAge = 0
    const ends = () => harness.lines.filter(({ msg }) => msg === 'it makes steps again').length
    await until(() => ends() > 0, 'an end')
    assert.equal((await fetch(`${harness.url}/health`)).status, 200)
    await new Promise((done) => setTimeout(done, 1200))
    assert.equal(ends(), 1)
    Object.assign(override, { lastStepAge: 9, drafting: true, launchedRows: 4, rankLayers: [2] })
    await until(() => dumps().length === 2, 'a dump of the second stall')
    assert.equal(dumps()[1]?.drafting, true)
    assert.match(
      String(dumps()[1]?.msg),
      /in a step of the draft model: 4 tokens of 3 sequences, after layer 2\.$/,
    )
    controller.abort()
    await under
    await until(() => harness.server.live.size === 0, 'nothing is under way')
  } finally {
    stop()
    await harness.close()
  }
})
