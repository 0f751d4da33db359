// What is known of files and batches, in one SQLite file. It is this process's alone while it is open, and
// what `save` has returned from is there after a kill or a loss of power.

import { existsSync } from 'node:fs'
import Database from 'libsql'

/** Raised whenever the tables below change. */
const LEDGER_VERSION = 1

export type FileRow = {
  readonly id: string
  /** Who may see it: '' where there were no keys. */
  readonly owner: string
  readonly bytes: number
  /** Seconds since 1970, as all times here. */
  readonly created: number
  readonly filename: string
  readonly purpose: string
  readonly expires: number | null
}

const STATUSES = [
  'validating',
  'failed',
  'in_progress',
  'finalizing',
  'completed',
  'expired',
  'cancelling',
  'cancelled',
] as const
export type BatchStatus = (typeof STATUSES)[number]

export type BatchRow = {
  readonly id: string
  readonly owner: string
  readonly endpoint: string
  readonly input: string
  readonly window: string
  readonly created: number
  readonly expires: number
  readonly status: BatchStatus
  /** What `finalizing` ends in. */
  readonly outcome: 'completed' | 'expired' | 'cancelled'
  /** JSON, or null. */
  readonly metadata: string | null
  /** Seconds for which its outputs are kept. */
  readonly keep: number | null
  readonly total: number
  readonly completed: number
  readonly failed: number
  readonly output: string | null
  readonly error: string | null
  /** Why the batch as a whole failed: JSON, or null. */
  readonly problems: string | null
  readonly began: number | null
  readonly finalizing: number | null
  readonly cancelling: number | null
  readonly ended: number | null
}

/** A line of an input file. */
export type NewLine = {
  readonly number: number
  readonly customId: string | null
  /** Where it is in the file, in bytes. */
  readonly at: number
  readonly size: number
  /** Of a line that cannot be asked: what its place in the error file says. */
  readonly answer: string | null
}
export type OpenLine = Pick<NewLine, 'number' | 'at' | 'size'> & { readonly customId: string }
export type Answer = {
  readonly batch: string
  readonly number: number
  readonly isOk: boolean
  /** A line of the output or error file. */
  readonly text: string
}
type ToldLine = {
  readonly number: number
  readonly customId: string | null
  /** Undefined for a line that nobody asked. */
  readonly answer: { readonly isOk: boolean; readonly text: string } | undefined
}

const TABLES = `
CREATE TABLE files (id TEXT PRIMARY KEY, owner TEXT NOT NULL, bytes INTEGER NOT NULL,
  created INTEGER NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL, expires INTEGER);
CREATE TABLE batches (id TEXT PRIMARY KEY, owner TEXT NOT NULL, endpoint TEXT NOT NULL,
  input TEXT NOT NULL, "window" TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL,
  status TEXT NOT NULL, outcome TEXT NOT NULL, metadata TEXT, keep INTEGER, total INTEGER NOT NULL,
  completed INTEGER NOT NULL, failed INTEGER NOT NULL, output TEXT, error TEXT, problems TEXT,
  began INTEGER, finalizing INTEGER, cancelling INTEGER, ended INTEGER);
CREATE INDEX states ON batches (status);
CREATE TABLE lines (batch TEXT NOT NULL, number INTEGER NOT NULL, customId TEXT, at INTEGER NOT NULL,
  size INTEGER NOT NULL, isOk INTEGER, answer TEXT, PRIMARY KEY (batch, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX names ON lines (batch, customId);
PRAGMA user_version = ${LEDGER_VERSION};
`

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error ? String(error.code) : ''

/** The disk or a quota is full: it goes on once there is space. */
export const isFull = (error: unknown): boolean =>
  ['SQLITE_FULL', 'ENOSPC', 'EDQUOT'].includes(codeOf(error)) ||
  codeOf(error).startsWith('SQLITE_IOERR')

const refusal = (error: unknown, path: string): unknown => {
  const code = codeOf(error)
  if (code.startsWith('SQLITE_BUSY'))
    return new Error(
      `${path} is in use: another server has this --data-dir. Stop it, or name another folder.`,
    )
  if (code === 'SQLITE_NOTADB')
    return new Error(`${path} is no ledger of batches: name another --data-dir.`)
  if (code.startsWith('SQLITE_CORRUPT'))
    return new Error(
      `${path} is damaged: put a copy of it in its place, or name another --data-dir.`,
    )
  if (code.startsWith('SQLITE_READONLY'))
    return new Error(
      `${path} cannot be written: check who may use the folder, and whether its file system is read-only.`,
    )
  if (isFull(error))
    return new Error(`${path} cannot be written: its disk is full or failing. Free some space.`)
  return error
}

