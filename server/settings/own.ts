// The settings of a server that lives as long as a command, which alone asks it.

import type { Settings } from './options.js'
import { type FlagValues, readSettings } from './read.js'

/** Who may call, what is kept, how long it lives: of `serve` alone. */
const OF_SERVE = [
  'host',
  'port',
  'api_key',
  'open_metrics',
  'tls_cert',
  'tls_key',
  'allowed_hosts',
  'allowed_origins',
  'strict_params',
  'data_dir',
  'reload_from',
  'allow_pause',
  'request_timeout',
  'drain_delay',
  'drain_timeout',
] as const satisfies readonly (keyof Settings)[]

/** As `serve` reads them, with the variables and the config file. A model that a flag names has none of the names
 * that were given elsewhere. */
export const ownSettings = (flags: FlagValues, env: NodeJS.ProcessEnv): Settings => {
  const isNamed = flags.model !== undefined && flags.model.length > 0
  const models = isNamed ? { served_model_name: [] } : { model: undefined }
  const settings = readSettings({ ...flags, ...models }, env)
  const standard = readSettings({ port: '0' }, {})
  return { ...settings, ...Object.fromEntries(OF_SERVE.map((key) => [key, standard[key]])) }
}
