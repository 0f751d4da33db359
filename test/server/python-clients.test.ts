// Python's clients against the embedded models: python_clients.py, where Python has them.
// NEMOTRON_TEST_PYTHON names another interpreter than python3.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { after, before, describe, test } from 'node:test'
import { packagePath } from '../../server/version.js'
import { noAddon, type RealServer, startReal } from './real-server.js'

const python = process.env.NEMOTRON_TEST_PYTHON ?? 'python3'

/** Its lines; an interpreter that is missing, as a reason to skip. */
const runScript = (url: string): Promise<{ readonly lines: string[]; readonly skip?: string }> =>
  new Promise((resolve) => {
    const args = [packagePath('test/server/python_clients.py'), url, 'tiny-reasoner']
    execFile(python, args, { timeout: 240_000 }, (error, stdout, stderr) => {
      const lines = stdout.split('\n').filter((line) => /^(OK|SKIP|FAIL) /.test(line))
      if (error?.code === 'ENOENT') resolve({ lines, skip: `${python} is not installed` })
      else resolve({ lines: error ? [...lines, `FAIL script: ${error.message}${stderr}`] : lines })
    })
  })

describe('Python clients', { skip: noAddon }, () => {
  let server: RealServer
  let outcome: Awaited<ReturnType<typeof runScript>>
  before(async () => {
    server = await startReal({ max_model_len: 1024 })
    outcome = await runScript(server.url)
  })
  after(() => server.close())

  for (const name of ['openai', 'langchain_openai', 'lm_eval'])
    test(name, (t) => {
      const line = outcome.lines.find((one) => one.split(/[ :]/)[1] === name)
      if (outcome.skip !== undefined) t.skip(outcome.skip)
      else if (line?.startsWith('SKIP ')) t.skip(line.slice(5))
      else assert.equal(line, `OK ${name}`, outcome.lines.join('\n').replaceAll('\\n', '\n'))
    })
})
