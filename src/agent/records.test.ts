import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { createLog } from '#log/log.ts';
import { openRecords, type InstanceRecord } from './records.ts';

const quiet = createLog({}, { write: () => {} });

function home(t: TestContext): string {
	const directory = mkdtempSync(join(tmpdir(), 'jibe-records-'));
	t.after(() => rmSync(directory, { recursive: true, force: true }));
	return directory;
}

function record(state: 'prepared' | 'serving' | 'warm'): InstanceRecord {
	return {
		id: '7m4k92xy',
		app: 'notes',
		environment: 'production',
		identity: { pid: 4711, startTime: '12345' } as unknown as InstanceRecord['identity'],
		cgroup: null,
		uid: null,
		pool: 'p',
		bound: { region: 'fra', release: 7, slot: 0, cold: false, state, startedAt: 1 },
	};
}

test('the last whole line of a record counts, whatever was cut off after it', (t) => {
	const directory = home(t);
	const records = openRecords(directory, quiet);
	records.save(record('prepared'));
	records.update(record('serving'));
	records.updateSoon(record('warm'));
	records.retry();
	const file = join(directory, 'instances', '7m4k92xy.json');
	assert.equal(readFileSync(file, 'utf8').split('\n').length, 3);
	assert.deepEqual(openRecords(directory, quiet).instances(), [record('warm')]);
	truncateSync(file, readFileSync(file).length - 5);
	assert.deepEqual(openRecords(directory, quiet).instances(), [record('serving')]);
	// What is added after a line that was cut off is a line of its own.
	appendFileSync(file, `\n${JSON.stringify(record('warm'))}`);
	assert.deepEqual(openRecords(directory, quiet).instances(), [record('warm')]);
});

test('a record that changes for ever does not grow for ever', (t) => {
	const directory = home(t);
	const records = openRecords(directory, quiet);
	for (let n = 0; n < 200; n++) records.remember({ wants: [], releases: [], settled: [{ region: 'fra', app: 'notes', environment: 'x'.repeat(50_000), epoch: 1, version: n }] }); // prettier-ignore
	assert.ok(statSync(join(directory, 'wants.json')).size < 4 * 1024 * 1024);
	assert.equal(openRecords(directory, quiet).memory().settled[0]?.version, 199);
	for (let n = 0; n < 1_000; n++) records.update(record(n % 2 ? 'warm' : 'serving'));
	assert.ok(readFileSync(join(directory, 'instances', '7m4k92xy.json'), 'utf8').split('\n').length <= 64);
	assert.deepEqual(openRecords(directory, quiet).instances(), [record('warm')]);
	records.forget('7m4k92xy');
	assert.deepEqual(openRecords(directory, quiet).instances(), []);
});
