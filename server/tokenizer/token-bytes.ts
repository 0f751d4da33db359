// The bytes of every token, one after another.

import { EngineFailure } from '../failure.js'
import { entriesOf, type Form, type TokenizerFile } from './file.js'

export type ByteTable = { readonly bytes: Uint8Array; readonly ends: Uint32Array }

/** Byte-level BPE writes each byte as one printable character; code of the character -> byte. */
const byteOfCode = (): ReadonlyMap<number, number> => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  const map = new Map<number, number>()
  let shifted = 0x100
  for (let byte = 0; byte < 0x100; byte++) map.set(printable(byte) ? byte : shifted++, byte)
  return map
}

type BytesOf = (token: string, id: number) => Iterable<number>

const ofByteLevel = (): BytesOf => {
  const byteOf = byteOfCode()
  return (token, id) => {
    const bytes: number[] = []
    for (let i = 0; i < token.length; i++) {
      const byte = byteOf.get(token.charCodeAt(i))
      if (byte === undefined)
        throw new EngineFailure({
          code: 'unsupported',
          message: `token ${id} ${JSON.stringify(token)} has a character that stands for no byte`,
        })
      bytes.push(byte)
    }
    return bytes
  }
}

const BYTE = /^<0x([0-9A-Fa-f]{2})>$/

const ofPieces =
  ({ space, byteFallback }: Extract<Form, { kind: 'pieces' }>): BytesOf =>
  (token) => {
    const byte = byteFallback ? BYTE.exec(token)?.[1] : undefined
    if (byte !== undefined) return [Number.parseInt(byte, 16)]
    return Buffer.from(space === undefined ? token : token.replaceAll(space, ' '))
  }

/** `size`: ids up to the last. An id that no token has is empty. */
export const byteTable = (file: TokenizerFile, form: Form, size: number): ByteTable => {
  const texts = new Array<string>(size).fill('')
  for (const [token, id] of entriesOf(file.model.vocab)) texts[id] = token
  const added = new Map(file.added_tokens.map(({ id, content }) => [id, content]))
  const ofToken = form.kind === 'bytes' ? ofByteLevel() : ofPieces(form)
  // A decoder of pieces reads the names of added tokens like all others; that of bytes does not.
  const ofAdded: BytesOf = form.kind === 'bytes' ? (name) => Buffer.from(name) : ofToken
  const bytes: number[] = []
  const ends = texts.map((token, id) => {
    const name = added.get(id)
    for (const byte of name === undefined ? ofToken(token, id) : ofAdded(name, id)) bytes.push(byte)
    return bytes.length
  })
  return { bytes: Uint8Array.from(bytes), ends: Uint32Array.from(ends) }
}
