// The page as its reader uses it, in Chromium: on the embedded models, and on a scripted engine where an
// answer has to be slow or its server has to go away.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import type { Browser, Page } from 'playwright-core'
import { type Harness, startHarness } from '../server/harness.js'
import { noAddon, type RealServer, startReal } from '../server/real-server.js'
import { noBrowser, openBrowser, openPage, openWay } from './browser.js'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

const message = (page: Page) => page.getByLabel('Message', { exact: true })
const button = (page: Page, name: string) => page.getByRole('button', { name, exact: true })
const control = (page: Page, name: string) => page.getByLabel(name, { exact: true })
const choice = (page: Page, name: string) => page.getByRole('combobox', { name, exact: false })
const answers = (page: Page) => page.locator('.turn.answer')

const ask = async (page: Page, text: string) => {
  await message(page).fill(text)
  await page.keyboard.press('Enter')
}
const ended = (page: Page) => button(page, 'Regenerate').waitFor()

/** What axe-core finds, in words. It comes in by the debugger, which the page's policy does not bind. */
const faults = async (page: Page): Promise<string[]> => {
  const debug = await page.context().newCDPSession(page)
  const run = async (expression: string) => {
    const { result, exceptionDetails } = await debug.send('Runtime.evaluate', {
      expression,
      awaitPromise: true,
      returnByValue: true,
    })
    assert.equal(exceptionDetails, undefined, exceptionDetails?.text)
    return result.value
  }
  if ((await run('typeof axe')) === 'undefined') await run(`${axe}; undefined`)
  return run(`axe.run(document).then(({ violations }) => violations.map(({ id, nodes }) =>
    [id, ...nodes.map(({ html, failureSummary }) => html + ' ' + failureSummary)].join(': ')))`)
}

/** Each width and each scheme once; each with each where there is time. */
const SHOWN = (['light', 'dark'] as const).flatMap((colorScheme, i) =>
  [1280, 390].flatMap((width, j) =>
    i === j || process.env.NEMOTRON_TEST_LONG === '1' ? [{ width, colorScheme }] : [],
  ),
)

