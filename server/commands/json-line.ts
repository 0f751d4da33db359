// The text of one JSON object with members of ours: what the caller wrote in the others stays byte for byte,
// so that numbers keep their digits and members their order.

/** The index behind the string that begins at `from`. */
const stringEnd = (text: string, from: number): number => {
  let at = from + 1
  while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at + 1
}

/** The members' texts, white space included. `text` is a valid JSON object. */
const memberTexts = (text: string): readonly string[] => {
  const members: string[] = []
  let begin = text.indexOf('{') + 1
  let depth = 0
  for (let at = begin; depth >= 0; at++) {
    const c = text[at]
    if (c === '"') at = stringEnd(text, at) - 1
    else if (c === '{' || c === '[') depth++
    else if (c === '}' || c === ']') depth--
    const isEnd = depth < 0
    if (!isEnd && !(c === ',' && depth === 0)) continue
    members.push(text.slice(begin, at))
    begin = at + 1
  }
  return members.filter((member) => member.trim() !== '')
}

const nameOf = (member: string): string => {
  const from = member.indexOf('"')
  return JSON.parse(member.slice(from, stringEnd(member, from)))
}

/** `text` (a valid JSON object on one line) with `members` at its end; members of these names that it had
 * are left out. */
export const setMembers = (text: string, members: Readonly<Record<string, unknown>>): string => {
  const kept = memberTexts(text).filter((member) => !Object.hasOwn(members, nameOf(member)))
  const ours = Object.entries(members)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`)
  return `{${[...kept, ...ours].join(',')}}`
}
