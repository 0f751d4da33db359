// A chat's answer as OpenAI's stream of chunks.

import type { StreamForm } from '../../generation/answer.js'
import type { AnswerEvent, CallPiece } from '../../generation/answer-event.js'
import type { Run } from '../../generation/run.js'
import { atOnce, jsonText } from '../../slices.js'
import { type ChatAnswer, chatExtras, rewardFields } from './chat-answer.js'
import { asMembers, createFrame, isLong, members, stopReason } from './chunk-frame.js'
import { chatLogprobs } from './logprobs.js'
import { timingsObject, weightsFields } from './usage.js'

const PLAIN = '"logprobs":null,"finish_reason":null'

/** `opening`: of the choice's first, the role and the content where it brings none; else ''. */
const deltaJson = (opening: string | undefined, reasoning: string, text: string): string => {
  const role = opening === undefined ? '' : '"role":"assistant",'
  const content = text === '' && opening !== undefined ? opening : JSON.stringify(text)
  if (reasoning === '') return `{${role}"content":${content}}`
  const answer = text === '' && opening === undefined ? '' : `"content":${content},`
  const thought = JSON.stringify(reasoning)
  return `{${role}${answer}"reasoning_content":${thought},"reasoning":${thought}}`
}

/** One piece of a call, in the order of OpenAI's. */
const callJson = (opening: string | undefined, piece: CallPiece): string => {
  const { index, id, name, arguments: text } = piece
  const call = {
    index,
    ...(id !== undefined && { id, type: 'function' as const }),
    function: { ...(name !== undefined && { name }), arguments: text },
  }
  const role = opening === undefined ? '' : `"role":"assistant","content":${opening},`
  return `{${role}"tool_calls":[${JSON.stringify(call)}]}`
}

/** What was asked for of the tokens of an event; undefined: nothing, or it has none. */
const detail = ({ body, model }: ChatAnswer, event: AnswerEvent): string | undefined => {
  const wanted = event.logprobs !== undefined || body.return_token_ids === true
  if (!wanted || event.tokenIds.length === 0) return undefined
  const logprobs = event.logprobs
    ? JSON.stringify({ content: chatLogprobs(event.logprobs, model.tokenizer), refusal: null })
    : 'null'
  const ids = body.return_token_ids ? `,"token_ids":${JSON.stringify(event.tokenIds)}` : ''
  return `"logprobs":${logprobs}${ids},"finish_reason":null`
}

export const chatStream = (answer: ChatAnswer): StreamForm => {
  const { body, n } = answer
  const begun = Array.from({ length: n }, () => false)
  // A choice that only calls tools has no content, not an empty one.
  const noContent = answer.hasTools ? 'null' : '""'
  const showReasoning = body.include_reasoning !== false
  const frame = createFrame('chat.completion.chunk', answer)
  let isFirst = true
  let live = n

  const chunk = (index: number, delta: string, rest: string, run: Run, more: string): string =>
    frame.chunk(`{"index":${index},"delta":${delta},${rest}}`, run.counts, more)

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
      live > 0 ? '' : members({ ...rewards.ofAnswer, ...weightsFields(run.counts), ...timings }),
    )
  }

  /** `more`: what the first chunk says beside its choice. */
  const events = (event: AnswerEvent, run: Run, more: string): string => {
    const { choice: index, text } = event
    const reasoning = showReasoning ? event.reasoning : ''
    const details = detail(answer, event)
    let out = ''
    const isSilent = text === '' && reasoning === '' && details === undefined
    if (!isSilent || (!begun[index] && event.calls.length === 0)) {
      const delta = deltaJson(begun[index] ? undefined : noContent, reasoning, text)
      out = chunk(index, delta, details ?? PLAIN, run, more)
      begun[index] = true
      isFirst = false
    }
    for (const piece of event.calls) {
      const delta = callJson(begun[index] ? undefined : noContent, piece)
      out += chunk(index, delta, PLAIN, run, out === '' ? more : '')
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
