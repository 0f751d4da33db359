// A chat's answer as OpenAI's stream of chunks.

import type { StreamForm } from '../../generation/answer.js'
import type { AnswerEvent } from '../../generation/answer-event.js'
import type { Run } from '../../generation/run.js'
import { atOnce, jsonText } from '../../slices.js'
import { type ChatAnswer, chatExtras, rewardFields } from './chat-answer.js'
import { asMembers, createFrame, isLong, members, stopReason } from './chunk-frame.js'
import { chatLogprobs } from './logprobs.js'
import { timingsObject } from './usage.js'

const PLAIN = '"logprobs":null,"finish_reason":null'

/** `isFirst`: it brings the role, and content, as OpenAI's has; later ones only what they bring. */
const deltaJson = (isFirst: boolean, reasoning: string, text: string): string => {
  const role = isFirst ? '"role":"assistant",' : ''
  if (reasoning === '') return `{${role}"content":${JSON.stringify(text)}}`
  const answer = text === '' && !isFirst ? '' : `"content":${JSON.stringify(text)},`
  const thought = JSON.stringify(reasoning)
  return `{${role}${answer}"reasoning_content":${thought},"reasoning":${thought}}`
}

export const chatStream = (answer: ChatAnswer): StreamForm => {
  const { body, model, n } = answer
  const begun = Array.from({ length: n }, () => false)
  const showReasoning = body.include_reasoning !== false
  const frame = createFrame('chat.completion.chunk', answer)
  let isFirst = true
  let live = n

  const chunk = (index: number, delta: string, rest: string, run: Run, more: string): string =>
    frame.chunk(`{"index":${index},"delta":${delta},${rest}}`, run.counts, more)

  const detail = (event: AnswerEvent): string | undefined => {
    const wanted = event.logprobs !== undefined || body.return_token_ids === true
    if (!wanted || event.tokenIds.length === 0) return undefined
    const logprobs = event.logprobs
      ? JSON.stringify({ content: chatLogprobs(event.logprobs, model.tokenizer), refusal: null })
      : 'null'
    const ids = body.return_token_ids ? `,"token_ids":${JSON.stringify(event.tokenIds)}` : ''
    return `"logprobs":${logprobs}${ids},"finish_reason":null`
  }

  const last = (index: number, event: AnswerEvent, run: Run): string => {
    live--
    const rewards = rewardFields(answer)
    const timings = body.timings && { timings: timingsObject(run.counts) }
    return chunk(
      index,
      '{}',
      `"logprobs":null,"finish_reason":"${event.finish}"` +
        members({ ...stopReason(event, body), ...rewards.ofChoice(index) }),
      run,
      live > 0 ? '' : members({ ...rewards.ofAnswer, ...timings }),
    )
  }

  /** `more`: what the first chunk says beside its choice. */
  const events = (event: AnswerEvent, run: Run, more: string): string => {
    const { choice: index, text } = event
    const reasoning = showReasoning ? event.reasoning : ''
    const details = detail(event)
    let out = ''
    if (!begun[index] || text !== '' || reasoning !== '' || details !== undefined) {
      const delta = deltaJson(!begun[index], reasoning, text)
      out = chunk(index, delta, details ?? PLAIN, run, more)
      begun[index] = true
      isFirst = false
    }
    return event.finish === undefined ? out : out + last(index, event, run)
  }

  function* firstLong(event: AnswerEvent, run: Run): Generator<string, string> {
    return events(event, run, asMembers(yield* jsonText(yield* chatExtras(answer, event))))
  }

  return {
    event: (event, run) => {
      if (!isFirst) return events(event, run, '')
      return isLong(event)
        ? firstLong(event, run)
        : events(event, run, members(atOnce(chatExtras(answer, event))))
    },
    closing: frame.closing,
    error: frame.error,
  }
}
