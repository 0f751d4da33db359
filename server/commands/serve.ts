// `nemotron-server serve`.

import { fstatSync } from 'node:fs'
import { type Command, Option } from 'commander'
import { messageOf } from '../failure.js'
import { createLog } from '../log.js'
import { isReward, type ServedModel } from '../model/served-model.js'
import type { Serving } from '../server.js'
import { FLAGS, type Settings } from '../settings/options.js'
import { ConfigError, type FlagValues, readSettings, unknownVariables } from '../settings/read.js'
import { createProgress, NO_PROGRESS } from '../terminal.js'
import { collect } from './flags.js'
import { type Host, tell } from './host.js'
import { onSignals } from './signals.js'

/** Flags of other servers for one model over several machines (docs/decisions/0018-nodes.md). */
const NODES = [
  ...['--nnodes', '--node-rank', '--dist-init-addr', '--master-addr', '--master-port'],
  ...['--pipeline-parallel-size', '--data-parallel-size', '--headless'],
]

const camelCase = (key: string): string =>
  key.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())

const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

/** A request that shows at once what the first model is for. */
const firstRequest = (models: readonly ServedModel[]) => {
  const model = models.find((one) => !isReward(one)) ?? models[0]
  if (model === undefined || isReward(model)) {
    const messages = [{ role: 'user', content: 'Thanks!' }]
    const responses = ['You are welcome!', 'Goodbye!']
    return { path: '/v1/reward', body: { model: model?.id, messages, responses } }
  }
  const thinks = model.profile.reasoning !== undefined
  return {
    path: '/v1/chat/completions',
    body: {
      model: model.id,
      ...(thinks && { reasoning_effort: 'high' }),
      messages: [{ role: 'user', content: 'How many r in strawberry?' }],
    },
  }
}

/** web/code.ts says it alike. */
const KEY = 'NEMOTRON_API_KEY'
const KEY_IN_SHELL = `\${${KEY}:?set it first: export ${KEY}=... (a key of this server)}`

const greeting = (
  url: string,
  models: readonly ServedModel[],
  { api_key }: Pick<Settings, 'api_key'>,
): string => {
  const { path, body } = firstRequest(models)
  // The key itself stays out of logs and terminals. A shell that does not have it says what to do.
  const key = api_key.length > 0 ? ` -H "authorization: Bearer ${KEY_IN_SHELL}"` : ''
  return [
    `Serving ${models.map(({ id, engine }) => `${id} (${engine.info.device})`).join(', ')}`,
    `at ${url}/v1, described at ${url}/docs. Try:`,
    '',
    `  curl ${url}${path}${key} -H 'content-type: application/json' -d ${quote(JSON.stringify(body))}`,
    '',
  ].join('\n')
}

/** The first signal drains, a second one ends at once. A terminal that closes loses no request either. */
const stopOnSignals = (host: Host, serving: Serving, say: (text: string) => void): void => {
  const first = async () => {
    say('Stopping: running requests are being finished. Once more, after 2 s, to stop at once.')
    await serving.drain().catch(failing(host))
    host.exit(0)
  }
  const again = () => host.exit(1)
  onSignals(host, ['SIGTERM', 'SIGINT', 'SIGHUP'], { first, again })
}

const failing =
  (host: Host) =>
  (error: unknown): never => {
    tell(host, `error: ${messageOf(error)}`)
    host.exit(1)
  }

/** Both outputs are one file or pipe: log lines alone go there, so that all of it stays JSON. */
const isLogOnly = ({ stderr }: Host): boolean => {
  if (stderr.isTTY) return false
  const [out, err] = [fstatSync(1), fstatSync(2)]
  return out.dev === err.dev && out.ino === err.ino
}

const run = async (settings: Settings, host: Host): Promise<void> => {
  const log = createLog(settings.log_level)
  for (const line of unknownVariables(host.env)) log.warn(line)
  const isSilent = settings.log_level === 'silent'
  const isJson = !isSilent && isLogOnly(host)
  const progress = isSilent || isJson ? NO_PROGRESS : createProgress(host.stderr)
  const say = isSilent
    ? () => {}
    : isJson
      ? (text: string) => log.info(text)
      : (text: string) => tell(host, text)
  const { startServer } = await import('../server.js')
  const serving = await startServer({ settings, log, progress, tell: say })
  stopOnSignals(host, serving, say)
  const models = await serving.ready
  log.info({ url: serving.url, models: models.map(({ id }) => id) }, 'serving')
  if (!isJson) say(greeting(serving.url, models, settings))
}

/** What is wrong with the settings, --help explains. */
const settingsOf = (
  command: Command,
  flags: FlagValues,
  host: Host,
  config: string | readonly string[] | undefined,
): Settings => {
  try {
    return readSettings(flags, host.env, typeof config === 'string' ? config : undefined)
  } catch (error) {
    return error instanceof ConfigError
      ? command.error(`error: ${error.message}`)
      : failing(host)(error)
  }
}

export const addServeCommand = (program: Command, host: Host): void => {
  const command = program
    .command('serve')
    .description('Serve models over an OpenAI-compatible HTTP API.')
    .option('--config <file>', 'JSON file with these settings and more (NEMOTRON_CONFIG)')
  for (const { flag, env, help, repeat } of FLAGS) {
    const text = `${help} [${env}]`
    if (repeat) command.option(flag, text, collect)
    else command.option(flag, text)
  }
  for (const name of NODES) {
    const refuse = () =>
      command.error(
        `error: ${name}: a server is on one machine. --tensor-parallel-size cuts a model over its GPUs; ` +
          'more requests are for several servers behind a proxy (docs/operations.md)',
      )
    command.addOption(new Option(`${name} [value]`).hideHelp())
    command.on(`option:${name.slice(2)}`, refuse)
  }
  command.action(async (options: Record<string, string | readonly string[] | undefined>) => {
    const flags = Object.fromEntries(FLAGS.map(({ key }) => [key, options[camelCase(key)]]))
    await run(settingsOf(command, flags, host, options.config), host).catch(failing(host))
  })
}
