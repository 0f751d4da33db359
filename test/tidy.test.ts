// The tidy check finds what it is for; otherwise it would be green for ever.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { packagePath } from '../server/version.js'

type Found = { name: string; count: number; first: number; last: number; isKernel: boolean }
type Functions = { functionsOf: (text: string, isCxx: boolean) => Found[] }
type Exports = {
  unusedExports: (
    sources: ReadonlyMap<string, string>,
    isFace: (file: string, name: string) => boolean,
  ) => string[]
}

const load = async <T>(name: string): Promise<T> =>
  import(pathToFileURL(packagePath(`scripts/tidy/${name}.mjs`)).href)

const shown = ({ name, count, first, last }: Found): string => `${name} ${count} ${first}-${last}`

test('functions of TypeScript, their parameters and lines', async () => {
  const { functionsOf } = await load<Functions>('functions')
  const text = `
const plain = (a: number, { b, c }: { b: string; c: string }): Map<string, { d: number }> => {
  if (a > 1) {
    return /[{]/.test(b) ? new Map() : new Map([['}', { d: \`\${a}{\` }]])
  }
}
async function declared(
  // a comment {
  a: () => void,
  b = { c: 1, d: 2 },
): Promise<void> {
}
const made = { method: async (x: number) => {
} }
list.map((one) => {
})
`
  assert.deepEqual(functionsOf(text, false).map(shown), [
    'plain 2 2-6',
    'declared 2 7-12',
    'method 1 13-14',
    'anonymous 1 15-16',
  ])
})

test('functions of C++, their parameters and lines', async () => {
  const { functionsOf } = await load<Functions>('functions')
  const text = `
#define BODY(x) { x }
namespace n {
template <class A, class B>
Status Thing::make(A a, std::map<int, B> b = {}, int c = 1'000) const noexcept {
  const Shape s{.a = 1};
  for (int i = 0; i < 3; ++i) { use("}"); }
  const auto inner = [&](int x, int y) -> int {
    return x;
  };
}
Thing::Thing(int a) : a_(a), b_{a} {
}
__global__ void __launch_bounds__(256) kernel(int a) {
}
}
`
  const found = functionsOf(text, true)
  assert.deepEqual(found.map(shown), [
    'Thing::make 3 4-11',
    'inner 2 8-10',
    'Thing::Thing 1 12-13',
    'kernel 1 14-15',
  ])
  assert.equal(found.at(-1)?.isKernel, true)
})

test('exports that nobody takes', async () => {
  const { unusedExports } = await load<Exports>('exports')
  const sources = new Map([
    ['a/one.ts', 'export const used = 1\nexport type Odd = 1\nexport const face = 2\n'],
    ['b/two.ts', "import { used as other, type More } from '../a/one.js'\nexport const run = 1\n"],
    ['b/three.ts', "await import('./two.js')\n"],
  ])
  assert.deepEqual(
    unusedExports(sources, (_, name) => name === 'face'),
    ['a/one.ts: Odd is exported and no other file takes it'],
  )
})
