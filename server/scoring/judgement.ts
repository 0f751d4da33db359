// What a judge wrote, as numbers: JSON, or boxes between marks as its older releases write them.

type Judgement = {
  /** From 1 to 5, one an answer. */
  readonly scores: readonly number[]
  /** From 1 (the first answer is much better) to 6 (the second is); of two answers. */
  readonly ranking: number | undefined
}

const MIDDLE = 3.5

const within = (value: unknown, most: number): number | undefined =>
  typeof value === 'number' && value >= 1 && value <= most ? value : undefined

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Nothing of it is guessed: a number that is missing, or out of its range, makes it unreadable. */
const checked = (
  scores: readonly unknown[],
  ranking: unknown,
  answers: 1 | 2,
): Judgement | undefined => {
  const read = scores.slice(0, answers).flatMap((one) => within(one, 5) ?? [])
  if (read.length !== answers) return undefined
  if (answers === 1) return { scores: read, ranking: undefined }
  const ranked = within(ranking, 6)
  return ranked === undefined ? undefined : { scores: read, ranking: ranked }
}

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const ofMembers = (text: string, answers: 1 | 2): Judgement | undefined => {
  const value = parsed(text)
  if (!isRecord(value)) return undefined
  const said = isRecord(value.overall) ? value.overall : value
  return checked([said.score_1, said.score_2], said.ranking, answers)
}

/** Where an object that begins at `from` ends, if it does before `limit`. */
const endOfObject = (text: string, from: number, limit: number): number | undefined => {
  let [depth, inText] = [0, false]
  for (let at = from; at < limit; at++) {
    const char = text[at]
    if (inText) {
      if (char === '\\') at++
      else if (char === '"') inText = false
    } else if (char === '"') inText = true
    else if (char === '{') depth++
    else if (char === '}' && --depth === 0) return at + 1
  }
  return undefined
}

/** Characters that are looked at for objects with braces in their texts. */
const MOST_LOOKED_AT = 1 << 20

/** Braces in texts, and objects in objects: slower, so only as far as MOST_LOOKED_AT goes. */
const fromNested = (text: string, answers: 1 | 2): Judgement | undefined => {
  let found: Judgement | undefined
  let left = MOST_LOOKED_AT
  for (let at = text.indexOf('{'); at >= 0 && left > 0; at = text.indexOf('{', at)) {
    const limit = Math.min(text.length, at + left)
    const end = endOfObject(text, at, limit)
    left -= (end ?? limit) - at
    const judgement = end === undefined ? undefined : ofMembers(text.slice(at, end), answers)
    found = judgement ?? found
    at = judgement === undefined ? at + 1 : (end ?? at + 1)
  }
  return found
}

/** The last object with the members. */
const fromJson = (text: string, answers: 1 | 2): Judgement | undefined => {
  let found: Judgement | undefined
  for (const [flat] of text.matchAll(/\{[^{}]*\}/g)) found = ofMembers(flat, answers) ?? found
  return found ?? fromNested(text, answers)
}

/** The numbers in the box of a section. */
const boxed = (text: string, section: string): readonly unknown[] => {
  const from = text.lastIndexOf(`[The Begin of ${section}]`)
  const box = from < 0 ? null : /\\boxed\{([^{}]*)\}/.exec(text.slice(from))
  return (box?.[1] ?? '')
    .split(',')
    .filter((one) => one.trim() !== '')
    .map(Number)
}

/** `answers`: how many were judged. Undefined: the text does not say it. */
export const readJudgement = (text: string, answers: 1 | 2): Judgement | undefined => {
  const behind = text.lastIndexOf('</think>')
  const said = behind < 0 ? text : text.slice(behind + '</think>'.length)
  return (
    fromJson(said, answers) ??
    checked(boxed(said, 'Individual Scores'), boxed(said, 'Ranking Score')[0], answers)
  )
}

/** What a judgement adds to the answers' rewards: their scores, and where those are equal, how far the ranking
 * lies from its middle. */
export const pointsOf = ({ scores, ranking }: Judgement): readonly number[] => {
  const [first = 0, second] = scores
  if (second === undefined || ranking === undefined) return [first]
  if (first !== second) return [first, second]
  return [first + MIDDLE - ranking, second + ranking - MIDDLE]
}
