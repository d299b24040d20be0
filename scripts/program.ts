/** Runs a program of Jibe from its source: `node scripts/program.ts ROLE … DATA`, with its settings in JIBE_PROGRAM. The bundles in dist/ do the same. */
const [role = ''] = process.argv.slice(2);
const file = role === 'up' ? '../src/cli/up/main.ts' : role === 'instance' ? '../src/agent/instance/main.ts' : `../src/${role}/main.ts`;
const settings: unknown = JSON.parse(process.env['JIBE_PROGRAM'] ?? '{}');
delete process.env['JIBE_PROGRAM'];
const { main } = (await import(file)) as { main: (settings: unknown) => Promise<void> };
await main(settings);
