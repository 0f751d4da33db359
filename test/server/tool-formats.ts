// The two forms in which models call tools, as their templates say them.

import assert from 'node:assert/strict'
import { type ToolFormat, toolFormatOf } from '../../server/chat/tools/format.js'
import { BUILT_IN } from '../../server/prompt/builtin-templates.js'

const formatOf = (template: string): ToolFormat => {
  const format = toolFormatOf(template)
  assert.ok(format)
  return format
}
export const NANO = formatOf(BUILT_IN.nemotron_nano)
export const LLAMA = formatOf(BUILT_IN.nemotron_70b)