const versionOf = (db: Database.Database): number => {
  const row = db.prepare('PRAGMA user_version').get() as { readonly user_version: number }
  return row.user_version
}

/** libsql keeps a connection, and with it the lock, until its statements are collected: the lock is given
 * back first. */
const release = (db: Database.Database): void => {
  try {
    if (db.inTransaction) db.exec('ROLLBACK')
    db.pragma('journal_mode = DELETE')
    db.pragma('locking_mode = NORMAL')
    db.prepare('SELECT 1 FROM sqlite_master').get()
  } catch {
    // Another's, or no database: nothing is held.
  }
  db.close()
}

/** libsql's own error says a number. */
const connect = (path: string): Database.Database => {
  try {
    return new Database(path)
  } catch (error) {
    throw new Error(`${path} cannot be opened: check what it is, and who may use its folder.`, {
      cause: error,
    })
  }
}

const openDatabase = (path: string): Database.Database => {
  const isNew = !existsSync(path)
  const db = connect(path)
  try {
    // Exclusive from the first access on, so that a second server is told at once.
    db.pragma('locking_mode = EXCLUSIVE')
    db.pragma('journal_mode = WAL')
    db.pragma('synchronous = FULL')
    db.exec('BEGIN IMMEDIATE')
    const version = versionOf(db)
    const tables = db.prepare('SELECT name FROM sqlite_master').all()
    // A server that was killed while it made the file left no table.
    if (isNew || (version === 0 && tables.length === 0)) db.exec(TABLES)
    else if (version !== LEDGER_VERSION)
      throw new Error(
        `${path} has version ${version} and this server knows ${LEDGER_VERSION}: start the server that made it, or name another --data-dir.`,
      )
    db.exec('COMMIT')
    return db
  } catch (error) {
    release(db)
    throw refusal(error, path)
  }
}

type PageQuery = {
  readonly limit: number
  readonly after?: string | undefined
  readonly order: 'asc' | 'desc'
  readonly purpose?: string | undefined
}

type Sql = (text: string) => Database.Statement<unknown[]>

const insert = (
  sql: Sql,
  table: 'files' | 'batches',
  row: Readonly<Record<string, unknown>>,
): void => {
  const names = Object.keys(row)
  const places = names.map(() => '?').join(', ')
  sql(
    `INSERT INTO ${table} (${names.map((name) => `"${name}"`).join(', ')}) VALUES (${places})`,
  ).run(...Object.values(row))
}

/** The newest first, or the oldest; after the row `after`. */
const page = (
  sql: Sql,
  table: 'files' | 'batches',
  owner: string,
  { limit, after, order, purpose }: PageQuery,
): readonly unknown[] => {
  const compare = order === 'asc' ? '>' : '<'
  const cursor =
    after === undefined ? '' : `AND rowid ${compare} (SELECT rowid FROM ${table} WHERE id = ?)`
  const kind = purpose === undefined ? '' : 'AND purpose = ?'
  return sql(
    `SELECT * FROM ${table} WHERE owner = ? ${cursor} ${kind} ORDER BY rowid ${order} LIMIT ?`,
  ).all(
    owner,
    ...(after === undefined ? [] : [after]),
    ...(purpose === undefined ? [] : [purpose]),
    limit,
  )
}

const fileTable = (sql: Sql) => ({
  addFile: (row: FileRow): void => insert(sql, 'files', row),
  file: (id: string) => sql('SELECT * FROM files WHERE id = ?').get(id) as FileRow | undefined,
  files: (owner: string, query: PageQuery) =>
    page(sql, 'files', owner, query) as readonly FileRow[],
  allFiles: () => sql('SELECT id FROM files').all() as readonly Pick<FileRow, 'id'>[],
  expiredFiles: (now: number) =>
    sql('SELECT * FROM files WHERE expires <= ?').all(now) as readonly FileRow[],
  removeFile: (id: string): void => void sql('DELETE FROM files WHERE id = ?').run(id),
})

