// JSON in a text that clients read by lines.

const LINE_ENDS = /[\u0085\u2028\u2029]/g

/** Escapes what JSON may have in its strings as it is and Unicode calls the end of a line: some clients (httpx) end a
 * line there, in the middle of an event. */
export const onOneLine = (json: string): string =>
  json.replace(LINE_ENDS, (end) => `\\u${end.charCodeAt(0).toString(16).padStart(4, '0')}`)
