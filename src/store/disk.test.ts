import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { sha256, type Digest } from '#digest/digest.ts';
import { decodePackIndex, encodeBlob, encodePack, decodeBlob } from './blob-pack.ts';
import { SWEEP_AFTER_MS, sweep } from './collect.ts';
import { openDiskStore } from './disk.ts';

const MIB = 1024 * 1024;
const HELLO = Buffer.from('hello');
const PROSE = Buffer.from('the same words again and again, '.repeat(100));

let root: string;
before(async () => {
	root = await mkdtemp(join(tmpdir(), 'jibe-store-'));
});
after(() => rm(root, { recursive: true, force: true }));

let count = 0;
const freshDir = () => join(root, String(count++));

async function onlyPack(dir: string): Promise<string> {
	const names = await readdir(join(dir, 'packs'));
	assert.equal(names.length, 1, names.join());
	return join(dir, 'packs', names[0]!);
}

for (const durable of [true, false]) {
	describe(durable ? 'a durable store' : 'a cache', () => {
		test('gives back what was written, also after it was opened again', async () => {
			const dir = freshDir();
			const store = await openDiskStore(dir, { durable });
			const big = randomBytes(MIB + 1);
			const bigProse = Buffer.alloc(3 * MIB, 'prose');
			const blobs = [HELLO, PROSE, Buffer.alloc(0), big, bigProse];
			const digests = await store.write(blobs);
			assert.deepEqual(
				digests,
				blobs.map((blob) => sha256(blob)),
			);
			for (const one of [store, await openDiskStore(dir, { durable })]) {
				for (const [i, digest] of digests.entries()) assert.ok(blobs[i]!.equals(await one.read(digest)));
				assert.deepEqual(await one.has([...digests, sha256('never')]), new Set(digests));
			}
		});
	});
}

test('small blobs of one write share one file, and known ones cost nothing', async () => {
	const dir = freshDir();
	const store = await openDiskStore(dir, { durable: true });
	await store.write([HELLO, PROSE, HELLO]);
	const pack = await onlyPack(dir);
	assert.ok((await readFile(pack)).length < PROSE.length / 2, 'compressed where it pays');
	await store.write([HELLO, PROSE]);
	await onlyPack(dir);
	await Promise.all([store.write([Buffer.from('x')]), store.write([Buffer.from('x')]), store.write([Buffer.from('x')])]);
	assert.equal((await readdir(join(dir, 'packs'))).length, 2);
});

test('a missing blob is named', async () => {
	const store = await openDiskStore(freshDir(), { durable: true });
	await assert.rejects(store.read(sha256('never')), { code: 'blob_missing', digest: sha256('never') });
});

test('a blob that was changed on disk is never given out, and can be written again', async () => {
	const dir = freshDir();
	const noise = randomBytes(500);
	const [digest] = await (await openDiskStore(dir, { durable: true })).write([noise]);
	const pack = await onlyPack(dir);
	const bytes = await readFile(pack);
	bytes[bytes.length - 1]! ^= 1;
	await writeFile(pack, bytes);
	const store = await openDiskStore(dir, { durable: true });
	await assert.rejects(store.read(digest!), { code: 'blob_corrupt', digest });
	assert.equal((await store.has([digest!])).size, 0);
	await store.write([noise]);
	assert.ok(noise.equals(await store.read(digest!)));
	assert.ok(noise.equals(await (await openDiskStore(dir, { durable: true })).read(digest!)), 'the newer copy wins');
});

test('a truncated pack loses only what was cut off', async () => {
	const dir = freshDir();
	const [first, last] = [randomBytes(500), randomBytes(500)];
	const digests = await (await openDiskStore(dir, { durable: true })).write([first, last]);
	const pack = await onlyPack(dir);
	await truncate(pack, (await readFile(pack)).length - 1);
	const store = await openDiskStore(dir, { durable: true });
	assert.ok(first.equals(await store.read(digests[0]!)));
	await assert.rejects(store.read(digests[1]!), { code: 'blob_corrupt' });
});