const batchTable = (sql: Sql) => ({
  addBatch: (row: BatchRow): void => insert(sql, 'batches', row),
  batch: (id: string) => sql('SELECT * FROM batches WHERE id = ?').get(id) as BatchRow | undefined,
  batches: (owner: string, query: PageQuery) =>
    page(sql, 'batches', owner, query) as readonly BatchRow[],
  /** Those that have not ended, in the order in which they came. */
  live: () =>
    sql(
      "SELECT * FROM batches WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') ORDER BY rowid",
    ).all() as readonly BatchRow[],
  usesFile: (file: string): boolean =>
    sql(
      "SELECT 1 FROM batches WHERE input = ? AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')",
    ).get(file) !== undefined,
  /** A kill came before the lines of these were removed. */
  endedWithLines: () =>
    sql(
      "SELECT id FROM batches WHERE status IN ('failed', 'completed', 'expired', 'cancelled') AND EXISTS (SELECT 1 FROM lines WHERE batch = id)",
    ).all() as readonly Pick<BatchRow, 'id'>[],
  byStatus: () =>
    sql('SELECT status, COUNT(*) AS count FROM batches GROUP BY status').all() as readonly {
      readonly status: BatchStatus
      readonly count: number
    }[],
  setBatch: (id: string, change: Partial<BatchRow>): void => {
    const names = Object.keys(change)
    sql(`UPDATE batches SET ${names.map((name) => `"${name}" = ?`).join(', ')} WHERE id = ?`).run(
      ...Object.values(change),
      id,
    )
  },
})

const lineTable = (sql: Sql) => ({
  /** The line that already has this name in the batch. */
  lineNamed: (batch: string, customId: string): number | undefined =>
    (
      sql('SELECT number FROM lines WHERE batch = ? AND customId = ?').get(batch, customId) as
        | { readonly number: number }
        | undefined
    )?.number,
  addLine: (batch: string, { number, customId, at, size, answer }: NewLine): void =>
    void sql('INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?)').run(
      batch,
      number,
      customId,
      at,
      size,
      answer === null ? null : 0,
      answer,
    ),
  /** Up to so many; how many. */
  removeLines: (batch: string, most: number): number =>
    sql(
      'DELETE FROM lines WHERE batch = ? AND number IN (SELECT number FROM lines WHERE batch = ? ORDER BY number LIMIT ?)',
    ).run(batch, batch, most).changes,
  /** The next lines without an answer. */
  openLines: (batch: string, after: number, limit: number) =>
    sql(
      'SELECT number, customId, at, size FROM lines WHERE batch = ? AND number > ? AND answer IS NULL ORDER BY number LIMIT ?',
    ).all(batch, after, limit) as readonly OpenLine[],
  /** An answer is written once: a second one for a line changes nothing. */
  addAnswer: ({ batch, number, isOk, text }: Answer): void => {
    const { changes } = sql(
      'UPDATE lines SET isOk = ?, answer = ? WHERE batch = ? AND number = ? AND answer IS NULL',
    ).run(isOk ? 1 : 0, text, batch, number)
    if (changes === 1)
      sql(
        `UPDATE batches SET ${isOk ? 'completed = completed' : 'failed = failed'} + 1 WHERE id = ?`,
      ).run(batch)
  },
  told: (batch: string, after: number, limit: number): readonly ToldLine[] =>
    (
      sql(
        'SELECT number, customId, isOk, answer FROM lines WHERE batch = ? AND number > ? ORDER BY number LIMIT ?',
      ).all(batch, after, limit) as readonly {
        readonly number: number
        readonly customId: string | null
        readonly isOk: number
        readonly answer: string | null
      }[]
    ).map(({ number, customId, isOk, answer }) => ({
      number,
      customId,
      answer: answer === null ? undefined : { isOk: isOk === 1, text: answer },
    })),
})

export type Ledger = ReturnType<typeof openLedger>

export const openLedger = (path: string) => {
  const db = openDatabase(path)
  const statements = new Map<string, Database.Statement<unknown[]>>()
  const sql: Sql = (text) => {
    const found = statements.get(text) ?? db.prepare(text)
    statements.set(text, found)
    return found
  }
  return {
    ...fileTable(sql),
    ...batchTable(sql),
    ...lineTable(sql),
    /** All of it or nothing, on the disk when it returns. */
    save: (work: () => void): void => {
      db.exec('BEGIN IMMEDIATE')
      try {
        work()
        db.exec('COMMIT')
      } catch (error) {
        // A full disk may have rolled back already.
        if (db.inTransaction) db.exec('ROLLBACK')
        throw error
      }
    },
    /** What belongs to nobody is this one's from now on. */
    adopt: (owner: string): void => {
      for (const table of ['files', 'batches'])
        sql(`UPDATE ${table} SET owner = ? WHERE owner = ''`).run(owner)
    },
    close: (): void => {
      statements.clear()
      release(db)
    },
  }
}
