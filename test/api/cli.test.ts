import assert from 'node:assert/strict'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { pino } from 'pino'
import { benchGguf } from '../../bench/peers/gguf.js'
import { benchModel } from '../../bench/random-model.js'
import { shapeNamed } from '../../bench/shapes.js'
import { startServer } from '../../server/server.js'
import { readSettings } from '../../server/settings/read.js'
import { NO_PROGRESS } from '../../server/terminal.js'
import { packagePath, VERSION } from '../../server/version.js'
import { runHere, startCommand } from '../server/command.js'
import { tinyCheckpoint } from './tiny_checkpoint.js'

const model = tinyCheckpoint()

const generate = (...args: string[]) => [
  'generate',
  '--raw',
  '--model',
  model,
  '--device',
  'cpu',
  ...args,
]

describe('nemotron-server', () => {
  test('says its version and its commands', async () => {
    assert.equal((await startCommand(['--version']).ended).out, `${VERSION}\n`)
    const { out } = await runHere(['--help'])
    for (const name of ['serve', 'generate', 'pull', 'info']) assert.match(out, new RegExp(name))
  })

  test('shows no key in its help', async () => {
    const { out } = await runHere(['--help'])
    const names = [...out.matchAll(/^ {2}([a-z-]+) .*<|^ {2}([a-z-]+) \[/gm)].map(
      ([, one, other]) => one ?? other ?? '',
    )
    assert.ok(
      ['serve', 'eval', 'score', 'generate-pairs', 'batch'].every((one) => names.includes(one)),
    )
    const key = 'sk-1234'
    const env = { OPENAI_API_KEY: key, NEMOTRON_API_KEY: key, HF_TOKEN: key }
    for (const name of names) {
      // What a flag's value may be in is read by a package.
      const help = await startCommand([name, '--help'], { env }).ended
      assert.equal(help.code, 0, help.err)
      assert.ok(!help.out.includes(key), name)
      if (help.out.includes('--url'))
        assert.match(help.out, /--api-key <key> +for --url \(env: OPENAI_API_KEY\)/)
    }
  })

  test('generate streams the text, and says the plan and the times beside it', async () => {
    const { code, out, err } = await runHere(
      generate('--temperature', '0', '--max-tokens', '20', '--ignore-eos', 'Hello'),
    )
    assert.equal(code, 0, err)
    assert.ok(out.length > 1)
    assert.match(err, /^weights .*\nKV cache /m)
    // "Hello" and the token in front of it, in 256 bytes and no merges.
    assert.match(err, /6 prompt tokens in .*, 20 generated in .* tokens\/s\), ended by length/)
    const again = await runHere(
      generate('--temperature', '0', '--max-tokens', '20', '--ignore-eos', '--quiet', 'Hello'),
    )
    assert.deepEqual([again.code, again.out, again.err], [0, out, ''])
  })

  test('generate parses special tokens and does not double the leading one', async () => {
    const prompt = '<|begin_of_text|>Hi<|eot_id|>'
    const { err } = await runHere(generate('--max-tokens', '1', prompt))
    assert.match(err, /4 prompt tokens/)
  })

  test('generate --system asks by the chat template', async () => {
    const reasoner = packagePath('models/tiny/tiny-reasoner')
    const question = 'How many r in strawberry?'
    const flags = ['--model', reasoner, '--device', 'cpu', '--quiet']
    const system = ['--system', 'detailed thinking on']
    const { out, err } = await runHere(['generate', ...flags, ...system, question])
    assert.equal(err, '')
    assert.match(out, /^<think>\n[^<]*<\/think>\n\n[^<]*\b3\b[^<]*\n$/)
  })

  test('one model over several machines is refused by the names it has elsewhere', async () => {
    for (const args of [
      ['--nnodes', '2'],
      ['--node-rank=1'],
      ['--pipeline-parallel-size', '2'],
      ['--headless'],
    ]) {
      const { code, err } = await runHere(['serve', ...args])
      assert.equal(code, 1)
      const name = args[0]?.split('=')[0]
      assert.match(
        err,
        new RegExp(`^error: ${name}: a server is on one machine\\. --tensor-parallel-size`),
      )
    }
  })

  test('generate answers as a server does, without a word about the model too', async () => {
    const question = 'How many r in strawberry?'
    const settings = readSettings({ model: [], port: '0', device: 'cpu' }, {})
    const log = pino({ level: 'silent' })
    const serving = await startServer({ settings, log, progress: NO_PROGRESS, tell: () => {} })
    await serving.ready
    const ask = async (more: object): Promise<string> => {
      const messages = [{ role: 'user', content: question }]
      const response = await fetch(`${serving.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          model: 'tiny-reasoner',
          messages,
          reasoning_format: 'none',
          ...more,
        }),
      })
      const { choices } = (await response.json()) as {
        choices: { message: { content: string } }[]
      }
      return choices[0]?.message.content ?? ''
    }
    const flags = ['generate', '--quiet', '--device', 'cpu']
    for (const [more, fields] of [
      [[], {}],
      [['--reasoning-effort', 'high', '--seed', '7'], { reasoning_effort: 'high', seed: 7 }],
      [['--max-tokens', '3', '--temperature', '0'], { max_tokens: 3, temperature: 0 }],
    ] as const) {
      const { out, err } = await runHere([...flags, ...more, question])
      assert.equal(err, '')
      assert.equal(out, `${await ask(fields)}\n`)
    }
    await serving.drain()
  })

  test('generate reads standard input for -', async () => {
    const args = generate('--max-tokens', '2', '-')
    const { code, err } = await runHere(args, { input: 'Hello there' })
    assert.equal(code, 0)
    assert.match(err, /12 prompt tokens/)
    const wrong = await runHere(args, { input: Buffer.from([0x48, 0xff]) })
    assert.equal(wrong.code, 1)
    assert.match(wrong.err, /^error: standard input is not valid UTF-8: convert it first\n$/)
  })

  test('Ctrl-C ends generate cleanly with what there is', async () => {
    // So long that it does not end by itself before it is told to.
    const long = tinyCheckpoint({ config: { max_position_embeddings: 65_536 } })
    const args = ['generate', '--raw', '--model', long, '--device', 'cpu', '--max-tokens', '60000']
    const how = ['--ignore-eos', '--temperature', '1', 'Hello']
    const { child, ended } = startCommand([...args, ...how])
    child.stdout.once('data', () => child.kill('SIGINT'))
    const { code, out, err } = await ended
    assert.equal(code, 130, err)
    assert.ok(out.endsWith('\n'))
    assert.match(err, /ended by abort/)
  })

  test('info says what a checkpoint is and what it needs', async () => {
    const { code, out } = await runHere(['info', model])
    assert.equal(code, 0)
    assert.match(out, /^architecture +LlamaForCausalLM$/m)
    assert.match(out, /^weights +BF16/m)
    assert.match(out, /80 GB \(H100\) +1 +[\d.]+ MiB, [\d.]+ M/)
    const parsed = JSON.parse((await runHere(['info', '--json', model])).out)
    assert.equal(parsed.config.vocab, 320)
    assert.equal(parsed.parameters, parsed.bytes / 2)
    assert.deepEqual(parsed.config.generation, { greedy: false })
    const tiny = packagePath('models/tiny/tiny-reasoner')
    const { config } = JSON.parse((await runHere(['info', '--json', tiny])).out)
    assert.deepEqual(config.generation, { temperature: 0.6, topP: 0.95, greedy: false })
  })

  test('a model that the package carries is known by its name to every command', async () => {
    const { code, out } = await runHere(['info', 'tiny-reasoner'])
    assert.equal(code, 0)
    assert.match(out, /^architecture +LlamaForCausalLM$/m)
    const asked = ['generate', '--device', 'cpu', '--max-tokens', '1', '--quiet', 'Hi']
    assert.equal((await runHere([...asked, '--model', 'tiny-reasoner'])).code, 0)
    const draft = await runHere(['info', 'tiny-reasoner', '--draft-model', 'tiny-reasoner'])
    assert.match(draft.out, /draft model/)
    const reward = await runHere([...asked, '--model', 'tiny-reward'])
    assert.match(reward.err, /'tiny-reward' is a reward model/)
  })

  test('a name that is none says which there are', async () => {
    for (const args of [
      ['info', 'tiny-raesoner'],
      ['check', 'tiny-raesoner', '--dtype', 'int8'],
      ['generate', '--model', 'tiny-raesoner', 'Hi'],
      ['serve', '--port', '0', '--model', 'tiny-raesoner'],
    ]) {
      const { code, err } = await runHere(args)
      assert.equal(code, 1)
      assert.match(err, /tiny-raesoner: no such folder.*\(tiny-reasoner, tiny-reward\)/)
    }
  })

  test('info by the id of a model that was pulled', async () => {
    const hub = mkdtempSync(join(tmpdir(), 'nemotron-hub-'))
    const env = { HF_HUB_CACHE: hub, HF_HUB_OFFLINE: '1' }
    const id = 'nvidia/Llama-3.1-Nemotron-Nano-8B-v1'
    const missing = await runHere(['info', id], { env })
    assert.equal(missing.code, 1)
    assert.match(missing.err, new RegExp(`^error: ${id}: .* nemotron-server pull ${id} downloads`))
    const cached = join(hub, `models--${id.replace('/', '--')}`)
    mkdirSync(join(cached, 'refs'), { recursive: true })
    writeFileSync(join(cached, 'refs/main'), 'c0ffee')
    cpSync(model, join(cached, 'snapshots/c0ffee'), { recursive: true })
    const { code, out } = await runHere(['info', id], { env })
    assert.equal(code, 0)
    assert.match(out, /^model +Llama-3.1-Nemotron-Nano/m)
    assert.match(out, /^architecture +LlamaForCausalLM$/m)
    rmSync(hub, { recursive: true })
  })

  test('info of a GGUF file; serve names a tokenizer that it does not know', async () => {
    const shape = shapeNamed('tiny')
    const path = benchGguf(benchModel(shape), shape)
    const { code, out } = await runHere(['info', path])
    assert.equal(code, 0)
    assert.match(out, /^weights +BF16, 3.5 MiB in 21 tensors/m)
    assert.match(out, /tokens of keys/)
    const folder = mkdtempSync(join(tmpdir(), 'nemotron-gguf-'))
    const other = join(folder, 'tiny.gguf')
    writeFileSync(other, readFileSync(path, 'latin1').replace('llama-bpe', 'olmo-plus'), 'latin1')
    const serve = await runHere(['serve', '--port', '0', '--model', other])
    rmSync(folder, { recursive: true })
    assert.equal(serve.code, 1)
    assert.match(serve.err, /tiny.gguf: tokenizer.ggml.pre is "olmo-plus"; served: llama-bpe/)
  })

  test('a misspelt flag is said, not that the right one is missing', async () => {
    for (const name of ['score', 'generate-pairs', 'batch']) {
      const misspelt = await runHere([name, '/nowhere', '--otput', '/nowhere'])
      assert.equal(misspelt.code, 1)
      assert.match(misspelt.err, /unknown option '--otput'\n\(Did you mean --output\?\)/, name)
      const missing = await runHere([name, '/nowhere'])
      assert.equal(missing.code, 1)
      assert.match(missing.err, /required option '-o, --output <file>' not specified/, name)
    }
  })

  test('an empty name of a model is said to be one', async () => {
    for (const args of [
      ['info', ''],
      ['check', ''],
    ])
      assert.match(
        (await runHere(args)).err,
        /Hugging Face id such as .*, and the name given is empty/,
      )
  })

  test('a misspelt variable is said by every command', async () => {
    const env = { NEMOTRON_PROT: '1', HF_HUB_OFFLINE: '1' }
    const said = 'NEMOTRON_PROT is set and nothing reads it (did you mean NEMOTRON_PORT?)'
    for (const args of [
      ['info', '/nowhere'],
      ['pull', 'nvidia/nothing'],
      ['generate', '--model', '/nowhere', 'x'],
      ['score', '/nowhere', '-o', '/nowhere'],
      ['generate-pairs', '/nowhere', '-o', '/nowhere'],
      ['eval', '/nowhere'],
    ]) {
      const { err } = await runHere(args, { env })
      assert.ok(err.includes(`warning: ${said}\n`), `${args[0]}: ${err}`)
    }
    const serve = ['serve', '--port', '0', '--model', '/nowhere']
    const { out } = await startCommand(serve, { env }).ended
    assert.ok(out.includes(said), out)
  })

  test('a variable with a wrong value is refused by every command that loads a model', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nemotron-variables-'))
    const [lines, pairs, batch] = ['lines', 'pairs', 'batch'].map((name) => join(folder, name))
    writeFileSync(`${lines}`, '{"messages": [{"role": "user", "content": "a"}], "response": "b"}\n')
    writeFileSync(`${pairs}`, '{"prompt": "a"}\n')
    const body = { messages: [{ role: 'user', content: 'a' }] }
    const line = { custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body }
    writeFileSync(`${batch}`, `${JSON.stringify(line)}\n`)
    const env = { NEMOTRON_THREADS: 'x' }
    for (const args of [
      ['serve'],
      ['generate', 'a'],
      ['score', `${lines}`, '-o', '-'],
      ['generate-pairs', `${pairs}`, '-o', '-'],
      ['eval'],
      ['batch', `${batch}`, '-o', '-'],
      ['check', model, '--dtype', 'int8'],
    ]) {
      const { code, out, err } = await runHere(args, { env })
      assert.equal(code, 1, args[0])
      assert.equal(out, '', args[0])
      assert.match(err, /^error: NEMOTRON_THREADS must be a whole number; found "x"$/m)
    }
    rmSync(folder, { recursive: true })
  })

  test('a model that is not there is said with the flag that names it', async () => {
    for (const [args, message] of [
      [['serve', '--port', '0', '--model', model, '--draft-model', '/no'], '--draft-model /no: '],
      [['info', model, '--draft-model', '/no'], '--draft-model /no: '],
      [['check', model, '--dtype', 'int8', '--against', '/no'], '--against /no: '],
      [
        ['serve', '--port', '0', '--model', model, '--chat-template', '/no'],
        '--chat-template /no cannot be read',
      ],
    ] as const) {
      const { code, err } = await runHere(args)
      assert.equal(code, 1)
      assert.ok(err.includes(`error: ${message}`), err)
    }
  })

  test('what is wrong is said before a model is loaded', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nemotron-early-'))
    const lines = join(folder, 'lines.jsonl')
    writeFileSync(lines, '{"prompt": "a", "response": "b"}\n')
    const output = ['-o', join(folder, 'out.jsonl')]
    const reasoner = packagePath('models/tiny/tiny-reasoner')
    const config = join(folder, 'config.json')
    const models = [{ model: reasoner, dtype: 'int8' }, { model }]
    writeFileSync(
      config,
      JSON.stringify({ port: 0, device: 'cpu', int8_activations: true, models }),
    )
    const two = ['serve', '--port', '0', '--model', reasoner, '--model']
    for (const [args, message] of [
      [
        generate('--temperature', '7', 'x'),
        /'temperature': expected a number from 0 to 2, but got 7/,
      ],
      [generate('--system', 'x', 'y'), /^error: --raw: raw text has no --system/],
      [generate('--reasoning-effort', 'high', 'x'), /'reasoning_effort' is not supported/],
      [['generate', '--reasoning-effort', 'much', 'x'], /'reasoning_effort': "much"\. Supported/],
      [
        ['score', lines, ...output, '--reward-model', 'mine'],
        /^error: --reward-model: there is no 'mine' among the models: tiny-reasoner, tiny-reward/,
      ],
      [
        ['score', lines, ...output, '--principle', 'a'.repeat(5000)],
        /^error: --principle: the principle has 5000 characters/,
      ],
      [
        ['score', lines, ...output, '--principle', ''],
        /^error: --principle: the principle is empty/,
      ],
      [
        ['generate-pairs', lines, ...output, '--temperature', '3'],
        /--temperature.*It must be a number from 0 to 2/,
      ],
      [
        ['generate-pairs', lines, ...output, '--chat-model', 'mine'],
        /^error: --chat-model: there is/,
      ],
      [['eval', '--name', 'mine', '--limit', '1'], /^error: --name: there is no 'mine'/],
      [['eval', '--reward', 'mine', '--limit', '1'], /^error: --reward: there is no 'mine'/],
      [['eval', '--best-of', '129'], /--best-of.*It must be an integer from 1 to 128/],
      [[...two, '/nowhere'], /^error: \/nowhere: no such folder/m],
      [[...two, reasoner], /^error: Two models are called 'tiny-reasoner'/m],
      [
        ['serve', '--config', config],
        /^error: --int8-activations: found weights that are not in groups/m,
      ],
    ] as const) {
      const { code, out, err } = await runHere(args)
      assert.equal(code, 1, `${args}: ${out}${err}`)
      assert.match(err, message)
      // The plan of memory, with which loading begins.
      assert.doesNotMatch(err, /^weights /m, `${args}`)
    }
  })

  const wrong: [string, readonly string[], RegExp][] = [
    [
      'a name in a folder that is here',
      ['info', 'models/tipo'],
      /models\/ has .*tiny.*pull models/,
    ],
    ['a file that is no model', ['info', 'README.md'], /^error: README.md: .* no GGUF file/],
    ['a folder that is not there', ['info', '/nowhere'], /^error: .*\/nowhere/],
    ['a model that is not there', ['generate', '--model', '/nowhere', 'x'], /^error: .*\/nowhere/],
    [
      'a reward model, known by its name alone',
      ['generate', '--device', 'cpu', '--model', packagePath('models/tiny/tiny-reward'), 'x'],
      /error: .*'tiny-reward' is a reward model/,
    ],
    [
      'an integer that is not kept exactly',
      generate('--seed', '18446744073709551616', 'x'),
      /--seed.*'18446744073709551616' is invalid. It must be an integer from -9007199254740991 to 9007199254740991/,
    ],
    ['raw text with a system', generate('--quiet', '--system', 'x', 'y'), /^error: --raw: /],
    [
      'a count that is none',
      generate('--max-tokens', 'many', 'x'),
      /--max-tokens.*must be an integer from 0 to 9007199254740991/,
    ],
    [
      'a value out of range',
      generate('--quiet', '--top-p', '3', 'x'),
      /^error: Invalid value for 'top_p': expected a number from 0 to 1, but got 3/,
    ],
    ['an unknown device', ['generate', '--device', 'gpu', 'x'], /Allowed choices are auto, cpu/],
    ['an unknown command', ['chat'], /unknown command 'chat'/],
  ]
  for (const [name, args, message] of wrong) {
    test(`${name}: one line on standard error and exit code 1`, async () => {
      const { code, out, err } = await runHere(args)
      assert.equal(code, 1)
      assert.equal(out, '')
      assert.match(err, message)
      assert.ok(!err.includes('    at '), err)
    })
  }
})
