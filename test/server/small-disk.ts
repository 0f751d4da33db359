// A file system of a few megabytes, to be filled up. Mounting one takes root, on Linux.

import { spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export type SmallDisk = {
  readonly folder: string
  /** Takes all space but so many bytes. */
  readonly fill: (left?: number) => void
  /** Gives it back. */
  readonly free: () => void
  readonly close: () => void
}

const BLOCK = Buffer.alloc(4096)

/** Undefined: none can be mounted here. */
export const mountSmallDisk = (megabytes: number): SmallDisk | undefined => {
  const folder = mkdtempSync(join(tmpdir(), 'nemotron-disk-'))
  const options = ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', folder]
  if (spawnSync('mount', options).status !== 0) return undefined
  const filler = join(folder, 'filler')
  return {
    folder,
    fill: (left = 0) => {
      const fd = openSync(filler, 'a')
      try {
        for (;;) {
          const { bavail, bsize } = statfsSync(folder)
          if (bavail * bsize <= left) return
          writeSync(fd, BLOCK)
        }
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error
      } finally {
        closeSync(fd)
      }
    },
    free: () => rmSync(filler, { force: true }),
    close: () => {
      spawnSync('umount', ['-l', folder])
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

const tried = mountSmallDisk(1)
tried?.close()

/** For `describe`. */
export const noSmallDisk: string | false =
  tried === undefined ? 'no small disk can be mounted: that takes root on Linux' : false