describe('the page, on the embedded models', { skip: noBrowser || noAddon }, () => {
  let server: RealServer
  let browser: Browser
  before(async () => {
    server = await startReal({ kv_cache_memory: '64MiB' })
    browser = await openBrowser()
  })
  after(async () => {
    await browser?.close()
    await server?.close()
  })

  test('an answer streams, its thinking is folded, and the conversation stays', async () => {
    const { page, complaints } = await openPage(browser, server.url)
    await choice(page, 'Thinking').selectOption('on')
    await control(page, 'Temperature').fill('0')
    await ask(page, 'How many r in strawberry?')
    await ended(page)
    const thinking = page.locator('details.thinking')
    assert.equal(await thinking.getAttribute('open'), null)
    assert.match(await answers(page).innerText(), /There are 3 r's in strawberry\./)
    assert.match(await answers(page).innerText(), /\d+ tokens after \d+ .*first after .*tokens\/s/)
    await page.reload()
    await answers(page).waitFor()
    assert.match(await answers(page).innerText(), /There are 3 r's/)
    await button(page, 'Edit').click()
    await page.getByLabel('Edit what was asked').fill('What is 17 + 25?')
    await button(page, 'Ask again').click()
    await page.locator('.prose', { hasText: '42' }).waitFor()
    await ended(page)
    assert.equal(await answers(page).count(), 1)
    assert.equal(await page.locator('.turn.user').innerText(), 'You\nWhat is 17 + 25?\nEdit')
    await button(page, 'New conversation').click()
    assert.equal(await answers(page).count(), 0)
    await button(page, 'Delete What is 17 + 25?').click()
    await page.reload()
    await message(page).waitFor()
    assert.equal(await page.getByText('17 + 25?').count(), 1, 'the example alone')
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('candidates stand side by side, the best first, and another can be taken', async () => {
    const { page, complaints } = await openPage(browser, server.url)
    await choice(page, 'Thinking').selectOption('on')
    await control(page, 'Temperature').fill('1.5')
    await control(page, 'Candidates').fill('4')
    await choice(page, 'Best of the candidates').selectOption('tiny-reward')
    await ask(page, 'How many r in strawberry?')
    await ended(page)
    const cards = page.locator('.candidates > li')
    assert.equal(await cards.count(), 4)
    assert.match(await cards.first().innerText(), /^Best/)
    const rewards = (await page.locator('.reward').allInnerTexts()).map((text) =>
      Number(text.replace('reward ', '')),
    )
    assert.equal(rewards.length, 4)
    assert.deepEqual(
      rewards,
      [...rewards].sort((a, b) => b - a),
    )
    await button(page, 'Go on with this one').nth(1).click()
    assert.match((await cards.nth(2).getAttribute('class')) ?? '', /chosen/)
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('a token shows its probability and its alternatives, to pointer and keys', async () => {
    const { page, complaints } = await openPage(browser, server.url)
    await control(page, 'Token probabilities').check()
    await control(page, 'Temperature').fill('0')
    await ask(page, 'Thanks!')
    await ended(page)
    await page.locator('.token').nth(1).hover()
    const details = page.locator('.details')
    assert.equal(await details.locator('li').count(), 5)
    assert.match(await details.innerText(), /%/)
    assert.equal(await details.locator('li.drawn').count(), 1)
    await page.mouse.move(0, 0)
    await details.waitFor({ state: 'detached' })
    await page.locator('.tokens').focus()
    const first = await details.locator('strong').innerText()
    await page.keyboard.press('ArrowRight')
    assert.notEqual(await details.locator('strong').innerText(), first)
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('a tool is called, its result given back; an answer keeps to a schema', async () => {
    const { page, complaints } = await openPage(browser, server.url)
    await page.getByText('Tools', { exact: true }).click()
    await button(page, 'Try an example').first().click()
    await choice(page, 'The model').selectOption('required')
    await ask(page, 'What is the weather in Paris?')
    await page.getByText('calls get_weather').waitFor()
    await choice(page, 'The model').selectOption('auto')
    await page.getByLabel('Result of get_weather').fill('{"temperature": 21, "sky": "clear"}')
    await button(page, 'Give the result').click()
    await page.getByText('get_weather gave').waitFor()
    await ended(page)
    assert.equal(await answers(page).count(), 2)
    await button(page, 'Leave out').click()
    await button(page, 'New conversation').click()
    await page.getByText('Answer schema', { exact: true }).click()
    await button(page, 'Try an example').last().click()
    await control(page, 'Temperature').fill('0')
    await ask(page, 'What is 17 + 25?')
    await ended(page)
    const answer = JSON.parse(await page.locator('.prose').innerText())
    assert.deepEqual(Object.keys(answer), ['answer', 'sure'])
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('a control that says nothing sensible is named, and nothing is sent', async () => {
    const { page } = await openPage(browser, server.url)
    await control(page, 'Temperature').fill('hot')
    await ask(page, 'Hello')
    await page.getByRole('alert').waitFor()
    assert.match(await page.getByRole('alert').innerText(), /Temperature: 'hot' is no number/)
    assert.equal(await message(page).inputValue(), 'Hello')
    await control(page, 'Temperature').fill('7')
    await page.getByLabel('Message', { exact: true }).press('Enter')
    await answers(page).getByRole('alert').waitFor()
    assert.match(await answers(page).innerText(), /temperature/)
    await page.context().close()
  })

  test('the request as code is one that the server takes', async () => {
    const { page } = await openPage(browser, server.url)
    await control(page, 'Most tokens').fill('20')
    await message(page).fill(`It's "quoted" \\ and\n$HOME`)
    await button(page, 'Code').click()
    const code = page.locator('#code-panel')
    const { stdout } = await promisify(execFile)('bash', ['-c', await code.innerText()])
    assert.match(stdout, /data: \[DONE\]/)
    await page.getByRole('tab', { name: 'JavaScript' }).click()
    const program = await code.innerText()
    const ran = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program])
    assert.ok(ran.stdout.length > 0)
    await page.getByRole('tab', { name: 'Python' }).click()
    assert.match(await code.innerText(), /extra_body=\{\n {8}"timings": True,/)
    await page.keyboard.press('Escape')
    await page.getByRole('dialog').waitFor({ state: 'detached' })
    await page.context().close()
  })

  test('typed questions are answered with bars; what the server refuses is shown', async () => {
    const { page, complaints } = await openPage(browser, `${server.url}/#decisions`)
    const question = (i: number) => page.getByRole('region', { name: `Question ${i}` })
    await button(page, 'Decide').click()
    await page.getByText(/tokens read, .* none written/).waitFor()
    for (const [i, options] of [2, 3, 3].entries()) {
      const bars = question(i + 1).locator('.bars dd')
      assert.equal(await bars.count(), options)
      const shares = (await bars.allInnerTexts()).map((text) => Number(text.replace(/[<%]/g, '')))
      const sum = shares.reduce((all, share) => all + share, 0)
      assert.ok(Math.abs(sum - 100) < 2, shares.join())
    }
    assert.match(await question(2).innerText(), /confidence [<\d]/)
    assert.match(await question(3).innerText(), /\d\.\d\d of 2, confidence [<\d]/)
    assert.deepEqual(complaints, [])
    // An answer that is to other questions is not left standing.
    await question(2).getByLabel('Options, one a line').fill('delivery')
    assert.equal(await page.locator('.bars').count(), 0)
    await button(page, 'Decide').click()
    assert.match(await page.getByRole('alert').innerText(), /questions\.1\.choices/)
    // Nor does one come to what was changed meanwhile.
    await question(2).getByLabel('Options, one a line').fill('delivery\npayment')
    await page.route('**/v1/decisions', async (route) => {
      await question(1).getByRole('textbox').fill('Changed meanwhile.')
      await route.continue()
    })
    const answered = page.waitForResponse('**/v1/decisions')
    await button(page, 'Decide').click()
    await answered
    await page.locator('button:enabled', { hasText: 'Decide' }).waitFor()
    assert.equal(await page.locator('.bars').count(), 0)
    await page.unroute('**/v1/decisions')
    await button(page, 'Decide').click()
    await page.getByText(/tokens read/).waitFor()
    await choice(page, 'Model').selectOption('tiny-reward')
    assert.equal(await page.locator('.bars').count(), 0)
    await choice(page, 'Model').selectOption('tiny-reasoner')
    await question(2).getByRole('button', { name: 'Remove' }).click()
    await button(page, 'Add a question').click()
    await question(3).getByRole('textbox').fill('It is a question.')
    await button(page, 'Decide').click()
    await page.getByText(/tokens read/).waitFor()
    assert.equal(await page.locator('.bars').count(), 3)
    await page.context().close()
  })

  test('tokens, models and the API are shown', async () => {
    const { page, complaints } = await openPage(browser, `${server.url}/#tokens`)
    await page.getByLabel('Text', { exact: true }).fill('<|eot_id|>')
    await page.locator('.pieces li').nth(1).waitFor()
    await page.getByText('2 of 8,192 tokens').waitFor()
    await choice(page, 'The text is').selectOption('messages')
    await page.getByText(/\d\d of 8,192 tokens/).waitFor()
    await page.getByRole('link', { name: 'Models' }).click()
    await page.getByRole('heading', { name: 'tiny-reward' }).waitFor()
    assert.match(await page.getByLabel('tiny-reasoner').innerText(), /KV cache\s+64 MiB/)
    await page.goto(`${server.url}/docs`)
    await page.getByText('/v1/chat/completions/render').waitFor()
    await page.getByText('Fields').first().click()
    await page.getByText('max_completion_tokens').first().waitFor()
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('the live view counts, second by second', async () => {
    const { page, complaints } = await openPage(browser, `${server.url}/#live`)
    await page.getByText('Service is ready.').waitFor()
    const written = page.getByRole('region', { name: 'Written' }).locator('strong')
    const body = {
      model: 'tiny-reasoner',
      messages: [{ role: 'user', content: 'x' }],
      max_tokens: 2000,
      ignore_eos: true,
    }
    const work = server.post('/v1/chat/completions', body)
    await page.waitForFunction(
      (element) => Number(element?.textContent) > 0,
      await written.elementHandle(),
    )
    await (await work).arrayBuffer()
    for (const name of ['First token', 'Between tokens'])
      assert.ok(await page.getByRole('region', { name }).isVisible())
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('axe finds nothing, in both schemes, on a desk and on a phone', async () => {
    const { page } = await openPage(browser, server.url)
    await control(page, 'Candidates').fill('2')
    await choice(page, 'Best of the candidates').selectOption('tiny-reward')
    await control(page, 'Token probabilities').check()
    await ask(page, 'Thanks!')
    await ended(page)
    for (const { width, colorScheme } of SHOWN) {
      await page.setViewportSize({ width, height: 800 })
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
      for (const view of ['chat', 'decisions', 'tokens', 'live', 'models', 'api']) {
        const where = `${view}, ${colorScheme}, ${width}`
        await page.goto(`${server.url}/#${view}`)
        const shown = {
          chat: '.turn',
          decisions: '.bars',
          tokens: '.pieces',
          live: '.tile',
          models: '.plan',
          api: '.route',
        }
        if (view === 'decisions') await button(page, 'Decide').click()
        await page
          .locator(shown[view as keyof typeof shown])
          .first()
          .waitFor()
        assert.deepEqual(await faults(page), [], where)
        const wide = await page.evaluate('document.documentElement.scrollWidth > innerWidth')
        assert.equal(wide, false, `${where}: wider than its screen`)
      }
      await page.goto(`${server.url}/#chat`)
      await button(page, 'Code').click()
      assert.deepEqual(await faults(page), [], `dialog, ${colorScheme}, ${width}`)
      await page.keyboard.press('Escape')
      if (width > 1000) continue
      await button(page, 'Controls').click()
      await choice(page, 'Model').first().waitFor()
      assert.deepEqual(await faults(page), [], `controls, ${colorScheme}`)
      await button(page, 'Controls').click()
    }
    await page.context().close()
  })

  test('its first load is at most 80 KB', async () => {
    const context = await browser.newContext()
    const page = await context.newPage()
    const sizes: Promise<number>[] = []
    page.on('requestfinished', (request) =>
      sizes.push(request.sizes().then(({ responseBodySize }) => responseBodySize)),
    )
    await page.goto(server.url)
    await message(page).waitFor()
    const total = (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
    assert.ok(sizes.length >= 4, `${sizes.length} requests`)
    assert.ok(total > 5_000 && total <= 80_000, `${total} bytes`)
    await context.close()
  })
})

/** What a reader of the tiny model's tokens may meet. */
const SCRIPTS: readonly (readonly [string, readonly string[]])[] = [
  // The first waits for what follows, since it may begin a tag; one character is four tokens.
  ['smile', ['<', 'b> is ', '😀', ', I think']],
  [
    'weather',
    [
      ...['<think>', '\n', 'hm', ' so', '</think>', '\n\n', '<TOOLCALL>'],
      '[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
      '</TOOLCALL>',
    ],
  ],
]

describe('the page, when things go wrong', { skip: noBrowser }, () => {
  const pieces = Array.from({ length: 40 }, (_, i) => `word${i} `)
  const forEver: readonly string[] = Array(2000).fill('')
  let harness: Harness
  let browser: Browser
  before(async () => {
    harness = await startHarness({
      stepMs: 50,
      answer: (prompt, { n }, choice) => {
        if (n === 2 && choice === 0) return { pieces: ['done'] }
        const [, scripted] = SCRIPTS.find(([word]) => prompt.includes(word)) ?? []
        if (scripted) return { pieces: scripted }
        const last = /word(\d+) ?$/.exec(prompt)?.[1]
        const rest = pieces.slice(last === undefined ? 0 : Number(last) + 1)
        // Until somebody stops it, however long that takes: then its rest comes, when it is asked for.
        const held = last === undefined && prompt.includes('hold')
        return {
          // One that does not come to its end by itself.
          pieces: held
            ? [...pieces.slice(0, 10), ...forEver]
            : prompt.includes('for ever')
              ? [...rest, ...forEver]
              : rest,
          ...(prompt.includes('later') && { delaySteps: 60 }),
        }
      },
    })
    browser = await openBrowser()
  })
  after(async () => {
    await browser?.close()
    await harness?.close()
  })
  const whole = pieces.join('').trim()

  test('an answer that is stopped keeps its text, and goes on where it was', async () => {
    const { page, complaints } = await openPage(browser, harness.url)
    await control(page, 'Most tokens').fill('600')
    await ask(page, 'Go and hold')
    await page.getByText('word5').waitFor()
    await button(page, 'Stop').click()
    await button(page, 'Resume').waitFor()
    const cut = await page.locator('.prose').innerText()
    assert.match(cut, /^word0 .*word5/)
    await button(page, 'Resume').click()
    await page.getByText('word39').waitFor()
    assert.equal(await page.locator('.prose').innerText(), whole)
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('a server that is lost in the middle: it says so, keeps the text, and goes on', async () => {
    const way = await openWay(harness.port)
    const { page } = await openPage(browser, way.url)
    await control(page, 'Most tokens').fill('600')
    await ask(page, 'Go and hold')
    await page.getByText('word5').waitFor()
    way.cut()
    const alert = answers(page).getByRole('alert')
    await alert.waitFor()
    assert.match(await alert.innerText(), /connection to the server was lost/)
    assert.equal(await page.getByText('The answer is there.').count(), 0)
    assert.match(await page.locator('.prose').innerText(), /^word0 .*word5/)
    await button(page, 'Resume').click()
    await page.getByText('The server does not answer.').waitFor()
    assert.match(await page.locator('.prose').innerText(), /^word0 .*word5/)
    way.mend()
    await button(page, 'Resume').click()
    await page.getByText('word39').waitFor()
    assert.equal(await page.locator('.prose').innerText(), whole)
    assert.equal(await alert.count(), 0)
    assert.equal(await page.getByText('The answer is there.').count(), 1)
    await page.context().close()
    way.close()
  })

  test('an answer under way outlives its page', async () => {
    const { page, complaints } = await openPage(browser, harness.url)
    await control(page, 'Most tokens').fill('600')
    await ask(page, 'Go and hold')
    await page.getByText('word5').waitFor()
    await page.reload()
    await button(page, 'Resume').waitFor()
    assert.match(await page.locator('.prose').innerText(), /^word0 .*word5/)
    assert.match(await answers(page).innerText(), /broke off/)
    await button(page, 'Resume').click()
    await ended(page)
    assert.equal(await page.locator('.prose').innerText(), whole)
    assert.doesNotMatch(await answers(page).innerText(), /broke off/)
    // Nothing is told to a page that is killed: what came until then is kept all the same.
    await button(page, 'New conversation').click()
    await ask(page, 'Go for ever')
    const other = await page.context().newPage()
    await other.goto(harness.url)
    await other.locator('.prose', { hasText: 'word39' }).waitFor()
    assert.equal(await button(page, 'Stop').count(), 1)
    assert.equal(await button(other, 'Resume').count(), 1)
    await button(page, 'Stop').click()
    await other.getByText('stopped').waitFor()
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('what is asked again stays until something new comes', async () => {
    const way = await openWay(harness.port)
    const { page } = await openPage(browser, way.url)
    const alert = answers(page).getByRole('alert')
    const text = () => page.locator('.prose').innerText()
    await ask(page, 'Go later')
    await ended(page)
    assert.equal(await text(), whole)
    // Stopped, or left, before anything has come.
    await button(page, 'Regenerate').click()
    await page.locator('.waiting').waitFor()
    await button(page, 'Stop').click()
    await ended(page)
    assert.equal(await text(), whole)
    await button(page, 'Regenerate').click()
    await page.locator('.waiting').waitFor()
    await page.reload()
    await ended(page)
    assert.equal(await text(), whole)
    // Refused, and not heard.
    await control(page, 'Temperature').fill('hot')
    await button(page, 'Edit').click()
    const edited = page.getByLabel('Edit what was asked')
    await edited.fill('Come')
    await button(page, 'Ask again').click()
    await page.getByText("'hot' is no number").waitFor()
    assert.equal(await edited.inputValue(), 'Come')
    await control(page, 'Temperature').fill('7')
    await button(page, 'Ask again').click()
    await alert.waitFor()
    assert.match(await alert.innerText(), /temperature/)
    await control(page, 'Temperature').fill('')
    way.cut()
    await button(page, 'Ask again').click()
    await alert.filter({ hasText: 'does not answer' }).waitFor()
    assert.equal(await text(), whole)
    assert.equal(await edited.inputValue(), 'Come')
    await button(page, 'Cancel').click()
    assert.match(await page.locator('.turn.user').innerText(), /Go later/)
    await button(page, 'Regenerate').click()
    await page.locator('.waiting').waitFor({ state: 'detached' })
    assert.equal(await text(), whole)
    way.mend()
    await button(page, 'Regenerate').click()
    await alert.waitFor({ state: 'detached' })
    await ended(page)
    assert.equal(await text(), whole)
    // Why no other came goes with the page.
    way.cut()
    await button(page, 'Regenerate').click()
    await alert.filter({ hasText: 'does not answer' }).waitFor()
    way.mend()
    await page.reload()
    await ended(page)
    assert.equal(await text(), whole)
    assert.equal(await alert.count(), 0)
    await page.context().close()
    way.close()
  })

  test('one of several candidates goes on, and the others stay', async () => {
    const { page, complaints } = await openPage(browser, harness.url)
    await control(page, 'Most tokens').fill('5')
    await control(page, 'Candidates').fill('4')
    await ask(page, 'Go')
    await ended(page)
    const texts = page.locator('.candidates .prose')
    assert.deepEqual(await texts.allInnerTexts(), Array(4).fill('word0'))
    await button(page, 'Go on with this one').nth(1).click()
    await button(page, 'Resume').click()
    await page.getByText('word0word1').waitFor()
    await ended(page)
    assert.deepEqual(await texts.allInnerTexts(), ['word0', 'word0', 'word0word1', 'word0'])
    const chosen = page.locator('.candidates > li').nth(2).getByRole('button', { pressed: true })
    assert.equal(await chosen.count(), 1)
    // One that has ended by itself does not go on where another was stopped.
    await control(page, 'Most tokens').fill('600')
    await control(page, 'Candidates').fill('2')
    await button(page, 'New conversation').click()
    await ask(page, 'Go and hold')
    await page.getByText('word5').waitFor()
    await button(page, 'Stop').click()
    await ended(page)
    assert.equal(await button(page, 'Resume').count(), 0)
    await button(page, 'Go on with this one').click()
    await button(page, 'Resume').click()
    await page.getByText('word39').waitFor()
    await ended(page)
    assert.deepEqual(await texts.allInnerTexts(), ['done', whole])
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('tokens are shown where they spell the text, and nothing but it', async () => {
    const { page, complaints } = await openPage(browser, harness.url)
    const tokens = answers(page).locator('.tokens')
    await control(page, 'Token probabilities').check()
    await control(page, 'Most tokens').fill('600')
    await ask(page, 'smile')
    await ended(page)
    assert.equal(await tokens.textContent(), '<b> is 😀, I think')
    assert.equal(await page.locator('.thinking').count(), 0)
    await tokens.focus()
    for (let i = 0; i < 7; i++) await page.keyboard.press('ArrowRight')
    assert.match(await page.locator('.details strong').innerText(), /^bytes:\S*f0 \d/)
    // Those of tags and of calls are of neither.
    await button(page, 'New conversation').click()
    await choice(page, 'Thinking').selectOption('on')
    await page.getByText('Tools', { exact: true }).click()
    await button(page, 'Try an example').first().click()
    await ask(page, 'weather')
    await page.getByText('calls get_weather').waitFor()
    await ended(page)
    await page.locator('.thinking summary').click()
    assert.equal(await tokens.textContent(), 'hm so')
    await button(page, 'Leave out').click()
    await choice(page, 'Thinking').selectOption('default')
    // A part that came without them, and one that came with them.
    for (const before of [false, true]) {
      await button(page, 'New conversation').click()
      await control(page, 'Token probabilities').setChecked(before)
      await ask(page, 'Go and hold')
      await page.getByText('word5').waitFor()
      await button(page, 'Stop').click()
      await control(page, 'Token probabilities').check()
      await button(page, 'Resume').click()
      await page.getByText('word39').waitFor()
      await ended(page)
      assert.equal(await tokens.count(), before ? 1 : 0)
      const text = await (before ? tokens : page.locator('.prose')).textContent()
      assert.equal(text?.trim(), whole)
    }
    assert.deepEqual(complaints, [])
    await page.context().close()
  })

  test('two tabs keep what each of them does', async () => {
    const { page: one, complaints } = await openPage(browser, harness.url)
    const other = await one.context().newPage()
    await other.goto(harness.url)
    await ask(other, 'Asked in the other')
    await ended(other)
    await ask(one, 'Asked in the one')
    await ended(one)
    await control(one, 'Temperature').fill('0.5')
    await other.waitForFunction("localStorage.getItem('nemotron.settings')?.includes('0.5')")
    await control(other, 'Top p').fill('0.25')
    const titles = (page: Page) => page.locator('.list .title').allInnerTexts()
    assert.deepEqual(await titles(other), ['Asked in the one', 'Asked in the other'])
    await other.reload()
    await answers(other).waitFor()
    assert.deepEqual(await titles(other), ['Asked in the one', 'Asked in the other'])
    assert.equal(await control(other, 'Temperature').inputValue(), '0.5')
    assert.equal(await control(other, 'Top p').inputValue(), '0.25')
    // What is written in one tab can be read in the other; what is deleted is gone from both, and stays so.
    await ask(one, 'And again')
    await other.getByText('And again').waitFor()
    await button(other, 'Delete Asked in the one').click()
    await button(one, 'Asked in the one').waitFor({ state: 'detached' })
    await button(one, 'Send').waitFor()
    await one.reload()
    await answers(one).waitFor()
    assert.deepEqual(await titles(one), ['Asked in the other'])
    assert.deepEqual(complaints, [])
    await one.context().close()
  })

  test('a page that comes back knows what other tabs did; an older page’s conversations are there', async () => {
    const { page } = await openPage(browser, harness.url)
    const turns = (text: string) => `[{ id: 'a', role: 'user', text: '${text}' }]`
    const titles = page.locator('.list .title')
    await message(page).waitFor()
    await page.evaluate(
      `localStorage.setItem('nemotron.conversations', JSON.stringify([null, { id: 'x', turns: ${turns('Old')} }]))`,
    )
    await page.reload()
    await message(page).waitFor()
    assert.deepEqual(await titles.allInnerTexts(), ['Old'])
    await page.evaluate(`localStorage.removeItem('nemotron.conversation.x')
      localStorage.setItem('nemotron.conversation.y', JSON.stringify({ at: 1, turns: ${turns('New')} }))
      dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))`)
    await button(page, 'New').waitFor()
    await button(page, 'Old').waitFor({ state: 'detached' })
    await page.context().close()
  })

  test('the live view says that its server is gone, and finds it again', async () => {
    const way = await openWay(harness.port)
    const { page } = await openPage(browser, `${way.url}/#live`)
    await page.getByText('Service is ready.').waitFor()
    way.cut()
    await page.getByText('No connection; trying again.').waitFor()
    way.mend()
    await page.getByText('Service is ready.').waitFor()
    await page.context().close()
    way.close()
  })

  test('a copy is a copy, or is said to be none', async () => {
    const { page } = await openPage(browser, harness.url)
    await ask(page, 'smile')
    await ended(page)
    const paste = async () => {
      await message(page).fill('')
      await message(page).press('ControlOrMeta+v')
      return message(page).inputValue()
    }
    // What a button says stays until it is read.
    await page.evaluate(`{
      const wait = setTimeout
      window.setTimeout = (work, ms) => wait(work, ms === 1500 ? 1e6 : ms)
    }`)
    const copy = answers(page).locator('footer button').last()
    // A page that came over plain HTTP has no clipboard.
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    await copy.click()
    await copy.filter({ hasText: /^Copied$/ }).waitFor()
    assert.equal(await paste(), '<b> is 😀, I think')
    await message(page).fill('Asked in code')
    await button(page, 'Code').click()
    const dialog = page.getByRole('dialog')
    await dialog.getByRole('button', { name: 'Copy', exact: true }).click()
    await dialog.getByRole('button', { name: 'Copied' }).waitFor()
    assert.equal(await dialog.locator('textarea').count(), 0)
    await page.keyboard.press('Escape')
    assert.match(await paste(), /^curl .*Asked in code/s)
    await page.evaluate('document.execCommand = () => false')
    await copy.click()
    await copy.filter({ hasText: /^Not copied$/ }).waitFor()
    await page.context().close()
  })

  test('a server with a key is asked with it', async () => {
    const locked = await startHarness({ config: { apiKeys: ['secret'] } })
    try {
      const { page } = await openPage(browser, locked.url)
      const key = page.locator('input[type=password]')
      await page.getByText('This server wants a key.').first().waitFor()
      assert.deepEqual(await faults(page), [])
      // What no header carries is not sent.
      for (const [bad, named] of [
        ['sëcret', "'ë' (U+00EB)"],
        ['secret\u200b', 'U+200B'],
        ['my secret', "' ' (U+0020)"],
      ] as const) {
        await key.fill(bad)
        await button(page, 'Use this key').click()
        await page.getByRole('dialog').getByRole('alert').filter({ hasText: named }).waitFor()
      }
      assert.deepEqual(await faults(page), [])
      await key.fill('wrong')
      await button(page, 'Use this key').click()
      await page.getByRole('dialog').getByText('Incorrect API key provided.').waitFor()
      // The same is asked again: the server may have got another.
      const asked = page.waitForRequest('**/v1/server')
      await button(page, 'Use this key').click()
      await asked
      await page.getByRole('dialog').getByText('Incorrect API key provided.').waitFor()
      // Who closes the dialog can open it again, in each view.
      for (const view of ['Live', 'Chat']) {
        await page.keyboard.press('Escape')
        await page.getByRole('dialog').waitFor({ state: 'detached' })
        await page.getByRole('link', { name: view }).click()
        if (view === 'Live') {
          await page.getByRole('dialog').getByText('Incorrect API key provided.').waitFor()
          await page.keyboard.press('Escape')
          await page.getByText('No connection.', { exact: true }).waitFor()
          assert.deepEqual(await faults(page), [])
        }
        await button(page, 'Give a key').click()
        // Escape before it is there would close nothing.
        await page.getByRole('dialog').waitFor()
      }
      await key.fill('secret')
      await button(page, 'Use this key').click()
      await ask(page, 'Hi')
      await page.getByText('echo:').waitFor()
      const kept = await page.evaluate<string>('JSON.stringify(localStorage)')
      assert.doesNotMatch(kept, /secret/)
      await page.context().close()
    } finally {
      await locked.close()
    }
  })
})
