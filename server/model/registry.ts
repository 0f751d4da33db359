// models/registry.json: what model cards say and checkpoint files do not.

import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { BUILT_IN, type BuiltIn } from '../prompt/builtin-templates.js'
import { RewardSettings } from '../settings/reward.js'
import { packagePath } from '../version.js'
import { hubName } from './identity.js'

const CardSampling = z.object({ temperature: z.number(), top_p: z.number() })
export type CardSampling = z.output<typeof CardSampling>

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
  /** What generation_config.json says, where the checkpoint says nothing: in a GGUF file do_sample has no key. */
  sampling: CardSampling.optional(),
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

/** What is put behind a model's name for the form of its weights: `-GGUF`, `.i1-Q4_K_M`, `-FP8`, `-00001-of-00002`. */
const FORM =
  /[-.](?:\d{5}-of-\d{5}|gguf|mlx|hf|imat|i1|ud|i?q\d(?:[-.][a-z\d]+)*|tq\d.\d|b?f(?:p)?(?:16|32)|fp8|nvfp4|mxfp4|dynamic|awq|gptq|quantized|w\d+a\d+|int[48]|bnb|[3-8]-?bit)$/

/** As the patterns are written: NVIDIA also writes Llama-3_3, ModelScope Llama-3___3, and others llama3.3. */
const normalised = (name: string): string => {
  let text = name
    .toLowerCase()
    .replace(/(?<=\d)_+(?=\d)/g, '.')
    .replaceAll('_', '-')
    .replace(/^(?:nvidia[-.]+)+/, '')
    .replace(/^(?:meta-)?llama-?3[-.](?=\d-)/, 'llama-3.')
  while (FORM.test(text)) text = text.replace(FORM, '')
  return text
}

/** With and without the owner that file names begin with: `unsloth_Llama-3_3-Nemotron-...`. */
const spellings = (name: string): readonly string[] => {
  const path = hubName(name) ?? name
  const last = path.split(/[\\/]/).findLast((part) => part !== '' && part !== '.') ?? path
  return [last, last.replace(/^[a-z\d-]+_(?=[a-z])/i, '')].map(normalised)
}

/** The first of a model's names (identity.ts) that is known decides. */
export const findEntry = (names: readonly string[]): RegistryEntry | undefined => {
  for (const spelling of names.flatMap(spellings)) {
    const found = readEntries().find((entry) => new RegExp(entry.match).test(spelling))
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
