import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  chatModels,
  findModel,
  findRewardModel,
  isReward,
  refuseReward,
  type ServedModel,
} from '../../server/model/served-model.js'
import { RequestError } from '../../server/request-error.js'

const make = (id: string, kind: 'chat' | 'head' | 'judge', aliases: string[] = []): ServedModel =>
  ({
    id,
    aliases,
    root: `/models/${id}`,
    engine: { info: { rewardKind: kind === 'head' ? 'head' : 'none' } },
    readout: kind === 'judge' ? { judge: {} } : {},
  }) as unknown as ServedModel

const chat = make('chat', 'chat', ['c'])
const head = make('head', 'head')
const judge = make('judge', 'judge')
const all = [chat, head, judge]

/** The refusal, with the field that it names. */
const refusal = (act: () => unknown): string => {
  try {
    act()
  } catch (error) {
    assert.ok(error instanceof RequestError)
    return `${error.param}: ${error.message}`
  }
  assert.fail('it passed')
}

describe('models', () => {
  test('are found by name, by another name, by their folder', () => {
    for (const name of ['chat', 'c', '/models/chat']) assert.equal(findModel(all, name), chat)
    assert.match(
      refusal(() => findModel(all, 'x')),
      /^model: The model 'x' does not exist. Served here: 'chat', /,
    )
    assert.match(
      refusal(() => findModel(all, 'x', 'reward.model')),
      /^reward\.model: /,
    )
    assert.throws(() => findModel(all, 'x'), { code: 'model_not_found' })
  })

  test('that give rewards have a head or judge', () => {
    assert.deepEqual(all.map(isReward), [false, true, true])
    assert.equal(findRewardModel(all, 'head'), head)
    assert.equal(findRewardModel(all, 'judge'), judge)
    assert.equal(
      refusal(() => findRewardModel(all, 'c', 'reward.model')),
      "reward.model: 'c' is a chat model and gives no rewards. These do: 'head', 'judge'.",
    )
    assert.match(
      refusal(() => findRewardModel([chat], 'chat')),
      /this server serves no reward model/,
    )
  })

  test('that write answers are named to who asks a reward model for one', () => {
    assert.equal(chatModels(all), "These write answers: 'chat'.")
    assert.equal(chatModels([head]), 'This server serves no chat model.')
    assert.doesNotThrow(() => refuseReward(all, chat, 'it scores'))
    assert.equal(
      refusal(() => refuseReward(all, judge, 'it scores')),
      "model: 'judge' is a reward model: it scores. These write answers: 'chat'.",
    )
  })
})
