import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { readJinja } from '../../server/prompt/jinja.js'
import { fromJson, isDict, type Value } from '../../server/prompt/value.js'

type Case = { readonly template: string; readonly values: string; readonly expected: string | null }

const CASES: readonly Case[] = JSON.parse(
  readFileSync(new URL('../golden/jinja.json', import.meta.url), 'utf8'),
)

const valuesOf = (json: string): ReadonlyMap<string, Value> => {
  const value = fromJson(json, (text) => text, { depth: 64, values: 10_000 })
  assert.ok(isDict(value))
  return new Map([...value].map(([name, one]) => [String(name), one]))
}

const render = (template: string, json = '{}'): string => readJinja(template).render(valuesOf(json))

describe('templates', () => {
  test('come out as jinja2 makes them, to the byte', () => {
    const wrong = CASES.flatMap(({ template, values, expected }) => {
      let actual: string | null
      try {
        actual = render(template, values)
      } catch {
        actual = null
      }
      return actual === expected ? [] : [{ template: template.slice(0, 200), actual, expected }]
    })
    assert.deepEqual(wrong, [])
  })

  test('refuse what has no absolute value', () => {
    assert.throws(() => render("{{ 'a' | abs }}"), /'abs' of a str/)
    assert.equal(render('{{ -2 | abs }}'), '2')
  })

  test('with what we do not know are refused when they are read', () => {
    for (const [source, why] of [
      ['{{ x | wordwrap(3) }}', /no filter is named 'wordwrap'/],
      ['{% filter center %}a{% endfilter %}', /no filter is named 'center'/],
      ['{{ x.zfill(3) }}', /no method is named 'zfill'/],
      ['{% if false %}{{ x is escaped }}{% endif %}', /no test is named 'escaped'/],
      ['{{ 1 < x < 3 }}', /chain of comparisons/],
      ['{% break %}', /outside of a loop/],
      ['{% raw %}{{ x }}{% endraw %}', /Unknown statement type: raw/],
      ['{% if x %}', /./],
    ] as const)
      assert.throws(() => readJinja(source), why, source)
  })

  test('what is wrong is said in the words of Python', () => {
    for (const [value, name] of [
      ['1', 'int'],
      ['1.5', 'float'],
      ['true', 'bool'],
      ['none', 'NoneType'],
      ['[]', 'list'],
    ])
      assert.throws(() => render(`{{ ${value} | items }}`), new RegExp(`'items' of a ${name}`))
  })

  test('arguments are as deep as their bound, and no deeper', () => {
    const nested = (depth: number) => () =>
      fromJson(`${'['.repeat(depth)}"]\\\\"${']'.repeat(depth)}`, (text) => text, {
        depth: 64,
        values: 1000,
      })
    assert.doesNotThrow(nested(64))
    assert.throws(nested(65), /nested too deep/)
  })

  test('cannot take the process: loops, ranges, texts and numbers have bounds', () => {
    const all = '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}'
    assert.throws(() => render(all), /too many steps/)
    assert.throws(() => render('{{ range(100001) }}'), /100000 at most/)
    assert.throws(() => render("{{ 'x' * 100000000 }}"), /beyond all bounds/)
    const written = "{% set t = 'x' * 1000000 %}{% for a in range(99) %}{{ t }}{% endfor %}"
    assert.throws(() => render(written), /beyond all bounds/)
    const doubled =
      "{% set n = namespace(t='xxxx') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}"
    assert.throws(() => render(doubled), /beyond all bounds/)
    assert.throws(() => render('{{ 10 ** 4000 ** 10 }}'), /beyond all bounds/)
  })
})