test('damage that was met once, or shows at open, makes the store look at all that it says to have', async () => {
	const dir = freshDir();
	const [small, large] = [randomBytes(500), randomBytes(2 * MIB)];
	const store = await openDiskStore(dir, { durable: true });
	const [one, two] = await store.write([small, randomBytes(500)]);
	const [big] = await store.write([large]);
	const pack = await onlyPack(dir);
	const bytes = await readFile(pack);
	await writeFile(pack, Buffer.from(bytes).fill(0, bytes.length - 1000));
	await truncate(join(dir, 'big', (await readdir(join(dir, 'big')))[0]!), MIB);
	assert.equal((await store.has([one!, two!, big!])).size, 3, 'nobody looked yet');
	await assert.rejects(store.read(two!), { code: 'blob_corrupt' });
	assert.deepEqual([...(await store.has([one!, two!, big!]))], []);
	await store.write([small]);
	assert.deepEqual([...(await store.has([one!, two!, big!]))], [one]);
	await truncate(pack, bytes.length - 1);
	assert.deepEqual([...(await (await openDiskStore(dir, { durable: true })).has([one!, two!, big!]))], [one]);
});

test('a pack whose index was damaged, or that is none, is set aside', async () => {
	for (const damage of [(bytes: Buffer) => bytes.subarray(0, 30), (bytes: Buffer) => bytes.fill(0xff, 40, 50), () => Buffer.from('junk')]) {
		const dir = freshDir();
		const [digest] = await (await openDiskStore(dir, { durable: true })).write([PROSE]);
		const pack = await onlyPack(dir);
		await writeFile(pack, damage(await readFile(pack)));
		const store = await openDiskStore(dir, { durable: true });
		assert.deepEqual(store.damaged, [`${pack}.damaged`]);
		await assert.rejects(store.read(digest!), { code: 'blob_missing' });
		await store.write([PROSE]);
		assert.ok(PROSE.equals(await store.read(digest!)));
	}
});

test('a tampered or cut big blob is corrupt; one that unpacks to something else is too', async () => {
	const dir = freshDir();
	const noise = randomBytes(2 * MIB);
	const store = await openDiskStore(dir, { durable: true });
	const [digest] = await store.write([noise]);
	const [name] = await readdir(join(dir, 'big'));
	await truncate(join(dir, 'big', name!), MIB);
	await assert.rejects(store.read(digest!), { code: 'blob_corrupt' });
	await store.write([noise]);
	assert.ok(noise.equals(await store.read(digest!)));
});

test('a deletion forgets, keeps the rest of the pack, and frees the room', async () => {
	const dir = freshDir();
	const store = await openDiskStore(dir, { durable: true });
	const blobs = Array.from({ length: 50 }, () => randomBytes(1000));
	const digests = await store.write(blobs);
	const big = randomBytes(2 * MIB);
	const [bigDigest] = await store.write([big]);
	await store.delete([...digests.slice(0, 25), bigDigest!, sha256('never')]);
	assert.ok((await readFile(await onlyPack(dir))).length < 30_000);
	assert.deepEqual(await readdir(join(dir, 'big')), []);
	for (const one of [store, await openDiskStore(dir, { durable: true })]) {
		assert.equal((await one.has([...digests, bigDigest!])).size, 25);
		assert.ok(blobs[40]!.equals(await one.read(digests[40]!)));
		await assert.rejects(one.read(digests[3]!), { code: 'blob_missing' });
	}
	await store.delete(digests);
	assert.deepEqual(await readdir(join(dir, 'packs')), []);
});

test('a blob written while it is being deleted stays', async () => {
	const store = await openDiskStore(freshDir(), { durable: true });
	const [small, big] = [randomBytes(100), randomBytes(2 * MIB)];
	const digests = await store.write([small, big]);
	const others: Digest[] = [];
	for (let i = 0; i < 20; i++) others.push(...(await store.write([randomBytes(100), randomBytes(100)])));
	// The second deletion waits for the first, which rewrites 20 packs; meanwhile the blobs come back.
	const deletions = [store.delete(others.filter((_, i) => i % 2 === 0)), store.delete(digests)];
	await store.write([small, big]);
	await Promise.all(deletions);
	assert.ok(small.equals(await store.read(digests[0]!)));
	assert.ok(big.equals(await store.read(digests[1]!)));
});

test('what nobody wants is deleted a day after that was noticed, unless somebody wrote it again', async () => {
	const dir = freshDir();
	const store = await openDiskStore(dir, { durable: true });
	const [kept, again, gone] = await store.write([Buffer.from('kept'), Buffer.from('again'), Buffer.from('gone')]);
	assert.deepEqual(await sweep(store, new Set([kept!]), 1000), { marked: 2, deleted: 0 });
	assert.deepEqual(await sweep(store, new Set([kept!]), 1000 + SWEEP_AFTER_MS - 1), { marked: 0, deleted: 0 });
	const reopened = await openDiskStore(dir, { durable: true });
	await reopened.write([Buffer.from('again')]);
	assert.deepEqual(await sweep(reopened, new Set([kept!]), 1000 + SWEEP_AFTER_MS), { marked: 1, deleted: 1 });
	assert.deepEqual(await reopened.has([kept!, again!, gone!]), new Set([kept, again]));
});

