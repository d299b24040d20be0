import assert from 'node:assert/strict';
import { test } from 'node:test';
import { durationMs } from './duration.ts';
import { ago, count, done, Output, seconds, table } from './output.ts';

function sinks(live: boolean) {
	const told = { out: '', err: '' };
	return { told, out: (text: string) => void (told.out += text), err: (text: string) => void (told.err += text), live };
}

test('on a terminal what goes on now is one line that is replaced; piped it is left out', () => {
	const terminal = sinks(true);
	const live = new Output(false, terminal);
	live.now('Compiling…');
	live.now('Uploading…');
	live.say('✓ Built');
	live.result({ a: 1 }, ['→ url']);
	assert.equal(terminal.told.err, 'Compiling…\r\u001b[KUploading…\r\u001b[K✓ Built\n');
	assert.equal(terminal.told.out, '→ url\n');
	const pipe = sinks(false);
	const plain = new Output(true, pipe);
	plain.now('Compiling…');
	plain.say('✓ Built');
	plain.result({ a: 1 }, ['→ url']);
	assert.deepEqual(pipe.told, { out: '{"a":1}\n', err: '✓ Built\n' });
});

test('words for numbers', () => {
	assert.equal(done('Built in 0.02s', '3 modules compiled'), '✓ Built in 0.02s           (3 modules compiled)');
	assert.deepEqual([seconds(21), seconds(412), seconds(12_345)], ['0.02s', '0.4s', '12.3s']);
	assert.deepEqual([count(1, 'region'), count(24, 'region')], ['1 region', '24 regions']);
	assert.deepEqual([ago(5_400), ago(180_000), ago(7_300_000), ago(200_000_000)], ['5 s ago', '3 min ago', '2 h ago', '2 d ago']);
	assert.deepEqual(table(['a', 'long'], [['xx', 'y']]), ['a   long', 'xx  y']);
	assert.deepEqual([durationMs('90s'), durationMs('10m'), durationMs('2h'), durationMs('1d'), durationMs('1w')], [90_000, 600_000, 7_200_000, 86_400_000, null]); // prettier-ignore
});
