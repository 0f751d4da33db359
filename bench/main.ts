// npm run bench -- engine | ops | serve | http | loop | reward | start | gpu [--flags]
// Each bench is a file of its own that exports `run(args)` and tells its flags under --help.

type Bench = { readonly run: (args: readonly string[]) => Promise<void> }

const files = {
  engine: 'engine',
  ops: 'ops',
  serve: 'serve',
  http: 'http',
  loop: 'event-loop',
  reward: 'reward',
  start: 'cold-start',
  gpu: 'gpu',
}
const [name = '', ...args] = process.argv.slice(2)

const file = new Map(Object.entries(files)).get(name)

if (file !== undefined) {
  const bench: Bench = await import(`./${file}.js`)
  await bench.run(args)
} else {
  console.error(`usage: npm run bench -- ${Object.keys(files).join(' | ')} [--flags]`)
  process.exitCode = 2
}
