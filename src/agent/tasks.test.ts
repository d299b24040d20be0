import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { isolation } from '#process/isolation.ts';
import { isAlive } from '#process/identity.ts';
import { readPidFiles } from '#process/pid-file.ts';
import { openTestbed } from './testbed.ts';

/** Commands beside a release: what they find, and what becomes of those that do not end well. */
const can = isolation();
const bed = await openTestbed();
after(() => bed.close());

const FILES = {
	'src/server.ts': 'export default { fetch: () => new Response("v") };',
	'migrate.mjs': `import { words } from './src/words.ts'; import thing from 'thing'; console.log(words, thing, process.env.DATABASE_URL, process.env.MORE);`,
	'src/words.ts': `export const words = 'from a module';`,
	'package.json': '{"type":"module"}',
};
const health = { path: '/', timeoutMs: 2_000, strict: false };
const newSpec = (app: string, files: Record<string, string> = FILES) =>
	bed.release(bed.put(files), { app, health, memoryMiB: 256, deployment: `dpl_${app.padEnd(8, '0')}` });

async function lines(app: string): Promise<string[]> {
	const id = `ask-${app}-${bed.logs.length}`;
	bed.agent.receive({ type: 'logsWanted', id, app, environment: 'production', region: 'fra', since: 0, follow: false, maxLines: 500_000 });
	return bed.logs.filter((one) => one.id === id).flatMap((one) => one.lines.map(({ text }) => text));
}

test('a task has the files, packages, commands and secrets of its release, which need not run here', async () => {
	const vendor = bed.putVendor({
		'thing/package.json': '{"name":"thing","version":"1.0.0","main":"index.js","bin":{"thing":"cli.js"}}',
		'thing/index.js': 'module.exports = "a package";',
		'thing/cli.js': '#!/usr/bin/env node\nconsole.log("its command", process.argv[2]);',
	});
	const spec = { ...newSpec('plain'), vendor, secrets: { DATABASE_URL: 1 }, env: { MORE: 'variable' } };
	bed.secrets(spec, [{ name: 'DATABASE_URL', version: 1, value: 'postgres://secret-word@db' }]);
	const order = bed.task(spec, 'node migrate.mjs && thing done && pwd && echo $DATABASE_URL | tr a-z A-Z >&2', { secrets: true });
	assert.deepEqual(await bed.taskEnd(order).then(({ state, detail }) => [state, detail]), ['passed', '']);
	const said = await lines('plain');
	assert.ok(said.includes('from a module a package [secret DATABASE_URL] variable'), said.join('\n'));
	assert.ok(said.includes('its command done'), said.join('\n'));
	assert.ok(said.includes('POSTGRES://SECRET-WORD@DB'), 'what is no form of the value is left alone');
	const logs = join(bed.data, 'agent/logs');
	for (const name of readdirSync(logs))
		assert.doesNotMatch(readFileSync(join(logs, name), 'utf8'), /secret-word/, 'not on the disk either');
	const nothing = bed.task(spec, 'env', { id: 'dpl_x/smoke/1', secrets: false });
	await bed.taskEnd(nothing);
	assert.ok(!(await lines('plain')).some((line) => line.startsWith('DATABASE_URL=')), 'without leave it gets none');
	assert.deepEqual(readdirSync(join(bed.data, 'agent/apps/plain/production/tasks')), [], 'nothing of it is left');
});

test('one that fails says so with its last lines; asked again it says the same and is not run again', async () => {
	const spec = newSpec('fails');
	const order = bed.task(spec, 'echo ran >> $JIBE_DATA_DIR/ran; echo no such table >&2; exit 3');
	const said = await bed.taskEnd(order);
	assert.equal(said.state, 'failed');
	assert.match(said.detail, /ended with 3; its last output:\n/);
	assert.match(said.detail, /no such table/);
	bed.task(spec, order.command);
	await bed.taskEnd(order);
	assert.equal(readFileSync(join(bed.data, 'agent/files/fails/production/fra/ran'), 'utf8'), 'ran\n');
});

test('one that takes too long, is stopped, or is not asked for any more is ended with all that it started', async () => {
	const forked = 'sleep 300 & sleep 300';
	const late = bed.task(newSpec('late'), forked, { timeoutMs: 200 });
	assert.match((await bed.taskEnd(late)).detail, /did not end within 0\.2 s/);
	const stopped = bed.task(newSpec('stopped'), forked);
	bed.stopTask(stopped.id);
	assert.match((await bed.taskEnd(stopped)).detail, /does not wait for it any more/);
	const forgotten = bed.task(newSpec('forgotten'), forked, { leaseMs: 300 });
	assert.match((await bed.taskEnd(forgotten)).detail, /did not ask for it any more/);
	assert.deepEqual(readPidFiles(bed.data).filter((file) => file.name.includes('task') && isAlive(file)), []); // prettier-ignore
});

test('a flood of output is cut in the log and not in memory; its end is told all the same', async () => {
	const order = bed.task(newSpec('flood'), 'yes "a line of some thirty characters" | head -c 12000000; echo; echo the end; exit 1');
	const { detail } = await bed.taskEnd(order);
	assert.match(detail, /the end$/);
	assert.ok(detail.length < 8_000);
	const said = await lines('flood');
	assert.ok(said.some((line) => line.includes('the rest is left out')));
	assert.ok(said.length < 200_000);
});

test('memory beyond the limit ends it, and it is told why', { skip: can.cgroup ? false : can.missing.join('; ') }, async () => {
	const order = bed.task(newSpec('greedy'), `node --max-old-space-size=4000 -e 'const all = []; for (;;) all.push(Buffer.alloc(1e7, 1))'`);
	assert.match((await bed.taskEnd(order)).detail, /more memory than its limit of 256 MiB/);
});

test('what it takes is reserved while it runs; without room it is refused by server and MiB', async (t) => {
	const small = await openTestbed({ budgetMiB: 100 });
	t.after(() => small.close());
	const spec = (app: string) => small.release(small.put(FILES), { app, health, memoryMiB: 64, deployment: `dpl_${app.padEnd(8, '0')}` });
	const first = small.task(spec('first'), 'sleep 300');
	const second = small.task(spec('second'), 'true');
	const { state, detail } = await small.taskEnd(second);
	assert.deepEqual([state, detail.split(' (')[0]], ['failed', 'server local lacks 28 MiB of memory for "true"']);
	small.stopTask(first.id);
	await small.taskEnd(first);
	assert.equal((await small.taskEnd(small.task(spec('third'), 'true'))).state, 'passed');
});

test('a smoke test asks the instance that is prepared; without one it can not be', async () => {
	const spec = newSpec('smoked');
	const more = { kind: 'smoke-prepared' as const };
	const early = bed.task(spec, 'true', { ...more, id: 'dpl_smoked00/smoke-prepared/1' });
	assert.match((await bed.taskEnd(early)).detail, /no instance of v\d+ that could be asked/);
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'prepared' }], { primary: null });
	await bed.until(spec, 'prepared', ([one]) => one?.state === 'prepared' && one.healthy);
	const asks = `node -e "fetch(process.env.JIBE_URL + '/x').then((a) => a.text()).then((t) => console.log('heard', t))"`;
	const order = bed.task(spec, asks, { ...more, id: 'dpl_smoked00/smoke-prepared/2' });
	assert.deepEqual(await bed.taskEnd(order).then(({ state, detail }) => [state, detail]), ['passed', '']);
	assert.ok((await lines('smoked')).includes('heard v'));
});
