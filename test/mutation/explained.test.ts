// What explained.json says of a change holds while that change can be made: a line that is gone takes its
// explanation with it.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { packagePath } from '../../server/version.js'

const read = (path: string): string => readFileSync(packagePath(path), 'utf8')

test('each change that is explained can be made', async () => {
  const { placesIn } = await import(pathToFileURL(packagePath('test/mutation/places.mjs')).href)
  for (const key of Object.keys(JSON.parse(read('test/mutation/explained.json')))) {
    const file = key.slice(0, key.indexOf(' ('))
    const keys = placesIn(file, read(file)).map((place: { readonly key: string }) => place.key)
    assert.ok(keys.includes(key), key)
  }
})
