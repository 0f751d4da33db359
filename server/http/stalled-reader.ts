// Why a socket was closed under its answer: its reader had stopped to read. Known by the socket's own error, so
// that whoever hears of the end can say why.

import type { Socket } from 'node:net'

export class StalledReader extends Error {
  override readonly message = 'the reader stopped to read'
}

/** Of a socket that was closed before its answer was out. Null: it was let go already. */
export const whyGone = (socket: Socket | null): 'closed' | 'stalled' =>
  socket?.errored instanceof StalledReader ? 'stalled' : 'closed'
