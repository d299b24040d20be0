import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { identify } from '#process/identity.ts';
import { readPidFile, writePidFile } from '#process/pid-file.ts';
import { temporary } from '../fixture.ts';
import { claim, refuseWhenRunning } from './claim.ts';
import { chooseLayout, endpointUrl, openData, regionNames, remember, writeEndpoint } from './installation.ts';
import { controlProgram, programDigest, programEnvironment, regionPrograms } from './programs.ts';
import { findProcesses } from './processes.ts';

test('regions are a number or names', () => {
	assert.deepEqual(regionNames('3'), ['fra', 'ams', 'lhr']);
	assert.equal(regionNames('24').length, 24);
	assert.deepEqual(regionNames('iad,my-cellar'), ['iad', 'my-cellar']);
	for (const bad of ['0', '25', '', ',', 'Fra', 'fra,fra']) assert.throws(() => regionNames(bad), { code: 'usage' }, bad);
});

test('the directory is its owner’s alone, and what was chosen is remembered', async (t) => {
	const data = join(temporary(t, 'jibe-up-'), 'data');
	openData(data);
	assert.equal(statSync(data).mode & 0o777, 0o700);
	const first = await chooseLayout({ data, regions: ['fra', 'ams'], port: null, edgePort: null, separate: false, takeOver: false });
	remember(first, {});
	writeEndpoint(first);
	assert.equal(endpointUrl(data), `http://127.0.0.1:${first.port}`);
	const again = await chooseLayout({ data, regions: null, port: null, edgePort: null, separate: false, takeOver: false });
	assert.deepEqual(again.regions, ['fra', 'ams']);
	assert.throws(() => openData(join(data, 'endpoint.json', 'x')), { code: 'data_directory', exit: 2 });
});

test('while anything of it runs, its ports stay what they are, whoever holds them', async (t) => {
	const data = join(temporary(t, 'jibe-up-'), 'data');
	openData(data);
	// What is being replaced holds its port as long as it ends; nothing may be written of what replaces it.
	const held = createServer().listen(0, '127.0.0.1');
	t.after(() => held.close());
	await once(held, 'listening');
	const { port } = held.address() as AddressInfo;
	const settings = { data, regions: null, port: null, edgePort: null, separate: false, takeOver: true };
	const layout = { ...(await chooseLayout({ ...settings, regions: ['fra'] })), port };
	remember(layout, {});
	assert.notEqual((await chooseLayout(settings)).port, port);
	remember({ ...layout, edgePort: port, port: layout.edgePort }, {});
	assert.notEqual((await chooseLayout(settings)).edgePort, port);
	const idle = ['-e', 'process.stdout.write("on");setInterval(() => {}, 1000)', 'agent', data];
	const agent = spawn(process.execPath, idle, { argv0: 'jibe agent', stdio: ['ignore', 'pipe', 'ignore'] });
	t.after(() => agent.kill('SIGKILL'));
	await once(agent.stdout, 'data');
	writePidFile(data, 'agent', identify(agent.pid!)!);
	assert.equal((await chooseLayout(settings)).edgePort, port);
	remember(layout, {});
	assert.equal((await chooseLayout(settings)).port, port);
	await assert.rejects(chooseLayout({ ...settings, edgePort: port, port: port + 1 }), { code: 'port_taken' });
});

test('one supervisor a directory: the second is refused, a dead one is taken over', async (t) => {
	const data = temporary(t, 'jibe-up-');
	mkdirSync(join(data, 'pids'));
	writeFileSync(join(data, 'pids', 'up.json'), JSON.stringify({ pid: 1, start: 'long ago' }));
	refuseWhenRunning(data);
	claim(data);
	assert.equal(readPidFile(data, 'up')?.pid, process.pid);
	writeFileSync(join(data, 'endpoint.json'), '{"url":"http://127.0.0.1:7070"}');
	assert.throws(() => claim(data), {
		code: 'already_running',
		exit: 2,
		message: /^already running at http:\/\/127\.0\.0\.1:7070 \(pid \d+\)$/,
	});
	await Promise.resolve();
});

test('programs for all regions, or for each; what changes them is seen', () => {
	const layout = { data: '/tmp', regions: ['fra', 'ams'], port: 7070, edgePort: 8080, separate: false, takeOver: false };
	const names = (separate: boolean) => regionPrograms({ ...layout, separate }).map(({ name }) => name);
	assert.deepEqual(names(false), ['depot', 'agent', 'edge-0', 'edge-1']);
	assert.deepEqual(names(true), [
		'depot-fra',
		'agent-fra',
		'edge-fra-0',
		'edge-fra-1',
		'depot-ams',
		'agent-ams',
		'edge-ams-0',
		'edge-ams-1',
	]);
	assert.deepEqual(controlProgram(layout).settings['regions'], [
		{ name: 'fra', edgePort: 8080 },
		{ name: 'ams', edgePort: 8081 },
	]);
	assert.equal(programDigest(controlProgram(layout)), programDigest(controlProgram({ ...layout })));
	assert.notEqual(programDigest(controlProgram(layout)), programDigest(controlProgram({ ...layout, port: 7071 })));
});

test('a program gets nothing of the shell but what it needs', (t) => {
	process.env['JIBE_TOKEN'] = 'secret';
	process.env['DATABASE_URL'] = 'postgres://x';
	process.env['AWS_SECRET_ACCESS_KEY'] = 'secret';
	t.after(() => ['JIBE_TOKEN', 'DATABASE_URL', 'AWS_SECRET_ACCESS_KEY'].forEach((name) => delete process.env[name]));
	const edge = programEnvironment('/tmp', 'edge', { a: 1 });
	assert.deepEqual(JSON.parse(edge['JIBE_PROGRAM'] ?? ''), { a: 1 });
	for (const name of ['JIBE_TOKEN', 'DATABASE_URL', 'AWS_SECRET_ACCESS_KEY']) assert.equal(edge[name], undefined);
	assert.equal(programEnvironment('/tmp', 'control', {})['DATABASE_URL'], 'postgres://x');
});

test('processes are found by pid file and by what ps shows of them', async (t) => {
	const data = temporary(t, 'jibe-up-');
	const idle = ['-e', 'process.stdout.write("on");setInterval(() => {}, 1000)'];
	const edge = spawn(process.execPath, [...idle, 'edge-fra-1', data], { argv0: 'jibe edge', stdio: ['ignore', 'pipe', 'ignore'] });
	const titled = spawn(process.execPath, [...idle, data], { argv0: 'jibe instance', stdio: ['ignore', 'pipe', 'ignore'] });
	const recorded = spawn(process.execPath, idle, { stdio: ['ignore', 'pipe', 'ignore'] });
	const other = spawn(process.execPath, [...idle, `${data}-other`], { argv0: 'jibe instance', stdio: ['ignore', 'pipe', 'ignore'] });
	t.after(() => [edge, titled, recorded, other].forEach((child) => child.kill('SIGKILL')));
	await Promise.all([edge, titled, recorded, other].map((child) => once(child.stdout, 'data')));
	writePidFile(data, 'edge-0', identify(recorded.pid!)!);
	const found = findProcesses(data).map(({ role, name, pid }) => [role, name, pid]);
	const shown = [['edge', 'edge-fra-1', edge.pid], ['instance', 'instance', titled.pid]]; // prettier-ignore
	assert.deepEqual(found, [['edge', 'edge-0', recorded.pid], ...(process.platform === 'linux' ? shown : [])]);
});
