import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createLog, type Level } from './log.ts';

function capture(level?: Level) {
	const lines: Record<string, unknown>[] = [];
	const log = createLog(
		{ role: 'edge' },
		{ ...(level ? { level } : {}), write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>) },
	);
	return { log, lines };
}

test('one JSON object a line: when, how bad, what, and the fields', () => {
	const { log, lines } = capture();
	log.with({ region: 'fra' }).warn('region.lost', { silentMs: 15_000 });
	assert.match(String(lines[0]!['at']), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
	assert.deepEqual({ ...lines[0], at: '' }, { at: '', level: 'warn', event: 'region.lost', role: 'edge', region: 'fra', silentMs: 15_000 });
});

test('what is below the level is not written', () => {
	const { log, lines } = capture('warn');
	log.debug('a');
	log.info('b');
	log.warn('c');
	log.error('d');
	assert.deepEqual(
		lines.map(({ event }) => event),
		['c', 'd'],
	);
});

test('an error is written whole, with its causes', () => {
	const { log, lines } = capture();
	const cause = Object.assign(new Error('connection refused'), { code: 'ECONNREFUSED' });
	log.error('link.failed', { error: new Error('the depot does not answer', { cause }) });
	const error = lines[0]!['error'] as { message: string; stack: string; cause: { message: string; code: string } };
	assert.equal(error.message, 'the depot does not answer');
	assert.match(error.stack, /log\.test\.ts/);
	assert.equal(error.cause.message, 'connection refused');
	assert.equal(error.cause.code, 'ECONNREFUSED');
});

test(
	'a log that can not be written ends nobody, and tells later how much is missing',
	{ skip: !existsSync('/dev/full') && 'needs /dev/full' },
	async () => {
		const file = join(tmpdir(), `jibe-log-${process.pid}`);
		const code = `
		import { closeSync, openSync } from 'node:fs';
		import { createLog } from ${JSON.stringify(join(import.meta.dirname, 'log.ts'))};
		const log = createLog({});
		closeSync(2); openSync('/dev/full', 'w');
		log.info('a'); log.info('b');
		await new Promise((resolve) => setTimeout(resolve, 10));
		closeSync(2); openSync(${JSON.stringify(file)}, 'w');
		log.info('c');
	`;
		const { status } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { stdio: 'ignore' });
		const lines = readFileSync(file, 'utf8')
			.trim()
			.split('\n')
			.map((line) => JSON.parse(line) as Record<string, unknown>);
		rmSync(file);
		assert.equal(status, 0);
		assert.deepEqual(
			lines.map(({ event }) => event),
			['log.lost', 'c'],
		);
		assert.equal(lines[0]?.['lines'], 2);
	},
);
