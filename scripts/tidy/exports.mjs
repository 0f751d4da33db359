// Finds the exports of TypeScript that no other file takes.

import { dirname, join, normalize } from 'node:path'

const EXPORT =
  /^export (?:declare )?(?:async )?(?:const|let|function\*?|class|type|interface|enum) ([\w$]+)/gm
const IMPORT = /\b(?:import|export)\s+(?:type\s+)?([^;'"()]*?)\s*from\s+'(\.[^']*)'/g
const DYNAMIC = /\bimport\('(\.[^']*)'\)|new URL\('(\.[^']*)'/g

/** As it is written, without how it ends: `.js` may be `.ts` or `.tsx`. */
const stem = (file) => file.replace(/\.(?:js|tsx?)$/, '')
const target = (file, specifier) => stem(normalize(join(dirname(file), specifier)))

/** The names between the braces of an import; `*` where it takes all. */
const namesIn = (clause) => {
  const list = /\{([^}]*)\}/.exec(clause)?.[1]
  if (list === undefined) return ['*']
  return list
    .split(',')
    .map((one) => one.trim().replace(/^type\s+/, ''))
    .map((one) => one.split(/\s+as\s+/)[0] ?? '')
    .filter(Boolean)
}

/** `sources`: path -> text; `isFace`: what is public without an import. */
export const unusedExports = (sources, isFace) => {
  const taken = new Map()
  const take = (file, names) => {
    taken.set(file, new Set([...(taken.get(file) ?? []), ...names]))
  }
  for (const [file, text] of sources) {
    for (const [, clause, specifier] of text.matchAll(IMPORT))
      take(target(file, specifier), namesIn(clause))
    for (const [, specifier, script] of text.matchAll(DYNAMIC))
      take(target(file, specifier ?? script), ['*'])
  }
  return [...sources].flatMap(([file, text]) =>
    [...text.matchAll(EXPORT)]
      .map(([, name]) => name)
      .filter((name) => !isFace(file, name))
      .filter((name) => !taken.get(stem(file))?.has(name) && !taken.get(stem(file))?.has('*'))
      .map((name) => `${file}: ${name} is exported and no other file takes it`),
  )
}
