// What the page sends of a conversation.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  bodyOf,
  type Candidate,
  callsOf,
  canGoOn,
  DEFAULTS,
  NOTHING,
  type Turn,
} from '../../web/request.js'

const model = { id: 'm', reasoning: null }
const call = { id: 'c', name: 'look', arguments: '{"city": "Paris"}' }
const user = (text: string): Turn => ({ id: text, role: 'user', text })
const answer = (...candidates: Partial<Candidate>[]): Turn => ({
  id: 'a',
  role: 'assistant',
  candidates: candidates.map((one) => ({ ...NOTHING, ...one })),
  chosen: candidates.length - 1,
})
const sent = (turns: readonly Turn[], isContinued = false) =>
  bodyOf(DEFAULTS, model, turns, isContinued).messages
const asked = { role: 'user', content: 'One' }
const askedAgain = { role: 'user', content: 'Two' }

describe('messages of a conversation', () => {
  test('an answer that says nothing is none', () => {
    for (const nothing of [{}, { thinking: 'Hm' }, { finish: 'stop' }])
      assert.deepEqual(sent([user('One'), answer({ text: 'Not this' }, nothing), user('Two')]), [
        asked,
        askedAgain,
      ])
    assert.deepEqual(sent([user('One'), answer({ text: 'So', thinking: 'Hm' }), user('Two')]), [
      asked,
      { role: 'assistant', content: 'So' },
      askedAgain,
    ])
  })

  test('a call that was cut is not sent, nor gone on with', () => {
    const half = { calls: [{ ...call, arguments: '{"ci' }] }
    for (const finish of [undefined, 'length', 'stop']) {
      const cut = { ...half, ...(finish && { finish }) }
      assert.deepEqual(sent([user('One'), answer(cut), user('Two')]), [asked, askedAgain])
      assert.deepEqual(sent([user('One'), answer({ ...cut, text: 'Let me' }), user('Two')]), [
        asked,
        { role: 'assistant', content: 'Let me' },
        askedAgain,
      ])
      assert.deepEqual(sent([user('One'), answer({ ...cut, text: 'Let me' })], true), [
        asked,
        { role: 'assistant', content: 'Let me' },
      ])
      assert.deepEqual(callsOf({ ...NOTHING, ...cut }), [])
      assert.equal(canGoOn({ ...NOTHING, ...cut }), false)
    }
  })

  test('a call that ended is sent with its result', () => {
    const result: Turn = { id: 't', role: 'tool', callId: 'c', name: 'look', text: '21' }
    const whole = answer({ calls: [call], finish: 'tool_calls' })
    const { id, name, arguments: text } = call
    assert.deepEqual(sent([user('One'), whole, result]), [
      asked,
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id, type: 'function', function: { name, arguments: text } }],
      },
      { role: 'tool', tool_call_id: 'c', content: '21' },
    ])
  })

  test('an answer that is gone on with keeps its thinking', () => {
    assert.deepEqual(sent([user('One'), answer({ text: 'So', thinking: 'Hm' })], true), [
      asked,
      { role: 'assistant', content: 'So', reasoning_content: 'Hm' },
    ])
    assert.deepEqual(sent([user('One'), answer({ thinking: 'Hm' })], true), [
      asked,
      { role: 'assistant', reasoning_content: 'Hm' },
    ])
  })
})
