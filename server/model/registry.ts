// models/registry.json: what model cards say and checkpoint files do not.

import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { BUILT_IN, type BuiltIn } from '../prompt/builtin-templates.js'
import { RewardSettings } from '../settings/reward.js'
import { packagePath } from '../version.js'

const CardSampling = z.object({ temperature: z.number(), top_p: z.number() })

const Reasoning = z.object({
  /** How thinking is switched: by a line in the system text, by /think or /no_think in it, or by a variable
   * of the template. */
  switch: z.enum(['detailed_thinking', 'no_think', 'template']),
  on: CardSampling,
  off: CardSampling,
})
export type Reasoning = z.output<typeof Reasoning>

const Entry = z.strictObject({
  name: z.string(),
  match: z.string(),
  kind: z.enum(['chat', 'reward']),
  reasoning: Reasoning.optional(),
  reward: RewardSettings.optional(),
  /** The built-in template, used only where the checkpoint has none. */
  template: z.enum(Object.keys(BUILT_IN) as BuiltIn[]).optional(),
})
export type RegistryEntry = z.output<typeof Entry>

const Registry = z.strictObject({ comment: z.string(), models: z.array(Entry) })

let entries: readonly RegistryEntry[] | undefined

const readEntries = (): readonly RegistryEntry[] => {
  entries ??= Registry.parse(
    JSON.parse(readFileSync(packagePath('models/registry.json'), 'utf8')),
  ).models
  return entries
}

/** As the patterns are written: NVIDIA also writes Llama-3_3, and others put nvidia_ in front. */
const normalised = (name: string): string =>
  (name.split(/[\\/]/).findLast((part) => part !== '') ?? name)
    .toLowerCase()
    .replace(/(?<=\d)_(?=\d)/g, '.')
    .replace(/^(?:nvidia[-_]+)+/, '')

/** The first of a model's names (identity.ts) that is known decides. */
export const findEntry = (names: readonly string[]): RegistryEntry | undefined => {
  for (const name of names) {
    const last = normalised(name)
    const found = readEntries().find((entry) => new RegExp(entry.match).test(last))
    if (found !== undefined) return found
  }
  return undefined
}

/** What is known of a model that is served. */
export type ModelProfile = {
  readonly entry: RegistryEntry | undefined
  readonly reasoning: Reasoning | undefined
}

const DEFAULT_SAMPLING = {
  on: { temperature: 0.6, top_p: 0.95 },
  off: { temperature: 0, top_p: 1 },
}

/** A model reasons if the registry or its template says so. */
export const makeProfile = (entry: RegistryEntry | undefined, template: string): ModelProfile => {
  if (entry?.reasoning !== undefined) return { entry, reasoning: entry.reasoning }
  if (/\benable_thinking\b/.test(template))
    return { entry, reasoning: { switch: 'template', ...DEFAULT_SAMPLING } }
  if (/\/no_think\b/.test(template))
    return { entry, reasoning: { switch: 'no_think', ...DEFAULT_SAMPLING } }
  if (/detailed thinking|<\/think>/.test(template))
    return { entry, reasoning: { switch: 'detailed_thinking', ...DEFAULT_SAMPLING } }
  return { entry, reasoning: undefined }
}
