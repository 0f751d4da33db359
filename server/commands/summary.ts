// What a command says at its end: sections of named rows of figures, for people or for programs.

export const SUMMARIES = ['text', 'markdown', 'json', 'csv'] as const
export type SummaryFormat = (typeof SUMMARIES)[number]

export type Section = {
  readonly name: string
  readonly rows: readonly {
    readonly name: string
    readonly values: Readonly<Record<string, number | null>>
  }[]
}

/** Columns as wide as their widest cell; the first to the left, the others to the right. */
const table = (rows: readonly (readonly string[])[]): string => {
  const widths = rows[0]?.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0))) ?? []
  return rows
    .map((row) =>
      row
        .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** Head and rows; every figure that one of the rows has is a column. */
const cellsOf = ({ name, rows }: Section): readonly (readonly string[])[] => {
  const columns = [...new Set(rows.flatMap(({ values }) => Object.keys(values)))]
  /** Of one form down a column. */
  const digits = columns.map((column) =>
    rows.every(({ values }) => Number.isInteger(values[column] ?? 0)) ? 0 : 4,
  )
  return [
    [name, ...columns],
    ...rows.map(({ name: row, values }) => [
      row,
      ...columns.map((column, i) => values[column]?.toFixed(digits[i]) ?? '-'),
    ]),
  ]
}

const markdown = (section: Section): string => {
  const escaped = (cell: string) => cell.replaceAll('|', '\\|')
  const line = (cells: readonly string[]) => `| ${cells.map(escaped).join(' | ')} |`
  const [head = [], ...rows] = cellsOf(section)
  const rule = `|${head.map((_, i) => (i === 0 ? '---|' : '---:|')).join('')}`
  return [line(head), rule, ...rows.map(line)].join('\n')
}

const csvCell = (cell: string): string =>
  /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell

/** One figure a line, in full. */
const csv = (sections: readonly Section[]): string => {
  const lines = sections.flatMap(({ name, rows }) =>
    rows.flatMap((row) =>
      Object.entries(row.values).map(([figure, value]) => [name, row.name, figure, value ?? '']),
    ),
  )
  return [['section', 'row', 'figure', 'value'], ...lines]
    .map((cells) => cells.map((cell) => csvCell(String(cell))).join(','))
    .join('\n')
}

export const formatSummary = (all: readonly Section[], format: SummaryFormat): string => {
  const sections = all.filter(({ rows }) => rows.length > 0)
  switch (format) {
    case 'json': {
      const named = sections.map(({ name, rows }) => [
        name,
        Object.fromEntries(rows.map((row) => [row.name, row.values])),
      ])
      return JSON.stringify(Object.fromEntries(named), null, 2)
    }
    case 'csv':
      return csv(sections)
    case 'markdown':
      return sections.map(markdown).join('\n\n')
    default:
      return sections.map((section) => table(cellsOf(section))).join('\n\n')
  }
}
