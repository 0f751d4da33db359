// Chat chunks as text.

import type { Choice } from '../../chat/choice.js'
import { type ChatPlan, type ChatRun, chatExtras, rewardFields } from '../../chat/plan.js'
import type { Delta } from '../../engine/types.js'
import type { Chunks } from '../../generation/answer.js'
import { chatLogprobs } from '../../generation/logprobs.js'
import { atOnce, jsonText } from '../../http/sliced-json.js'
import { asMembers, createFrame, finishReason, isLong, members, stopReason } from './chunk-frame.js'

const PLAIN = '"logprobs":null,"finish_reason":null'

export const chatChunks = (plan: ChatPlan, choices: readonly Choice[]): Chunks<ChatRun> => {
  const { body, model } = plan
  const begun = choices.map(() => false)
  const showReasoning = body.include_reasoning !== false
  const frame = createFrame('chat.completion.chunk', plan)
  let isFirst = true
  let live = choices.length

  const chunk = (index: number, delta: string, rest: string, run: ChatRun, more: string): string =>
    frame.chunk(`{"index":${index},"delta":${delta},${rest}}`, run, more)

  const deltaJson = (index: number, reasoning: string, content: string): string => {
    const role = begun[index] ? '' : '"role":"assistant",'
    if (reasoning === '') return `{${role}"content":${JSON.stringify(content)}}`
    // A first delta has content, as OpenAI's has; later ones only what they bring.
    const answer = content === '' && begun[index] ? '' : `"content":${JSON.stringify(content)},`
    const thought = JSON.stringify(reasoning)
    return `{${role}${answer}"reasoning_content":${thought},"reasoning":${thought}}`
  }

  const detail = (delta: Delta): string | undefined => {
    const wanted = delta.logprobs !== undefined || body.return_token_ids === true
    if (!wanted || delta.tokenIds.length === 0) return undefined
    const logprobs = delta.logprobs
      ? JSON.stringify({ content: chatLogprobs(delta.logprobs, model.tokenizer), refusal: null })
      : 'null'
    const ids = body.return_token_ids ? `,"token_ids":${JSON.stringify(delta.tokenIds)}` : ''
    return `"logprobs":${logprobs}${ids},"finish_reason":null`
  }

  const last = (index: number, delta: Delta, run: ChatRun): string => {
    live--
    const rewards = rewardFields(plan, run.ranking?.())
    return chunk(
      index,
      '{}',
      `"logprobs":null,"finish_reason":"${finishReason(delta)}"` +
        members({ ...stopReason(delta, body), ...rewards.ofChoice(index) }),
      run,
      live > 0
        ? ''
        : members({ ...rewards.ofAnswer, ...(body.timings && { timings: run.timings() }) }),
    )
  }

  /** `more`: what the first chunk says beside its choice. */
  const events = (delta: Delta, run: ChatRun, more: string): string => {
    const { choice: index } = delta
    const piece = choices[index]?.push(delta)
    if (!piece) return ''
    const reasoning = showReasoning ? piece.reasoning : ''
    const details = detail(delta)
    let out = ''
    if (!begun[index] || piece.content !== '' || reasoning !== '' || details !== undefined) {
      out = chunk(index, deltaJson(index, reasoning, piece.content), details ?? PLAIN, run, more)
      begun[index] = true
      isFirst = false
    }
    return delta.finish === undefined ? out : out + last(index, delta, run)
  }

  function* firstLong(delta: Delta, run: ChatRun): Generator<string, string> {
    return events(delta, run, asMembers(yield* jsonText(yield* chatExtras(plan, delta))))
  }

  return {
    onDelta: (_, delta, run) => {
      if (!isFirst) return events(delta, run, '')
      return isLong(delta)
        ? firstLong(delta, run)
        : events(delta, run, members(atOnce(chatExtras(plan, delta))))
    },
    closing: frame.closing,
  }
}
