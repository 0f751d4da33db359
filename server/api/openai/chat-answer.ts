// A chat's answer as OpenAI's one object, and what it has in common with the stream.

import type { ChatPlan } from '../../chat/plan.js'
import type { WholeForm } from '../../generation/answer.js'
import { type AnswerEvent, addCallPiece, type Call } from '../../generation/answer-event.js'
import type { Run } from '../../generation/run.js'
import { jsonPieces } from '../../slices.js'
import { stopReason } from './chunk-frame.js'
import { chatLogprobs, promptLogprobs } from './logprobs.js'
import type { ChatRequest } from './schema.js'
import { timingsObject, usageObject, weightsFields } from './usage.js'

/** What one choice of an answer is told by. */
type ChatTelling = Pick<ChatPlan, 'model' | 'promptTokenIds'> & {
  readonly body: Pick<
    ChatRequest,
    'include_reasoning' | 'logprobs' | 'return_token_ids' | 'stop_token_ids'
  >
}

export type ChatAnswer = ChatPlan & {
  readonly body: ChatRequest
  readonly id: string
  readonly created: number
}

/** A choice's reward, and what the whole answer says of the candidates. */
export const rewardFields = ({ bestOf }: ChatAnswer) => {
  const ranking = bestOf?.ranking()
  return {
    ofChoice: (index: number) => {
      const candidate = ranking?.order[index]
      return candidate === undefined ? {} : { reward: ranking?.scores[candidate] }
    },
    ofAnswer: ranking && bestOf ? { reward: { model: bestOf.name, scores: ranking.scores } } : {},
  }
}

/** What is told of a prompt when it is asked for. In slices. */
export function* promptExtras(
  { body, model, promptTokenIds }: ChatTelling,
  first: AnswerEvent | undefined,
) {
  return {
    ...(body.return_token_ids && { prompt_token_ids: Array.from(promptTokenIds) }),
    ...(first?.promptLogprobs && {
      prompt_logprobs: yield* promptLogprobs(first.promptLogprobs, model.tokenizer),
    }),
  }
}

/** What an answer says once, beside its choices. In slices. */
export function* chatExtras(answer: ChatAnswer, first: AnswerEvent | undefined) {
  const { body, dropped } = answer
  return {
    ...(yield* promptExtras(answer, first)),
    ...(body.truncate_prompt_tokens !== undefined && {
      truncate_prompt_tokens: body.truncate_prompt_tokens,
      truncated_tokens: dropped,
    }),
  }
}

/** A choice as far as it is known. */
export const newPart = () => ({
  reasoning: '',
  content: '',
  calls: [] as Call[],
  ids: [] as number[],
  logprobs: [] as ReturnType<typeof chatLogprobs>,
  last: undefined as AnswerEvent | undefined,
})
type Part = ReturnType<typeof newPart>

export const addEvent = ({ body, model }: ChatTelling, part: Part, event: AnswerEvent): void => {
  part.reasoning += event.reasoning
  part.content += event.text
  for (const piece of event.calls) addCallPiece(part.calls, piece)
  // One by one: an event may tell a whole candidate, and a call takes only so many arguments.
  if (body.return_token_ids) for (const id of event.tokenIds) part.ids.push(id)
  if (event.logprobs)
    for (const one of chatLogprobs(event.logprobs, model.tokenizer)) part.logprobs.push(one)
  part.last = event
}

export const choiceObject = ({ body, model }: ChatTelling, part: Part, index: number) => {
  const hidden = part.reasoning === '' || body.include_reasoning === false
  const reasoning = hidden ? null : part.reasoning
  const reasons = model.profile.reasoning !== undefined
  return {
    index,
    message: {
      role: 'assistant' as const,
      content: part.content === '' && part.calls.length > 0 ? null : part.content,
      refusal: null,
      ...(part.calls.length > 0 && {
        tool_calls: part.calls.map(({ id, name, arguments: text }) => ({
          id,
          type: 'function' as const,
          function: { name, arguments: text },
        })),
      }),
      ...(reasons && { reasoning_content: reasoning, reasoning }),
    },
    logprobs: body.logprobs ? { content: part.logprobs, refusal: null } : null,
    finish_reason: part.last?.finish ?? 'stop',
    ...stopReason(part.last, body),
    ...(body.return_token_ids && { token_ids: part.ids }),
  }
}

export const wholeChat = (answer: ChatAnswer): WholeForm => {
  const { body, model, n } = answer
  const parts = Array.from({ length: n }, newPart)
  let first: AnswerEvent | undefined

  function* object({ counts }: Run) {
    const rewards = rewardFields(answer)
    yield* jsonPieces({
      id: answer.id,
      object: 'chat.completion' as const,
      created: answer.created,
      model: body.model,
      system_fingerprint: model.engine.info.fingerprint,
      choices: parts.map((part, i) => ({
        ...choiceObject(answer, part, i),
        ...rewards.ofChoice(i),
      })),
      usage: usageObject(counts, answer.reasoningTokens()),
      ...rewards.ofAnswer,
      ...weightsFields(counts),
      ...(yield* chatExtras(answer, first)),
      ...(body.timings && { timings: timingsObject(counts) }),
    })
  }

  return {
    event: (event) => {
      first ??= event
      const part = parts[event.choice]
      if (part !== undefined) addEvent(answer, part, event)
    },
    answer: object,
  }
}
