import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { characterAt, countCharacters, sliceCharacters } from '../../server/prompt/characters.js'
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

  test('count characters as a list of them does, with pairs, halves and none of either', () => {
    const unit = fc.constantFrom('a', 'é', '\u2028', '😀', '\ud83d', '\ude00')
    const texts = fc.array(unit, { maxLength: 12 }).map((units) => units.join(''))
    const bound = fc.option(fc.integer({ min: -14, max: 14 }), { nil: undefined })
    fc.assert(
      fc.property(texts, bound, bound, (text, from, to) => {
        const list = [...text]
        assert.equal(countCharacters(text), list.length)
        assert.equal(characterAt(text, from ?? 0), list.at(from ?? 0))
        assert.equal(sliceCharacters(text, from, to), list.slice(from, to).join(''))
      }),
      { numRuns: 2000, seed: 1 },
    )
  })

  test('refuse what has no absolute value', () => {
    assert.throws(() => render("{{ 'a' | abs }}"), /'abs' of a str/)
    assert.equal(render('{{ -2 | abs }}'), '2')
  })

  test('read a number of many digits soon, and what is none', () => {
    const digits = '1'.repeat(60_000)
    const began = performance.now()
    for (const name of ['int', 'float'])
      assert.match(render(`{{ x | ${name} }}`, JSON.stringify({ x: `${digits}x` })), /^0(\.0)?$/)
    assert.ok(performance.now() - began < 3000)
    assert.equal(render("{{ '1.' | float }} {{ '-.5e1' | float }} {{ '1.9' | int }}"), '1.0 -5.0 1')
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
    for (const [source, why] of [
      ['{{ 3 | list }}', /'list' of a int/],
      ['{{ 3 | indent }}', /'indent' of a int/],
      ['{{ none | length }}', /'length' of a NoneType/],
      ['{{ nothing | int }}', /'nothing' is undefined/],
      ['{{ nothing.a }}', /'nothing' is undefined/],
      ['{{ nothing + 1 }}', /'nothing' is undefined/],
      ["{{ 'a' is odd }}", /'odd' or 'even' of a str/],
      ["{{ range('a') }}", /range\(\) of a str/],
      ['{{ range() }}', /range\(\) takes 1 to 3 arguments, not 0/],
      ['{{ 1[0:1] }}', /a slice of a int/],
      ["{{ 1 + 'a' }}", /'\+' between int and str/],
      ["{{ -'a' }}", /'-' of a str/],
      ['{{ 1 < none }}', /'int' and 'NoneType' cannot be ordered/],
      ['{{ [] in {} }}', /a list cannot be a key/],
      ['{{ 0 ** -1 }}', /0 to the power of a negative number/],
      ['{{ (-8) ** 0.5 }}', /a root of a negative number/],
      ['{{ 9.0 ** 999 }}', /a number grew beyond all bounds/],
      ['{{ 9 ** 4097 }}', /a number grew beyond all bounds/],
      ['{{ dict(**[1]) }}', /\*\* of a list/],
      ["{{ 'a'.split(1) }}", /'sep' must be a text, not int/],
      ["{{ 'a'.replace('a') }}", /replace\(\) needs 'new'/],
      ["{{ 'a'.upper(1) }}", /upper\(\) takes at most 0 arguments/],
      ["{{ 'a'.split(by=1) }}", /split\(\) has no argument 'by'/],
      ["{{ 'a'.split('a', 1.5) }}", /'maxsplit' must be an integer, not float/],
      ["{{ 'a'.join([1]) }}", /an item is int/],
      ["{{ [2].index('2') }}", /2 is not in the list/],
      ['{% set [1][0] = 2 %}', /only a namespace can be written to/],
      ['{% set x.y = 2 %}', /only a namespace can be written to/],
      ['{% set a, b = [1] %}', /1 values for 2 names/],
      ['{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}', /takes at most 1 arguments/],
      ['{% macro f(a) %}{% endmacro %}{{ f(1, a=2) }}', /two values for its argument 'a'/],
      ['{% macro f(a) %}{% endmacro %}{{ f(b=2) }}', /has no argument 'b'/],
      ["{{ [1] | select('nope') }}", /has no test named 'nope'/],
      ["{{ [1] | map('nope') }}", /'map' needs the name of a filter/],
      ['{{ nothing | tojson }}', /'nothing' is undefined and cannot be written as JSON/],
      ['{{ range | tojson }}', /a function cannot be written as JSON/],
      ['{{ namespace(1) }}', /takes a dict or named values/],
    ] as const)
      assert.throws(() => render(source), why, source)
  })

  test('arguments are as deep as their bound, and no deeper', () => {
    const nested = (depth: number) => () =>
      fromJson(`${'['.repeat(depth)}"]\\\\"${']'.repeat(depth)}`, (text) => text, {
        depth: 64,
        values: 1000,
      })
    assert.doesNotThrow(nested(64))
    assert.throws(nested(65), /nested too deep/)
    const flat = `[${Array(500).fill('[[1], "]", "[", {"a": [2]}]')}]`
    assert.doesNotThrow(() => fromJson(flat, (text) => text, { depth: 4, values: 10_000 }))
    assert.throws(
      () => fromJson(flat, (text) => text, { depth: 3, values: 10_000 }),
      /nested too deep/,
    )
  })

  test('what is nested without end is found at once, not when all of it was read', () => {
    for (const open of ['[', '[ ', '[1, ', '{"a": ']) {
      const source = open.repeat(1_000_000)
      let best = Number.POSITIVE_INFINITY
      for (let i = 0; i < 5; i++) {
        const since = performance.now()
        assert.throws(
          () => fromJson(source, (text) => text, { depth: 64, values: 1000 }),
          /nested too deep/,
        )
        best = Math.min(best, performance.now() - since)
      }
      assert.ok(best < 5, `${open}: ${best} ms`)
    }
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
    const grown = '{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}'
    assert.throws(() => render(`{% set ns = namespace(x=[1]) %}${grown}`), /beyond all bounds/)
    // A value that stands in itself many times is small until it is read through.
    const nested =
      '{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(40) %}' +
      '{% set ns.x = [ns.x, ns.x] %}{% set ns.y = {"a": ns.y, "b": ns.y} %}{% endfor %}'
    const uses = ['ns.x', 'ns.x | tojson', 'ns.x ~ 1', 'ns.x == [ns.x]', 'ns.x in [ns.x]', 'ns.y']
    for (const use of [...uses, 'ns.y | string'])
      assert.throws(() => render(`${nested}{{ ${use} }}`), /too many steps/, use)
    const large =
      "{% set l = range(50000) | list %}{% set k = range(50000) | list %}{% set t = 'ab' * 9999999 %}"
    const reads = ['1 in l', 'l + l', 'l[1:]', 'l == k', '"c" in t', 't[1:]', 't[9]', 't | length']
    for (const use of [...reads, 't.count("c")'])
      assert.throws(
        () => render(`${large}{% for i in range(90000) %}{% set x = ${use} %}{% endfor %}`),
        /too many steps/,
        use,
      )
    assert.equal(render("{{ 'abcdef'[-2:] }}{{ 'abcdef'[4:2] }}{{ 'a😀b'[1:2] }}"), 'ef😀')
  })
})
