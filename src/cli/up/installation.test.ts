import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { identify } from '#process/identity.ts';
import { readPidFile, writePidFile } from '#process/pid-file.ts';
import { temporary } from '../fixture.ts';
import { claim, refuseWhenRunning } from './claim.ts';
import { chooseLayout, endpointUrl, openData, regionNames, remember, writeEndpoint } from './installation.ts';
import { controlProgram, programDigest, programEnvironment, regionPrograms } from './programs.ts';
import { findProcesses } from './stop.ts';

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
	const titled = spawn(process.execPath, [...idle, data], { argv0: 'jibe instance', stdio: ['ignore', 'pipe', 'ignore'] });
	const recorded = spawn(process.execPath, idle, { stdio: ['ignore', 'pipe', 'ignore'] });
	const other = spawn(process.execPath, [...idle, `${data}-other`], { argv0: 'jibe instance', stdio: ['ignore', 'pipe', 'ignore'] });
	t.after(() => [titled, recorded, other].forEach((child) => child.kill('SIGKILL')));
	await Promise.all([titled, recorded, other].map((child) => once(child.stdout, 'data')));
	writePidFile(data, 'edge-0', identify(recorded.pid!)!);
	const found = findProcesses(data).map(({ role, pid }) => [role, pid]);
	assert.deepEqual(found, [['edge', recorded.pid], ...(process.platform === 'linux' ? [['instance', titled.pid]] : [])]);
});