test('a disk that is full says so and keeps nothing half; with room again all is well', async (t) => {
	const dir = freshDir();
	const tiny = await mkdtemp(join(root, 'tiny-'));
	try {
		execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', tiny], { stdio: 'ignore' });
	} catch {
		return t.skip(`needs the right to mount a small file system (${dir})`);
	}
	try {
		const store = await openDiskStore(join(tiny, 'store'), { durable: true });
		const [digest] = await store.write([HELLO]);
		const blobs = Array.from({ length: 20 }, () => randomBytes(100_000));
		await assert.rejects(store.write(blobs), { code: 'store_full', message: /no room for \d+ bytes at .*\.pack: the disk is full/ });
		assert.equal((await store.has(blobs.map((blob) => sha256(blob)))).size, 0);
		assert.equal((await readdir(join(tiny, 'store', 'packs'))).length, 1);
		assert.ok(HELLO.equals(await store.read(digest!)));
		await store.write(blobs.slice(0, 2));
		assert.ok(blobs[1]!.equals(await store.read(sha256(blobs[1]!))));
	} finally {
		execFileSync('umount', [tiny]);
	}
});

test('killed at any instant, a store has of each write all or nothing, and all that was acknowledged', async () => {
	const script = `
		import { openDiskStore } from ${JSON.stringify(new URL('./disk.ts', import.meta.url).href)};
		const store = await openDiskStore(process.argv[1], { durable: true });
		for (let i = 0; ; i++) {
			const digests = await store.write([Buffer.from('a' + i), Buffer.from('b' + i), Buffer.alloc(1100000, 'c' + i)]);
			if (i % 5 === 4) await store.delete(digests);
			else process.stdout.write(i + '\\n');
		}`;
	for (const lines of [1, 4, 9]) {
		const dir = freshDir();
		const child = spawn(process.execPath, ['--input-type=module', '-e', script, dir], { stdio: ['ignore', 'pipe', 'inherit'] });
		let acknowledged = '';
		for await (const chunk of child.stdout) {
			acknowledged += String(chunk);
			if (acknowledged.split('\n').length > lines) child.kill('SIGKILL');
		}
		if (child.signalCode === null) await once(child, 'exit');
		const store = await openDiskStore(dir, { durable: true });
		assert.deepEqual(store.damaged, []);
		for (const line of acknowledged.trim().split('\n')) {
			for (const text of [`a${line}`, `b${line}`]) assert.equal((await store.read(sha256(text))).toString(), text);
		}
		for (const digest of store.digests()) await store.read(digest);
	}
});

test('property: a pack gives back its blobs, and one changed byte is noticed', () => {
	const bytes = fc.uint8Array({ maxLength: 400 });
	fc.assert(
		fc.property(fc.array(bytes, { minLength: 1, maxLength: 8 }), fc.nat(), (raws, where) => {
			const blobs = raws.map((raw) => encodeBlob(sha256(raw), raw));
			const { file } = encodePack(blobs);
			const entries = decodePackIndex(file);
			assert.equal(entries?.length, raws.length);
			const read = (from: Buffer) =>
				decodePackIndex(from)?.map((entry) => decodeBlob(entry, from.subarray(entry.offset, entry.offset + entry.storedBytes)));
			assert.deepEqual(
				read(file),
				raws.map((raw) => Buffer.from(raw)),
			);
			const changed = Buffer.from(file);
			changed[where % changed.length]! ^= 0x20;
			const found = read(changed);
			// Either the whole index is refused, or exactly the blob that was hit; a wrong byte never comes out.
			for (const [i, raw] of (found ?? []).entries()) assert.ok(raw === null || raw.equals(raws[i]!));
			assert.ok(!found || found.includes(null));
		}),
		{ numRuns: 200 },
	);
});

test('many small packs are merged, and lose nothing by it', async () => {
	const dir = freshDir();
	const store = await openDiskStore(dir, { durable: false });
	const digests: Digest[] = [];
	for (let i = 0; i < 300; i++) digests.push(...(await store.write([Buffer.from(`module ${i}`)])));
	await store.compact();
	assert.equal((await readdir(join(dir, 'packs'))).length, 1);
	for (const one of [store, await openDiskStore(dir, { durable: false })]) {
		for (const [i, digest] of digests.entries()) assert.equal((await one.read(digest)).toString(), `module ${i}`);
	}
	await store.compact();
	assert.equal((await readdir(join(dir, 'packs'))).length, 1, 'few packs are let be');
});
