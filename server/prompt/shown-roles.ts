// Which roles a chat template shows. One that passes a role over would lose such a message without a word.

import { badRequest } from '../request-error.js'
import type { Message } from './conversation.js'
import { fromJs, type Value } from './value.js'

type Role = Message['role']

/** Roles whose messages may not be lost; of a judge's answers scoring/judge.ts says more. */
const CHECKED = ['system', 'user', 'assistant', 'tool'] as const satisfies readonly Role[]
type Checked = (typeof CHECKED)[number]

const isChecked = (role: Role): role is Checked => CHECKED.some((one) => one === role)

/** Texts that no template makes the same of. */
const TEXTS = ['first 1', 'other 2'] as const

const user = { role: 'user', content: 'a' }
const assistant = { role: 'assistant', content: 'b' }
const call = { id: 'call00001', type: 'function', function: { name: 'f', arguments: { a: 1 } } }
const calling = { role: 'assistant', content: '', tool_calls: [call] }

/** Conversations with a message of a role, in the places where one usually stands. */
const conversations = (role: Checked, content: string): readonly (readonly object[])[] => {
  const own = { role, content }
  const result = { ...own, name: 'f', tool_call_id: call.id }
  const all: Readonly<Record<Checked, readonly (readonly object[])[]>> = {
    system: [
      [own, user],
      [own, user, assistant],
    ],
    user: [[own], [own, assistant]],
    assistant: [
      [user, own],
      [user, own, user],
    ],
    tool: [
      [user, calling, result],
      [user, calling, result, user],
    ],
  }
  return all[role]
}

const TOOL = {
  type: 'function',
  function: { name: 'f', description: 'd', parameters: { type: 'object', properties: {} } },
}

type Render = (values: ReadonlyMap<string, Value>) => string

/** `templates`: for conversations without tools and with them. What a template refuses it does not lose. */
const shows = (
  templates: readonly Render[],
  tokens: Readonly<Record<string, string>>,
  role: Checked,
): boolean => {
  const rendered = (render: Render, messages: readonly object[], tools: unknown): string => {
    const values = { documents: null, ...tokens, messages, tools, add_generation_prompt: true }
    const entries = Object.entries(values).map(([name, value]): [string, Value] => [
      name,
      fromJs(value, (text) => text, { depth: 16, values: 1000 }),
    ])
    return render(new Map(entries))
  }
  const [first, other] = TEXTS.map((text) => conversations(role, text))
  try {
    return templates.some((render) =>
      [null, [TOOL]].some((tools) =>
        first?.some(
          (messages, i) =>
            rendered(render, messages, tools) !== rendered(render, other?.[i] ?? [], tools),
        ),
      ),
    )
  } catch {
    return true
  }
}

/** A check of conversations; each role is tried once, when it is first used. */
export const createRoleCheck = (
  templates: readonly Render[],
  tokens: Readonly<Record<string, string>>,
): ((messages: readonly Message[]) => void) => {
  const known = new Map<Checked, boolean>()
  const isShown = (role: Checked): boolean => {
    const found = known.get(role) ?? shows(templates, tokens, role)
    known.set(role, found)
    return found
  }
  return (messages) => {
    const at = messages.findIndex(
      ({ role, content }) => isChecked(role) && content.trim() !== '' && !isShown(role),
    )
    const role = messages[at]?.role
    // One that shows not even what the user says goes by something else.
    if (role === undefined || !isShown('user')) return
    const shown = CHECKED.filter(isShown)
    throw badRequest(
      `Invalid value for 'messages.${at}.role': the model's chat template shows no message of role '${role}', so that this one would be lost; it shows ${shown.join(', ') || 'none'}.`,
      `messages.${at}.role`,
    )
  }
}
