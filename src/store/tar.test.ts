import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeTar, readTar, TarError, type TarEntry, type TarFile, type TarLink } from './tar.ts';

const LIMITS = { entries: 1_000, bytes: 1_000_000 };

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
	for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function entriesOf(bytes: Buffer, limits = LIMITS, size = 1_000): Promise<TarEntry[]> {
	const found: TarEntry[] = [];
	for await (const entry of readTar(inPieces(bytes, size), limits)) found.push(entry);
	return found;
}

function packed(entries: (TarFile | TarLink)[]): Buffer {
	return Buffer.concat([...encodeTar(entries)]);
}

const file = (path: string, text: string, executable = false): TarFile => ({ kind: 'file', path, bytes: Buffer.from(text), executable });
const LONG = `${'folder-with-a-long-name/'.repeat(8)}grüße.txt`;

test('what was written is read, in pieces of any size', async () => {
	const entries = [file('a.txt', 'hello'), file('bin/run', '#!/bin/sh\n', true), file(LONG, 'x'.repeat(512)), file('empty', '')];
	const all = [...entries, { kind: 'link', path: 'link', target: `../${LONG}` } as const];
	for (const size of [1, 511, 512, 100_000]) assert.deepEqual(await entriesOf(packed(all), LIMITS, size), all);
});

test('any names and contents come back', async () => {
	const name = fc
		.string({ minLength: 1, maxLength: 150, unit: 'grapheme' })
		.filter((text) => !/[/\0]|^\.\.?$/.test(text) && text.isWellFormed());
	const entry = fc.record({ kind: fc.constant('file' as const), path: fc.array(name, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/')), bytes: fc.uint8Array({ maxLength: 1_500 }).map((bytes) => Buffer.from(bytes)), executable: fc.boolean() }, { noNullPrototype: true }); // prettier-ignore
	await fc.assert(
		fc.asyncProperty(fc.array(entry, { maxLength: 5 }), async (entries) => assert.deepEqual(await entriesOf(packed(entries)), entries)),
	);
});

test('tar of this machine reads what is written, and writes what is read', async (t) => {
	const directory = mkdtempSync(join(tmpdir(), 'jibe-tar-'));
	t.after(() => rmSync(directory, { recursive: true }));
	execFileSync('tar', ['-x', '-C', directory], { input: packed([file(LONG, 'deep'), file('run', 'me', true)]) });
	assert.equal(readFileSync(join(directory, LONG), 'utf8'), 'deep');
	mkdirSync(join(directory, 'more'));
	writeFileSync(join(directory, 'more/b'), 'b');
	symlinkSync('b', join(directory, 'more/a-link'));
	for (const format of ['gnu', 'pax', 'ustar']) {
		const found = await entriesOf(
			execFileSync('tar', ['-c', `--format=${format}`, '-C', directory, 'more', 'run', ...(format === 'ustar' ? [] : [LONG])]),
		);
		const byPath = new Map(found.map((one) => [one.path, one]));
		assert.deepEqual(byPath.get('run'), file('run', 'me', true));
		assert.deepEqual(byPath.get('more/a-link'), { kind: 'link', path: 'more/a-link', target: 'b' });
		if (format !== 'ustar') assert.deepEqual(byPath.get(LONG), file(LONG, 'deep'));
	}
});

test('the same files give the same bytes', () => {
	assert.deepEqual(packed([file('a', '1'), file('b', '2')]), packed([file('a', '1'), file('b', '2')]));
});

for (const path of ['/etc/passwd', '../up', 'a/../../up', 'a//b', 'a/./b', `${'x'.repeat(5_000)}`]) {
	test(`refused: the path ${path.slice(0, 20)}`, async () => {
		await assert.rejects(entriesOf(packed([file(path, 'evil')])), (error) => error instanceof TarError && error.code === 'bad_archive');
	});
}

test('refused: devices, damage, what is cut short and what is too much', async () => {
	const good = packed([file('a.txt', 'hello'), file('b.txt', 'world')]);
	const device = packed([file('dev', '')]);
	device.write('3', 156, 'latin1');
	await assert.rejects(entriesOf(resummed(device)), { code: 'bad_archive', message: /neither a file/ });
	const damaged = Buffer.from(good);
	damaged[3]! ^= 1;
	await assert.rejects(entriesOf(damaged), { code: 'bad_archive', message: /sum/ });
	await assert.rejects(entriesOf(good.subarray(0, 1_400)), { code: 'bad_archive', message: /cut short/ });
	await assert.rejects(entriesOf(good, { entries: 1, bytes: 100 }), { code: 'archive_too_large' });
	await assert.rejects(entriesOf(good, { entries: 9, bytes: 9 }), { code: 'archive_too_large' });
});

function resummed(archive: Buffer): Buffer {
	const sum = archive.subarray(0, 512).reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 32 : byte), 0);
	archive.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
	return archive;
}
