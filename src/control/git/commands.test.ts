import assert from 'node:assert/strict';
import { test } from 'node:test';
import { branchOf, isTag, MAX_COMMANDS, readCommands } from './commands.ts';
import { PktError } from './pkt-line.ts';

const A = 'a'.repeat(40);
const B = 'b'.repeat(40);
const ZERO = '0'.repeat(40);
const read = (...lines: string[]) => readCommands(lines.map((line) => Buffer.from(line)));

test('what git sends: branches that come, move and go, and what it can do', () => {
	const { commands, capabilities } = read(
		`${ZERO} ${A} refs/heads/main\0 report-status side-band-64k agent=git/2\n`,
		`${A} ${B} refs/heads/a/b`,
		`${B} ${ZERO} refs/tags/v1\n`,
	);
	assert.deepEqual(commands, [
		{ ref: 'refs/heads/main', from: null, to: A },
		{ ref: 'refs/heads/a/b', from: A, to: B },
		{ ref: 'refs/tags/v1', from: B, to: null },
	]);
	assert.deepEqual([...capabilities], ['report-status', 'side-band-64k', 'agent=git/2']);
	assert.ok(read(`shallow ${A}`, `${ZERO} ${A} refs/heads/main\0side-band-64k`).capabilities.has('side-band-64k'));
});

test('what git does not send', () => {
	const malformed = [
		'',
		'\0',
		'push-cert\0 nonce',
		`${A} refs/heads/main`,
		`${A} ${B}`,
		`${A} ${B} `,
		`${A} ${B} refs/heads/a b`,
		`${A} ${B} refs/heads/main\nsecond`,
		`${A.toUpperCase()} ${B} refs/heads/main`,
		`${A}a ${B}b refs/heads/main`,
		` ${A} ${B} refs/heads/main`,
	];
	for (const line of malformed) assert.throws(() => read(line), PktError, JSON.stringify(line));
	assert.throws(() => read(`${A} ${B} refs/heads/x`, `${B} ${A} refs/heads/x`), /one branch twice/);
	const many = Array.from({ length: MAX_COMMANDS + 1 }, (_, n) => `${ZERO} ${A} refs/heads/b${n}`);
	assert.throws(() => read(...many), /more than 500/);
	assert.equal(read(...many.slice(1)).commands.length, MAX_COMMANDS);
});

test('branches and tags, and what is neither', () => {
	assert.equal(branchOf('refs/heads/new/look'), 'new/look');
	assert.equal(isTag('refs/tags/v1.0'), true);
	const neither = ['refs/heads/', 'refs/heads/../x', 'refs/heads/-x', 'refs/heads/a..b', 'refs/heads/a.lock', 'refs/heads/@{x'];
	for (const ref of [...neither, 'refs/jibe/x', 'refs/notes/x', 'HEAD', 'main', 'refs/tags/']) {
		assert.equal(branchOf(ref), null, ref);
		assert.equal(isTag(ref), false, ref);
	}
});
