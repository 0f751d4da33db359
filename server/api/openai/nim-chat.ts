// A reward model on /v1/chat/completions, as NVIDIA's NIM answers it and its clients read it: the
// scores as text `name:value,name:value`, and again as logprobs of tokens that are the names.

import { readForm } from '../../chat/answer-form.js'
import { refuseAnswering } from '../../chat/answering.js'
import type { Ctx } from '../../http/context.js'
import { asksNothing } from '../../list.js'
import { chatModels, isJudge, type ServedModel } from '../../model/served-model.js'
import type { Message } from '../../prompt/conversation.js'
import { badRequest, unsupportedParameter } from '../../request-error.js'
import { encodeInputs, scoreItems, scoreUsage } from '../../scoring/scoring.js'
import { tellUnread } from '../read-request.js'
import { answerId, signalOf, unixTime } from '../respond.js'
import type { Server } from '../server.js'
import { ChatRequest } from './schema.js'

type NimCall = {
  readonly model: ServedModel
  readonly body: ChatRequest
  readonly messages: readonly Message[]
  readonly arrival: number
}

/** What asks for more than one reward of the last message. */
const check = (server: Server, { model, body, messages }: Omit<NimCall, 'arrival'>): void => {
  if (messages.at(-1)?.role !== 'assistant')
    throw badRequest(
      `'${body.model}' is a reward model: it scores the last message, which must be the assistant's. ${chatModels(server.models())}`,
      'messages',
    )
  if (body.stream === true)
    throw badRequest(`'${body.model}' gives one reward: there is nothing to stream.`, 'stream')
  if ((body.n ?? 1) !== 1)
    throw badRequest(`'${body.model}' gives one reward, the same each time.`, 'n')
  if (body.reward !== undefined)
    throw badRequest(`'${body.model}' is a reward model: it writes no candidates.`, 'model')
  refuseAnswering(body, body.model)
  const form = readForm(body)
  if (form !== undefined)
    throw unsupportedParameter(
      form.param,
      `'${form.param}' is not supported: '${body.model}' is a reward model and writes no answer.`,
    )
  if (isJudge(model))
    throw badRequest(`'${body.model}' is a judge: it answers at /v1/reward.`, 'model')
}

/** Fields that are read, or have been checked; an answer has `logprobs` in any case. */
const READ: readonly string[] = [
  ...['model', 'messages', 'principle', 'priority', 'cache_salt', 'logprobs', 'n', 'stream'],
  ...['response_format', 'structured_outputs', 'chat_template_kwargs'],
]

/** Values that ask for what is so. */
const SO: Readonly<Record<string, readonly unknown[]>> = {
  tool_choice: ['none', 'auto'],
  parallel_tool_calls: [true],
  best_of: [1],
}

/** What would be of effect where an answer is written. */
const unreadOf = (body: ChatRequest): readonly string[] =>
  Object.entries(body).flatMap(([name, value]) => {
    const isOther = !Object.hasOwn(ChatRequest.shape, name) || READ.includes(name)
    return isOther || asksNothing(value) || SO[name]?.includes(value) ? [] : [name]
  })

export const nimChat = async (c: Ctx, server: Server, call: NimCall): Promise<Response> => {
  const { model, body, messages, arrival } = call
  check(server, call)
  tellUnread(c, server, unreadOf(body))
  const { principle, cache_salt: cacheSalt } = body
  const [scored] = await scoreItems({
    model,
    items: await encodeInputs(model, [{ messages, principle }], () => '', { cacheSalt }),
    record: c.get('record'),
    signal: signalOf(c, server),
    arrival,
    priority: body.priority,
    cacheSalt,
  })
  if (scored === undefined) throw new Error('one item in, one score out')
  const reward = model.readout.reward(scored.scores)
  const values = Object.entries(
    model.readout.attributes(scored.scores) ?? { reward: reward ?? Number.NaN },
  )
  return c.json({
    id: answerId('chatcmpl-'),
    object: 'chat.completion',
    created: unixTime(),
    model: body.model,
    system_fingerprint: model.engine.info.fingerprint,
    choices: [
      {
        index: 0,
        message: {
          role: 'assistant',
          content: values.map(([name, value]) => `${name}:${value}`).join(','),
          refusal: null,
        },
        logprobs: {
          content: values.map(([token, logprob]) => ({
            token,
            logprob,
            bytes: [...Buffer.from(token)],
            top_logprobs: [],
          })),
          refusal: null,
        },
        finish_reason: 'stop',
      },
    ],
    usage: { completion_tokens: 0, ...scoreUsage([scored]) },
  })
}
