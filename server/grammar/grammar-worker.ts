// The thread of grammar-texts.ts.

import { RequestError } from '../request-error.js'
import { answerQuestions } from '../thread.js'
import { answerGrammar } from './answer-grammar.js'
import type { MadeGrammar } from './grammar-texts.js'

const make = (question: string): MadeGrammar => {
  const [form, param] = JSON.parse(question)
  try {
    return { text: answerGrammar(form, param) }
  } catch (error) {
    if (!(error instanceof RequestError)) throw error
    return { refused: { message: error.message, param: error.param } }
  }
}

answerQuestions(make)
