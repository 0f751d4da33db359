// `nemotron-server serve`.

import type { Command } from 'commander'
import { createLog, tell } from '../log.js'
import type { ServedModel } from '../model/served-model.js'
import { type Serving, startServer } from '../server.js'
import { FLAGS } from '../settings/options.js'
import { ConfigError, type FlagValues, readSettings } from '../settings/read.js'
import { createProgress } from '../terminal.js'
import { collect } from './flags.js'

const camelCase = (key: string): string =>
  key.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())

const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

const greeting = (serving: Serving, models: readonly ServedModel[]): string => {
  const model = models.find(({ engine }) => engine.info.rewardKind === 'none') ?? models[0]
  const body = JSON.stringify({
    model: model?.id,
    messages: [{ role: 'user', content: 'How many r in strawberry?' }],
  })
  return [
    `Serving ${models.map(({ id, engine }) => `${id} (${engine.info.device})`).join(', ')}`,
    `at ${serving.url}/v1, described at ${serving.url}/docs. Try:`,
    '',
    `  curl ${serving.url}/v1/chat/completions -H 'content-type: application/json' -d ${quote(body)}`,
    '',
  ].join('\n')
}

/** The first signal drains, a second one ends at once. */
const stopOnSignals = (serving: Serving): void => {
  let stopping = false
  const stop = async () => {
    if (stopping) process.exit(1)
    stopping = true
    tell('Stopping: running requests are being finished. Once more to stop at once.')
    await serving.drain()
    process.exit(0)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
}

const fail = (error: unknown): never => {
  tell(`error: ${error instanceof Error ? error.message : String(error)}`)
  process.exit(1)
}

const run = async (flags: FlagValues, configFile: string | undefined): Promise<void> => {
  const settings = readSettings(flags, process.env, configFile)
  const log = createLog(settings.log_level)
  const progress = createProgress()
  const serving = await startServer({ settings, log, progress, tell })
  stopOnSignals(serving)
  tell(greeting(serving, await serving.ready))
}

export const addServeCommand = (program: Command): void => {
  const command = program
    .command('serve')
    .description('Serve models over an OpenAI-compatible HTTP API.')
    .option('--config <file>', 'JSON file with these settings and more (NEMOTRON_CONFIG)')
  for (const { flag, env, help, repeat } of FLAGS) {
    const text = `${help} [${env}]`
    if (repeat) command.option(flag, text, collect)
    else command.option(flag, text)
  }
  command.action(async (options: Record<string, string | readonly string[] | undefined>) => {
    const flags = Object.fromEntries(FLAGS.map(({ key }) => [key, options[camelCase(key)]]))
    const { config } = options
    await run(flags, typeof config === 'string' ? config : undefined).catch((error) =>
      error instanceof ConfigError ? command.error(`error: ${error.message}`) : fail(error),
    )
  })
}
