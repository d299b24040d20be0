import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { pause } from '#clock/clock.ts';
import { ask, openTestbed } from './testbed.ts';

const bed = await openTestbed();
after(() => bed.close());

const VALUE = 'postgres://notes:hunter22-and-more@db/notes';
const SERVER = `
	import { atImport } from 'reads-env';
	console.log('connecting to', process.env.DATABASE_URL);
	process.stdout.write('half of it: ' + process.env.DATABASE_URL.slice(0, 20));
	process.stdout.write(process.env.DATABASE_URL.slice(20) + '\\n');
	console.error(Buffer.from(process.env.DATABASE_URL).toString('base64'), encodeURIComponent(process.env.DATABASE_URL));
	export default {
		fetch(request) {
			const { pathname } = new URL(request.url);
			if (pathname === '/throw') { setTimeout(() => { throw new Error('cannot reach ' + process.env.DATABASE_URL); }); return new Response('soon'); }
			return new Response(process.env.DATABASE_URL + ' ' + atImport);
		},
	};`;
const VENDOR = {
	'reads-env/package.json': JSON.stringify({ name: 'reads-env', version: '1.0.0', type: 'module', exports: './index.js' }),
	'reads-env/index.js': `export const atImport = process.env.DATABASE_URL;`,
};

test('an instance has its secrets, also at the import of packages, and nobody else has', async () => {
	const vendor = bed.putVendor(VENDOR);
	const artifact = bed.put({ 'src/server.ts': SERVER }, { vendor: ['reads-env/index.js'] });
	const one = bed.release(artifact, { vendor, secrets: { DATABASE_URL: 1 } });
	bed.secrets(one, [{ name: 'DATABASE_URL', version: 1, value: VALUE }]);
	bed.want(one, [{ release: one.release, instances: 1, as: 'serving' }]);
	const [serving] = await bed.until(one, 'serving', ([i]) => i?.state === 'serving');
	assert.equal((await ask(serving, '/')).body, `${VALUE} ${VALUE}`);

	const { pid } = serving!;
	for (const file of ['cmdline', 'environ']) assert.doesNotMatch(readFileSync(`/proc/${pid}/${file}`, 'latin1'), /hunter22/, file);
	assert.deepEqual(tellers(), [], 'no file of this server tells it');
	const key = join(bed.data, 'agent', 'secrets.key');
	assert.equal(statSync(key).mode & 0o777, 0o600);

	bed.agent.receive({ type: 'logsWanted', id: 'l1', region: 'fra', app: 'notes', environment: 'production', since: 0, follow: false, maxLines: 100 }); // prettier-ignore
	const lines = bed.logs.flatMap((part) => part.lines).map(({ text }) => text);
	assert.deepEqual(lines.slice(0, 3), [
		'connecting to [secret DATABASE_URL]',
		'half of it: [secret DATABASE_URL]',
		'[secret DATABASE_URL] [secret DATABASE_URL]',
	]);
});

test('an instance that ends is started again without control, after a restart of the agent too; its last words tell nothing', async () => {
	const [one] = bed.instances({ app: 'notes' });
	const spec = bed.release(bed.put({}), { release: one!.release });
	bed.secrets(spec, null);
	await bed.restart();
	const [before] = await bed.until(spec, 'taken up', ([i]) => i?.state === 'serving');
	await ask(before, '/throw');
	const [after] = await bed.until(spec, 'started again', ([i]) => i?.state === 'serving' && i.id !== before?.id);
	assert.match((await ask(after, '/')).body, /hunter22/);
	assert.deepEqual(tellers(), []);
});

test('an idle process of former secrets is not taken, and they are forgotten with their release', async () => {
	const vendor = bed.putVendor(VENDOR);
	const artifact = bed.put({ 'src/server.ts': SERVER }, { vendor: ['reads-env/index.js'] });
	const two = bed.release(artifact, { release: 20, vendor, secrets: { DATABASE_URL: 2 } });
	bed.secrets(two, [{ name: 'DATABASE_URL', version: 2, value: 'postgres://notes:rotated22@db/notes' }]);
	bed.want(two, [{ release: two.release, instances: 1, as: 'serving' }]);
	const [now] = await bed.until(
		two,
		'the second alone',
		(all) => all.length === 1 && all[0]!.release === 20 && all[0]!.state === 'serving',
	);
	assert.match((await ask(now, '/')).body, /^\S*rotated22\S* \S*rotated22/);
	for (let i = 0; i < 500 && kept().length !== 1; i++) await pause(10);
	assert.deepEqual(kept(), ['notes@production@20']);
	for (let i = 0; i < 500 && bed.agent.idle() !== 1; i++) await pause(10);
	for (const pid of instancePids()) assert.doesNotMatch(readFileSync(`/proc/${pid}/environ`, 'latin1'), /hunter22|rotated22/);
});

test('without control a first start fails, saying so; a version that control chose instead is another process', async () => {
	const artifact = bed.put({ 'src/server.ts': `export default { fetch: () => new Response(process.env.API_KEY) };` });
	const spec = bed.release(artifact, { app: 'mail', release: 1, secrets: { API_KEY: 1 } });
	bed.want(spec, [{ release: 1, instances: 1, as: 'prepared' }]);
	const [failed] = await bed.until(spec, 'failed', ([i]) => i?.state === 'failed');
	assert.deepEqual([failed?.reason, failed?.detail?.includes('control is away')], ['fetch', true]);
	bed.secrets(spec, [{ name: 'API_KEY', version: 3, value: 'newest-of-all' }]);
	const [ready] = await bed.until(spec, 'prepared', ([i]) => i?.state === 'prepared' && i.healthy);
	assert.equal((await ask(ready, '/')).body, 'newest-of-all');
});

function kept(): string[] {
	return readdirSync(join(bed.data, 'agent', 'secrets'));
}

function tellers(): string[] {
	const files = readdirSync(bed.data, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
	return files
		.map(({ parentPath, name }) => join(parentPath, name))
		.filter((file) => /hunter22|aHVudGVyMjI/.test(readFileSync(file, 'latin1')));
}

function instancePids(): string[] {
	return readdirSync(join(bed.data, 'pids')).filter((name) => name.startsWith('instance-')).map((name) => String((JSON.parse(readFileSync(join(bed.data, 'pids', name), 'utf8')) as { pid: number }).pid)); // prettier-ignore
}
