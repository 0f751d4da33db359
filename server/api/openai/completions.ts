// POST /v1/completions: raw prompts, several at once, echoed and scored when asked.

import { encodeText } from '../../chat/prompt.js'
import { refuseThinking } from '../../chat/thinking-mode.js'
import type { Delta, GenerateRequest } from '../../engine/types.js'
import { answerId, type Chunks, generate, readRequest } from '../../generation/answer.js'
import { noLogprobs, promptLogprobs } from '../../generation/logprobs.js'
import { type Run, startRun } from '../../generation/run.js'
import {
  checkStreamOptions,
  makeSampling,
  outputLimit,
  queueFields,
  truncatePrompt,
} from '../../generation/sampling.js'
import { badRequest } from '../../http/errors.js'
import { atOnce, jsonPieces, jsonText } from '../../http/sliced-json.js'
import { type Ctx, findModel, type ServedModel, type Server } from '../../model/served-model.js'
import { refuseReward } from '../../scoring/scoring.js'
import { asMembers, createFrame, finishReason, isLong, members, stopReason } from './chunk-frame.js'
import { type CompletionText, createCompletionText } from './completion-choice.js'
import { CompletionRequest } from './schema.js'

type Prompt = {
  readonly ids: readonly number[]
  /** As echoed. */
  readonly text: string
  readonly raw: boolean
  readonly dropped: number
}

type Plan = {
  readonly body: CompletionRequest
  readonly model: ServedModel
  readonly prompts: readonly Prompt[]
  readonly requests: readonly GenerateRequest[]
  readonly id: string
  readonly created: number
}

type RawPrompt = string | readonly number[]

/** One prompt or many, text or ids: always a list of prompts. */
const promptList = (prompt: CompletionRequest['prompt']): readonly RawPrompt[] => {
  if (typeof prompt === 'string') return [prompt]
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as string[] | number[][])
}

const encodePrompt = async (
  model: ServedModel,
  body: CompletionRequest,
  raw: RawPrompt,
  param: string,
): Promise<Prompt> => {
  const { vocabSize } = model.engine.info
  const all =
    typeof raw === 'string' ? await encodeText(model, raw, body.add_special_tokens !== false) : raw
  const bad = all.find((id) => id >= vocabSize)
  if (bad !== undefined)
    throw badRequest(
      `Invalid value for '${param}': token id ${bad} is beyond the vocabulary of ${vocabSize}.`,
      param,
    )
  const { ids, dropped } = truncatePrompt(
    all,
    body.truncate_prompt_tokens,
    model.engine.info.maxModelLen - (body.max_tokens ?? 1),
  )
  if (ids.length === 0)
    throw badRequest(`Invalid value for '${param}': the prompt has no tokens.`, param)
  const whole = typeof raw === 'string' && dropped === 0
  const skipSpecial = body.skip_special_tokens ?? true
  const echo = () => model.tokenizer.decode(ids, { skipSpecial })
  return { ids, dropped, raw: whole, text: whole ? raw : body.echo === true ? echo() : '' }
}

const planCompletion = async (server: Server, body: CompletionRequest): Promise<Plan> => {
  const model = findModel(server, body.model)
  refuseReward(server, model, 'it does not complete text')
  checkStreamOptions(body)
  if (model.profile.reasoning === undefined) refuseThinking(body, model.id)
  if (body.max_tokens === 0 && body.echo !== true)
    throw badRequest("'max_tokens' can only be 0 when 'echo' is true.", 'max_tokens')
  const raw = promptList(body.prompt)
  const prompts = await Promise.all(
    raw.map((one, i) => encodePrompt(model, body, one, raw.length > 1 ? `prompt.${i}` : 'prompt')),
  )
  const echoed = body.echo === true && body.logprobs !== undefined ? body.logprobs : undefined
  const requests = await Promise.all(
    prompts.map(async ({ ids }) => ({
      promptTokenIds: ids,
      n: body.n ?? 1,
      sampling: await makeSampling({
        body,
        model,
        maxTokens: outputLimit(model.engine.info.maxModelLen, {
          promptTokens: ids.length,
          maxTokens: body.max_tokens,
          fallback: 16,
          promptParam: 'prompt',
          tokensParam: 'max_tokens',
        }),
        logprobs: body.logprobs,
        promptLogprobs: body.prompt_logprobs ?? echoed,
        card: undefined,
      }),
      ...queueFields(body),
    })),
  )
  return {
    body,
    model,
    prompts,
    requests,
    id: answerId('cmpl'),
    created: Math.floor(Date.now() / 1000),
  }
}

