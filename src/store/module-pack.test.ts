import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { sha256, type Digest } from '#digest/digest.ts';
import { buildModulePack, openModulePack, PackError, readModulePack, writeModulePack } from './module-pack.ts';

const blobs = new Map<Digest, Buffer>();
function add(text: string): Digest {
	const digest = sha256(text);
	blobs.set(digest, Buffer.from(text));
	return digest;
}
function read(digest: Digest): Buffer {
	const blob = blobs.get(digest);
	assert.ok(blob, `asked for ${digest}`);
	return blob;
}
const indexJson = Buffer.from(
	'{"format":1,"entry":"a.ts","modules":{"a.ts":{"format":"module","resolve":{"./b.ts":"b.ts"}},"b.ts":{"format":"module","resolve":{}}}}',
);

test('what was packed is read back, from the file too', () => {
	const wanted = new Map([
		['a.ts', add('import "./b.ts"')],
		['b.ts', add('export const b = "ü"')],
	]);
	const directory = mkdtempSync(join(tmpdir(), 'jibe-pack-'));
	writeModulePack(join(directory, 'deep', 'x.pack'), buildModulePack({ indexJson, wanted, read, previous: null }));
	const pack = readModulePack(join(directory, 'deep', 'x.pack'));
	rmSync(directory, { recursive: true });
	assert.equal(pack.slice('b.ts')?.toString(), 'export const b = "ü"');
	assert.equal(pack.index.modules['a.ts']?.resolve['./b.ts'], 'b.ts');
	assert.equal(pack.slice('c.ts'), null);
	assert.equal(pack.slice('__proto__'), null);
});

test('a pack made from the one before reads only what changed', () => {
	const first = new Map([
		['a.ts', add('a'.repeat(100))],
		['b.ts', add('b'.repeat(100))],
	]);
	const previous = openModulePack(buildModulePack({ indexJson, wanted: first, read, previous: null }));
	const asked: Digest[] = [];
	const changed = add('changed');
	const wanted = new Map([...first, ['a.ts', changed]] as const);
	const bytes = buildModulePack({ indexJson, wanted, previous, read: (digest) => (asked.push(digest), read(digest)) });
	const pack = openModulePack(bytes);
	assert.deepEqual(asked, [changed]);
	assert.equal(pack.slice('a.ts')?.toString(), 'changed');
	assert.equal(pack.slice('b.ts')?.toString(), 'b'.repeat(100));
});

test('any chain of packs holds exactly the wanted bodies and at most about twice their size', () => {
	const release = fc.dictionary(fc.constantFrom('a.ts', 'b.ts', 'c.ts', 'd.ts'), fc.string({ maxLength: 60 }), { noNullPrototype: true });
	fc.assert(
		fc.property(fc.array(release, { minLength: 1, maxLength: 12 }), (releases) => {
			let previous = null;
			for (const files of releases) {
				const wanted = new Map(Object.entries(files).map(([path, text]) => [path, add(text)]));
				const bytes = buildModulePack({ indexJson, wanted, read, previous });
				const pack = openModulePack(bytes);
				assert.deepEqual(pack.paths().sort(), Object.keys(files).sort());
				for (const [path, text] of Object.entries(files)) assert.equal(pack.slice(path)?.toString(), text);
				previous = pack;
			}
		}),
	);
});

test('truncated and foreign bytes are refused with a PackError, never read beyond the end', () => {
	const whole = buildModulePack({ indexJson, wanted: new Map([['a.ts', add('some text')]]), read, previous: null });
	for (let length = 0; length < whole.length; length++) {
		assert.throws(() => openModulePack(whole.subarray(0, length)).slice('a.ts'), PackError, `${length} bytes`);
	}
	assert.throws(() => openModulePack(Buffer.from('PK\x03\x04 a zip file')), PackError);
});
