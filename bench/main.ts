// npm run bench -- engine | ops | serve | http | loop | reward | start | gpu [--flags]
// Each bench is a file of its own that exports `run(args)` and tells its flags under --help.

type Bench = { readonly run: (args: readonly string[]) => Promise<void> }

const benches = ['engine', 'ops', 'serve', 'http', 'loop', 'reward', 'start', 'gpu']
const [name = '', ...args] = process.argv.slice(2)

if (benches.includes(name)) {
  const bench: Bench = await import(`./${name}.js`)
  await bench.run(args)
} else {
  console.error(`usage: npm run bench -- ${benches.join(' | ')} [--flags]`)
  process.exitCode = 2
}