/** Choice index = prompt * n + choice of the prompt. */
const makeTexts = (plan: Plan): CompletionText[] =>
  plan.prompts.flatMap((prompt) =>
    Array.from({ length: plan.body.n ?? 1 }, () =>
      createCompletionText({
        tokenizer: plan.model.tokenizer,
        echo: plan.body.echo === true ? prompt : undefined,
        skipSpecial: plan.body.skip_special_tokens ?? true,
      }),
    ),
  )

/** What a choice says once. In slices. */
function* choiceExtras(plan: Plan, prompt: number, first: Delta | undefined) {
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

const whole = (plan: Plan) => {
  const { body } = plan
  const n = body.n ?? 1
  const choices = makeTexts(plan).map((text) => ({ text, answer: '', deltas: [] as Delta[] }))

  const onDelta = (prompt: number, delta: Delta) => {
    const choice = choices[prompt * n + delta.choice]
    if (choice === undefined) return
    choice.answer += choice.text.text(delta)
    choice.deltas.push(delta)
  }

  function* choiceObject({ text, answer, deltas }: (typeof choices)[number], index: number) {
    const logprobs = body.logprobs === undefined ? null : noLogprobs()
    if (logprobs) for (const delta of deltas) yield* text.logprobs(delta, logprobs)
    const last = deltas.at(-1)
    return {
      index,
      text: answer,
      logprobs,
      finish_reason: finishReason(last),
      ...stopReason(last, body),
      ...(body.return_token_ids && { token_ids: deltas.flatMap((delta) => delta.tokenIds) }),
      ...(yield* choiceExtras(plan, Math.floor(index / n), deltas[0])),
    }
  }

  function* answer(run: Run) {
    const objects = []
    for (const [i, choice] of choices.entries()) objects.push(yield* choiceObject(choice, i))
    yield* jsonPieces({
      id: plan.id,
      object: 'text_completion' as const,
      created: plan.created,
      model: body.model,
      system_fingerprint: plan.model.engine.info.fingerprint,
      choices: objects,
      usage: run.usage(),
      ...answerExtras(plan),
      ...(body.timings && { timings: run.timings() }),
    })
  }
  return { onDelta, answer }
}

const completionChunks = (plan: Plan): Chunks => {
  const { body } = plan
  const n = body.n ?? 1
  const texts = makeTexts(plan)
  const begun = texts.map(() => false)
  const frame = createFrame('text_completion', plan)
  let live = texts.length
  let isFirst = true

  function* events(prompt: number, delta: Delta, run: Run): Generator<string, string> {
    const index = prompt * n + delta.choice
    const choice = texts[index]
    if (choice === undefined) return ''
    const text = choice.text(delta)
    const entries = body.logprobs === undefined ? null : noLogprobs()
    if (entries) yield* choice.logprobs(delta, entries)
    const logprobs = entries?.tokens.length ? entries : null
    const detailed =
      logprobs !== null || (body.return_token_ids === true && delta.tokenIds.length > 0)
    let out = ''
    if (text !== '' || detailed) {
      const details = isLong(delta) ? yield* jsonText(logprobs) : JSON.stringify(logprobs)
      const ids = body.return_token_ids ? `,"token_ids":${JSON.stringify(delta.tokenIds)}` : ''
      const more = begun[index]
        ? ''
        : asMembers(yield* jsonText(yield* choiceExtras(plan, prompt, delta)))
      out = frame.chunk(
        `{"index":${index},"text":${JSON.stringify(text)},` +
          `"logprobs":${details}${ids}${more},"finish_reason":null}`,
        run,
        isFirst ? members(answerExtras(plan)) : '',
      )
      begun[index] = true
      isFirst = false
    }
    if (delta.finish === undefined) return out
    live--
    const last =
      `{"index":${index},"text":"","logprobs":null,` +
      `"finish_reason":"${finishReason(delta)}"${members(stopReason(delta, body))}}`
    const timings = live === 0 && body.timings ? members({ timings: run.timings() }) : ''
    return out + frame.chunk(last, run, timings)
  }

  return {
    onDelta: (prompt, delta, run) => {
      const work = events(prompt, delta, run)
      return isLong(delta) ? work : atOnce(work)
    },
    closing: frame.closing,
  }
}

export const completionRoute =
  (server: Server) =>
  async (c: Ctx): Promise<Response> => {
    const arrival = performance.now()
    const body = await readRequest(c, server, CompletionRequest, 'chat')
    const plan = await planCompletion(server, body)
    const options = {
      model: plan.model,
      requests: plan.requests,
      record: c.get('record'),
      arrival,
      reasoningTokens: () => 0,
    }
    return generate(c, server, {
      model: plan.model,
      stream: body.stream === true,
      n: body.n ?? 1,
      begin: (handler) => startRun(options, handler),
      chunks: () => completionChunks(plan),
      whole: () => whole(plan),
    })
  }
