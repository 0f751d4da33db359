// What /v1/files and /v1/batches take, and how they show a file and a batch: OpenAI's wire.

import { z } from 'zod'
import type { BatchRow, FileRow } from '../../batch/ledger.js'
import { recordOf } from '../../list.js'
import { badRequest } from '../../request-error.js'

const DAY = 86_400
const MAX_DAYS = 30
const UNITS = { s: 1, m: 60, h: 3600, d: DAY } as const

const seconds = z
  .int()
  .min(1)
  .max(MAX_DAYS * DAY)
const expiresAfter = z.object({ anchor: z.literal('created_at'), seconds })

/** OpenAI's limits. */
const metadata = recordOf(z.string().max(512), z.string().max(64)).refine(
  (given) => Object.keys(given).length <= 16,
  { error: 'at most 16 pairs' },
)

export const BatchCreateRequest = z.object({
  input_file_id: z.string().min(1),
  endpoint: z.string().min(1),
  completion_window: z.string().regex(/^[1-9]\d{0,6}[smhd]$/, {
    error: "expected a number and s, m, h or d, such as '24h'",
  }),
  metadata: metadata.optional(),
  output_expires_after: expiresAfter.optional(),
})

/** For the description alone: the form is read as it comes in. */
export const FileCreateForm = z.object({
  file: z.string().meta({ format: 'binary' }),
  purpose: z.literal('batch'),
  'expires_after[anchor]': z.literal('created_at').optional(),
  'expires_after[seconds]': z.coerce.number().pipe(seconds).optional(),
})

export const windowSeconds = (window: string): number => {
  const unit = window.at(-1) as keyof typeof UNITS
  const length = Number(window.slice(0, -1)) * UNITS[unit]
  if (length > MAX_DAYS * DAY)
    throw badRequest(
      `Invalid value for 'completion_window': at most ${MAX_DAYS}d.`,
      'completion_window',
    )
  return length
}

export const fileObject = (row: FileRow) => ({
  id: row.id,
  object: 'file' as const,
  bytes: row.bytes,
  created_at: row.created,
  ...(row.expires !== null && { expires_at: row.expires }),
  filename: row.filename,
  purpose: row.purpose,
  status: 'processed' as const,
  status_details: null,
})

export const batchObject = (row: BatchRow) => {
  const endedAs = (status: BatchRow['status']) => (row.status === status ? row.ended : null)
  return {
    id: row.id,
    object: 'batch' as const,
    endpoint: row.endpoint,
    errors: row.problems === null ? null : { object: 'list', data: JSON.parse(row.problems) },
    input_file_id: row.input,
    completion_window: row.window,
    status: row.status,
    output_file_id: row.output,
    error_file_id: row.error,
    created_at: row.created,
    in_progress_at: row.began,
    expires_at: row.expires,
    finalizing_at: row.finalizing,
    completed_at: endedAs('completed'),
    failed_at: endedAs('failed'),
    expired_at: endedAs('expired'),
    cancelling_at: row.cancelling,
    cancelled_at: endedAs('cancelled'),
    request_counts: { total: row.total, completed: row.completed, failed: row.failed },
    metadata: row.metadata === null ? null : JSON.parse(row.metadata),
  }
}

const MAX_LIST = 10_000

const integer = (text: string): unknown => (/^\d+$/.test(text) ? Number(text) : text)

export const ListQuery = z.object({
  after: z.string().optional(),
  limit: z.preprocess((text) => integer(String(text)), z.int().min(1).max(MAX_LIST)).optional(),
  order: z.enum(['asc', 'desc']).optional(),
  purpose: z.string().optional(),
})

/** A page of a list, and whether there is more. `rows`: one more than the page has, where there is one. */
export const listObject = <T extends { readonly id: string }>(
  rows: readonly T[],
  limit: number,
  show: (row: T) => object,
) => {
  const page = rows.slice(0, limit)
  return {
    object: 'list' as const,
    data: page.map(show),
    first_id: page[0]?.id ?? null,
    last_id: page.at(-1)?.id ?? null,
    has_more: rows.length > limit,
  }
}
