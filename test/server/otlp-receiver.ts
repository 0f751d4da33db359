// A collector of OpenTelemetry on a free port: takes traces as OTLP's protobuf, and keeps their spans.

import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'

/** Values by field number. Fixed and variable numbers are bigints, everything else is bytes. */
type Message = ReadonlyMap<number, readonly (bigint | Buffer)[]>

const parse = (bytes: Buffer): Message => {
  const fields = new Map<number, (bigint | Buffer)[]>()
  let at = 0
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes.readUInt8(at++)
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
  }
  const taken = (length: number): Buffer => {
    if (at + length > bytes.length) throw new Error('the message ends early')
    at += length
    return bytes.subarray(at - length, at)
  }
  const read = (type: number): bigint | Buffer => {
    if (type === 0) return varint()
    if (type === 1) return taken(8).readBigUInt64LE()
    if (type === 2) return taken(Number(varint()))
    if (type === 5) return BigInt(taken(4).readUInt32LE())
    throw new Error(`wire type ${type}`)
  }
  while (at < bytes.length) {
    const key = Number(varint())
    const list = fields.get(key >> 3) ?? []
    list.push(read(key & 7))
    fields.set(key >> 3, list)
  }
  return fields
}

const messages = (message: Message, field: number): readonly Message[] =>
  (message.get(field) ?? []).map((one) => parse(one as Buffer))
const bytesOf = (message: Message, field: number): Buffer =>
  (message.get(field)?.[0] as Buffer | undefined) ?? Buffer.alloc(0)
const numberOf = (message: Message, field: number): bigint =>
  (message.get(field)?.[0] as bigint | undefined) ?? 0n

type Value = string | number | boolean | readonly Value[] | null

/** AnyValue of common.proto. */
const anyValue = (value: Message): Value => {
  if (value.has(1)) return bytesOf(value, 1).toString()
  if (value.has(2)) return numberOf(value, 2) === 1n
  if (value.has(3)) return Number(BigInt.asIntN(64, numberOf(value, 3)))
  if (value.has(4)) {
    const bits = Buffer.alloc(8)
    bits.writeBigUInt64LE(numberOf(value, 4))
    return bits.readDoubleLE()
  }
  if (value.has(5)) return messages(parse(bytesOf(value, 5)), 1).map(anyValue)
  return null
}

const attributesOf = (message: Message, field: number): Readonly<Record<string, Value>> =>
  Object.fromEntries(
    messages(message, field).map((one) => [
      bytesOf(one, 1).toString(),
      anyValue(parse(bytesOf(one, 2))),
    ]),
  )

const spanOf = (span: Message, resource: Readonly<Record<string, Value>>) => ({
  trace: bytesOf(span, 1).toString('hex'),
  id: bytesOf(span, 2).toString('hex'),
  parent: bytesOf(span, 4).toString('hex'),
  name: bytesOf(span, 5).toString(),
  /** 1: internal, 2: server. */
  kind: Number(numberOf(span, 6)),
  /** Milliseconds since 1970. */
  start: Number(numberOf(span, 7)) / 1e6,
  end: Number(numberOf(span, 8)) / 1e6,
  attributes: attributesOf(span, 9),
  /** 0: unset, 2: an error. */
  status: span.has(15) ? Number(numberOf(parse(bytesOf(span, 15)), 3)) : 0,
  resource,
})

export type ReceivedSpan = ReturnType<typeof spanOf>

const spansOf = (body: Buffer): readonly ReceivedSpan[] =>
  messages(parse(body), 1).flatMap((perResource) => {
    const resource = attributesOf(parse(bytesOf(perResource, 1)), 1)
    return messages(perResource, 2).flatMap((perScope) =>
      messages(perScope, 2).map((span) => spanOf(span, resource)),
    )
  })

export const startReceiver = async () => {
  const spans: ReceivedSpan[] = []
  const bodies: Buffer[] = []
  const posts: { readonly path: string; readonly headers: IncomingHttpHeaders }[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks)
      posts.push({ path: request.url ?? '', headers: request.headers })
      bodies.push(body)
      spans.push(...spansOf(body))
      response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    spans,
    bodies,
    posts,
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
