// POST /v1/completions: raw prompts, several at once, echoed and scored when asked.

import { planText, type TextPlan } from '../../chat/text-plan.js'
import type { StreamForm, WholeForm } from '../../generation/answer.js'
import type { AnswerEvent } from '../../generation/answer-event.js'
import type { Run } from '../../generation/run.js'
import type { Ctx } from '../../http/context.js'
import { atOnce, jsonPieces, jsonText } from '../../slices.js'
import { readRequest } from '../read-request.js'
import { answerId, respond, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { UNSERVED_OF_COMPLETIONS } from '../unserved-fields.js'
import {
  asMembers,
  checkStreamOptions,
  createFrame,
  isLong,
  members,
  stopReason,
} from './chunk-frame.js'
import { type CompletionChoice, createCompletionChoice } from './completion-choice.js'
import { noLogprobs, promptLogprobs } from './logprobs.js'
import { CompletionRequest } from './schema.js'
import { timingsObject, usageObject, weightsFields } from './usage.js'

type Plan = TextPlan & {
  readonly body: CompletionRequest
  readonly id: string
  readonly created: number
  readonly reasoningTokens: () => number
}

const makeChoices = (plan: Plan): CompletionChoice[] =>
  plan.prompts.flatMap((prompt) =>
    Array.from({ length: plan.n }, () =>
      createCompletionChoice({
        tokenizer: plan.model.tokenizer,
        echo: plan.body.echo === true ? prompt : undefined,
        skipSpecial: plan.body.skip_special_tokens ?? true,
      }),
    ),
  )

/** What a choice says once. In slices. */
function* choiceExtras(plan: Plan, prompt: number, first: AnswerEvent | undefined) {
  const asked = plan.body.prompt_logprobs !== undefined && first?.promptLogprobs
  return {
    ...(plan.body.return_token_ids && { prompt_token_ids: plan.prompts[prompt]?.ids ?? [] }),
    ...(asked && { prompt_logprobs: yield* promptLogprobs(asked, plan.model.tokenizer) }),
  }
}

const answerExtras = (plan: Plan) =>
  plan.body.truncate_prompt_tokens === undefined
    ? {}
    : {
        truncate_prompt_tokens: plan.body.truncate_prompt_tokens,
        truncated_tokens: plan.prompts.reduce((sum, prompt) => sum + prompt.dropped, 0),
      }

type Part = {
  readonly choice: CompletionChoice
  answer: string
  readonly ids: number[]
  /** Where log probabilities are asked for: a long answer has many. */
  readonly events: AnswerEvent[]
  first: AnswerEvent | undefined
  last: AnswerEvent | undefined
}

const newPart = (choice: CompletionChoice): Part => ({
  choice,
  answer: '',
  ids: [],
  events: [],
  first: undefined,
  last: undefined,
})

const addEvent = ({ body }: Plan, part: Part, event: AnswerEvent): void => {
  part.answer += part.choice.text(event)
  if (body.return_token_ids) for (const id of event.tokenIds) part.ids.push(id)
  if (body.logprobs !== undefined) part.events.push(event)
  part.first ??= event
  part.last = event
}

function* choiceObject(plan: Plan, { choice, answer, ids, events, first, last }: Part, i: number) {
  const { body, n } = plan
  const logprobs = body.logprobs === undefined ? null : noLogprobs()
  if (logprobs) for (const event of events) yield* choice.logprobs(event, logprobs)
  return {
    index: i,
    text: answer,
    logprobs,
    finish_reason: last?.finish ?? 'stop',
    ...stopReason(last, body),
    ...(body.return_token_ids && { token_ids: ids }),
    ...(yield* choiceExtras(plan, Math.floor(i / n), first)),
  }
}

const wholeCompletion = (plan: Plan): WholeForm => {
  const { body } = plan
  const parts = makeChoices(plan).map(newPart)

  function* object({ counts }: Run) {
    const choices = []
    for (const [i, part] of parts.entries()) choices.push(yield* choiceObject(plan, part, i))
    yield* jsonPieces({
      id: plan.id,
      object: 'text_completion' as const,
      created: plan.created,
      model: body.model,
      system_fingerprint: plan.model.engine.info.fingerprint,
      choices,
      usage: usageObject(counts, 0),
      ...answerExtras(plan),
      ...weightsFields(counts),
      ...(body.timings && { timings: timingsObject(counts) }),
    })
  }
  return {
    event: (event) => {
      const part = parts[event.choice]
      if (part !== undefined) addEvent(plan, part, event)
    },
    answer: object,
  }
}

const completionStream = (plan: Plan): StreamForm => {
  const { body, n } = plan
  const choices = makeChoices(plan)
  const begun = choices.map(() => false)
  const frame = createFrame('text_completion', plan)
  let live = choices.length
  let isFirst = true

  function* events(event: AnswerEvent, { counts }: Run): Generator<string, string> {
    const { choice: index } = event
    const choice = choices[index]
    if (choice === undefined) return ''
    const text = choice.text(event)
    const entries = body.logprobs === undefined ? null : noLogprobs()
    if (entries) yield* choice.logprobs(event, entries)
    const logprobs = entries?.tokens.length ? entries : null
    const detailed =
      logprobs !== null || (body.return_token_ids === true && event.tokenIds.length > 0)
    // They come with the first event, whether it has text or not.
    const extras = begun[index]
      ? ''
      : asMembers(yield* jsonText(yield* choiceExtras(plan, Math.floor(index / n), event)))
    const ofAnswer = isFirst ? members(answerExtras(plan)) : ''
    begun[index] = true
    isFirst = false
    let out = ''
    if (text !== '' || detailed || extras !== '' || ofAnswer !== '') {
      const details = isLong(event) ? yield* jsonText(logprobs) : JSON.stringify(logprobs)
      const ids = body.return_token_ids ? `,"token_ids":${JSON.stringify(event.tokenIds)}` : ''
      out = frame.chunk(
        `{"index":${index},"text":${JSON.stringify(text)},` +
          `"logprobs":${details}${ids}${extras},"finish_reason":null}`,
        counts,
        ofAnswer,
      )
    }
    if (event.finish === undefined) return out
    live--
    const last =
      `{"index":${index},"text":"","logprobs":null,` +
      `"finish_reason":"${event.finish}"${members(stopReason(event, body))}}`
    const timings = body.timings && { timings: timingsObject(counts) }
    const more = live > 0 ? '' : members({ ...weightsFields(counts), ...timings })
    return out + frame.chunk(last, counts, more)
  }

  return {
    event: (event, run) => {
      const work = events(event, run)
      return isLong(event) ? work : atOnce(work)
    },
    closing: frame.closing,
    error: frame.error,
  }
}

export const completionRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, CompletionRequest, 'chat', UNSERVED_OF_COMPLETIONS)
    checkStreamOptions(body)
    const plan: Plan = {
      ...(await planText(server.models(), body, { arrival, defaults: server.config })),
      body,
      id: answerId('cmpl-'),
      created: unixTime(),
      // Text is not split here: a tag in it is text.
      reasoningTokens: () => 0,
    }
    const form = body.stream ? { stream: completionStream(plan) } : { whole: wholeCompletion(plan) }
    return respond(c, server, plan, form)
  }
