// Why a socket was closed before its answer was out: its client had stopped, to read it or to send its request.
// Known by the socket's own error, so that whoever hears of the end can say why.

import type { Socket } from 'node:net'

export class StalledClient extends Error {
  override readonly message = 'the client stopped'
}

/** Of a socket that was closed before its answer was out. Null: it was let go already. */
export const whyGone = (socket: Socket | null): 'closed' | 'stalled' =>
  socket?.errored instanceof StalledClient ? 'stalled' : 'closed'
