import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { sha256, type Digest } from '#digest/digest.ts';
import { createLog } from '#log/log.ts';
import { startS3, type TestS3 } from '../../test/fixtures/s3.ts';
import type { SweptStore } from './blob-store.ts';
import { SWEEP_AFTER_MS, sweep } from './collect.ts';
import type { Objects } from './objects.ts';
import { openObjectStore } from './object-store.ts';
import { moveFromDisk } from './moving.ts';
import { openStore } from './open-store.ts';
import { openS3 } from './s3.ts';
import { storePlace } from './store-place.ts';

const MIB = 1024 * 1024;
const HELLO = Buffer.from('hello');
const PROSE = Buffer.from('the same words again and again, '.repeat(100));
const quiet = createLog({}, { write: () => {} });
/** Short enough for a test of what never answers. */
const LIMITS = { answerMs: 300, retryForMs: 700 };

let root: string;
let s3: TestS3;
before(async () => {
	root = await mkdtemp(join(tmpdir(), 'jibe-objects-'));
	s3 = await startS3();
});
afterEach(() => {
	s3.meddle = null;
	s3.seen.length = 0;
});
after(async () => {
	await s3.stop();
	await rm(root, { recursive: true, force: true });
});

let count = 0;
const freshDir = () => join(root, String(count++));
/** A bucket's part of its own, as a new installation would have it. */
const freshUrl = () => `${s3.url}/test-${count++}`;

function openAt(url: string, dir = freshDir()): Promise<SweptStore> {
	return openStore(dir, url, quiet, s3.env);
}

/** The same, with limits that a test can wait for. */
function openImpatient(url: string, dir = freshDir()): Promise<SweptStore> {
	return openObjectStore({ objects: objectsOf(url, LIMITS), dir, cacheBytes: 64 * MIB, log: quiet });
}

function objectsOf(url: string, limits = {}): Objects {
	const place = storePlace(url);
	assert.ok(place.kind === 's3');
	const credentials = { accessKeyId: s3.env['AWS_ACCESS_KEY_ID']!, secretAccessKey: s3.env['AWS_SECRET_ACCESS_KEY']! };
	return openS3({ ...place, region: s3.env['AWS_REGION']!, endpoint: s3.env['JIBE_S3_ENDPOINT']!, credentials }, limits);
}

const isPut = (method: string | undefined, url: string | undefined) => method === 'PUT' && (url ?? '').includes('/blobs/');

for (const [kind, url] of [
	['s3', freshUrl],
	['a shared directory', () => `file://${freshDir()}`],
] as const) {
	describe(kind, () => {
		test('gives back what was written, also to another that shares it, and to one with no copies', async () => {
			const place = url();
			const first = await openAt(place);
			const second = await openAt(place);
			const blobs = [HELLO, PROSE, Buffer.alloc(0), randomBytes(MIB + 1), Buffer.alloc(3 * MIB, 'prose')];
			const digests = await first.write(blobs);
			assert.deepEqual(digests, blobs.map((blob) => sha256(blob))); // prettier-ignore
			for (const store of [first, second, await openAt(place)]) {
				for (const [i, digest] of digests.entries()) assert.ok(blobs[i]!.equals(await store.read(digest)));
				assert.deepEqual(await store.has([...digests, sha256('never')]), new Set(digests));
				await assert.rejects(store.read(sha256('never')), { code: 'blob_missing' });
			}
		});

		test('a store is of one installation', async () => {
			const place = url();
			await (await openAt(place)).claim('ours');
			await (await openAt(place)).claim('ours');
			await assert.rejects((await openAt(place)).claim('another'), { code: 'store_refused', message: /of the installation ours/ });
		});

		test('many blobs of one write are one object, and known ones cost nothing', async () => {
			const place = url();
			const store = await openAt(place);
			const blobs = Array.from({ length: 500 }, (_, i) => Buffer.from(`blob ${i}`));
			await store.write(blobs);
			await store.write(blobs);
			await Promise.all([store.write([Buffer.from('x')]), store.write([Buffer.from('x')])]);
			assert.equal(await objectsAt(place), 2);
		});

		test('what nobody wants is swept after a day; a write of it meanwhile, by another, keeps it', async () => {
			const place = url();
			const [first, second] = [await openAt(place), await openAt(place)];
			const [hello, prose, big] = (await first.write([HELLO, PROSE, Buffer.alloc(2 * MIB, 'x')])) as [Digest, Digest, Digest];
			await second.refresh();
			const now = Date.now();
			while (Date.now() === now) await new Promise((resolve) => setImmediate(resolve));
			assert.deepEqual(await sweep(first, new Set([hello]), now), { marked: 2, deleted: 0 });
			await second.refresh();
			await second.write([PROSE]);
			assert.deepEqual(await sweep(first, new Set([hello]), now + SWEEP_AFTER_MS), { marked: 1, deleted: 1 });
			for (const store of [first, second, await openAt(place)]) {
				assert.ok(PROSE.equals(await store.read(prose)));
				assert.ok(HELLO.equals(await store.read(hello)));
				await assert.rejects(store.read(big), { code: 'blob_missing' });
			}
		});

		test('a hundred deploys are merged; another that knew the old objects finds the new one', async () => {
			const place = url();
			const store = await openAt(place);
			const blobs = Array.from({ length: 300 }, (_, i) => Buffer.from(`deploy ${i}`));
			await Promise.all(blobs.map((blob) => store.write([blob])));
			const other = await openAt(place);
			await store.compact();
			assert.equal(await objectsAt(place), 1);
			for (const blob of blobs) assert.ok(blob.equals(await other.read(sha256(blob))));
		});

		test('blobs go from store to store as they are stored', async () => {
			const [from, to] = [await openAt(url()), await openStore(freshDir(), undefined, quiet)];
			const digests = await from.write([HELLO, PROSE, Buffer.alloc(3 * MIB, 'prose'), randomBytes(2 * MIB)]);
			const stored = await Promise.all(from.inOrder(digests).map((digest) => from.readStored(digest)));
			await to.writeStored(stored);
			for (const digest of digests) assert.ok((await to.read(digest)).equals(await from.read(digest)));
			const back = await openAt(url());
			await back.writeStored(await Promise.all(to.inOrder(digests).map((digest) => to.readStored(digest))));
			assert.deepEqual(await back.has(digests), new Set(digests));
		});
	});
}

async function objectsAt(place: string): Promise<number> {
	if (place.startsWith('file:')) return (await readdir(join(place.slice('file://'.length), 'blobs'))).length;
	return (await listed(objectsOf(place))).length;
}

async function listed(objects: Objects, after = ''): Promise<string[]> {
	const names: string[] = [];
	for await (const { name } of objects.list('blobs/', after)) names.push(name);
	return names;
}

test('a large blob goes in parts, and a part that failed is sent again', async () => {
	const place = freshUrl();
	const store = await openAt(place);
	const large = randomBytes(20 * MIB); // noise: it is stored as large as it is
	let failed = 0;
	s3.meddle = ({ url }) => ((url ?? '').includes('partNumber=2') && failed++ === 0 ? { status: 500 } : undefined);
	const [digest] = await store.write([large]);
	assert.equal(s3.seen.filter((line) => line.includes('partNumber=')).length, 4, 'three parts, one of them twice');
	assert.ok(large.equals(await (await openAt(place)).read(digest!)));
});

test('objects are listed from a name on, page by page, and deleted', async () => {
	const objects = objectsOf(freshUrl(), { pageKeys: 3 });
	const names = Array.from({ length: 7 }, (_, i) => `blobs/${i}`);
	for (const name of names) await objects.put(name, HELLO);
	s3.seen.length = 0;
	assert.deepEqual(await listed(objects), names);
	assert.equal(s3.seen.length, 3);
	assert.deepEqual(await listed(objects, 'blobs/4'), names.slice(5));
	await objects.delete(names.slice(0, 5));
	assert.deepEqual(await listed(objects), names.slice(5));
});

test('an S3 that fails for a moment is asked again', async () => {
	const store = await openAt(freshUrl());
	let left = 3;
	s3.meddle = () => (left-- > 0 ? (left === 1 ? { cut: true } : { status: 503, body: '<Error><Code>SlowDown</Code></Error>' }) : undefined);
	const [digest] = await store.write([HELLO]);
	assert.ok(HELLO.equals(await store.read(digest!)));
});

for (const [how, meddling] of [
	['down', { cut: true }],
	['answering nothing', { silent: true }],
	['answering 503', { status: 503 }],
] as const) {
	test(`an S3 that is ${how}: refused by name, nothing acknowledged, and all well once it is back`, async () => {
		const place = freshUrl();
		const dir = freshDir();
		const store = await openImpatient(place, dir);
		const [prose] = await store.write([PROSE]);
		s3.meddle = () => meddling;
		await assert.rejects(store.write([HELLO]), { code: 'store_unavailable', message: /jibe-test/ });
		assert.ok(PROSE.equals(await store.read(prose!)), 'what there is a copy of can be read');
		const restarted = await openImpatient(place, dir);
		assert.ok(PROSE.equals(await restarted.read(prose!)), 'also by a control that starts meanwhile');
		await assert.rejects(restarted.has([prose!]), { code: 'store_unavailable' }, 'but nothing is said to be there unseen');
		await assert.rejects(openImpatient(place), { code: 'store_unavailable' }, 'one that never opened it does not start');
		s3.meddle = null;
		assert.equal((await store.has([sha256(HELLO)])).size, 0);
		const [hello] = await store.write([HELLO]);
		assert.deepEqual(await restarted.has([hello!, prose!]), new Set([hello, prose]));
	});
}

test('an S3 that forgets what it was just given: not acknowledged', async () => {
	const store = await openImpatient(freshUrl());
	s3.meddle = ({ method, url }) => (isPut(method, url) ? { status: 200 } : undefined);
	await assert.rejects(store.write([HELLO]), { code: 'store_unfaithful', message: /is not there/ });
	await assert.rejects(store.write([randomBytes(2 * MIB)]), { code: 'store_unfaithful', message: /is not there/ });
	assert.equal((await store.has([sha256(HELLO)])).size, 0);
	s3.meddle = null;
	assert.deepEqual(await store.has(await store.write([HELLO])), new Set([sha256(HELLO)]));
});

test('an S3 that forgets later: missing by name, and can be written again', async () => {
	const place = freshUrl();
	const store = await openAt(place);
	const [digest] = await store.write([HELLO]);
	const objects = objectsOf(place);
	const other = await openAt(place);
	await objects.delete(await listed(objects));
	await assert.rejects(other.read(digest!), { code: 'blob_missing' });
	assert.equal((await other.has([digest!])).size, 0);
	await other.write([HELLO]);
	assert.ok(HELLO.equals(await (await openAt(place)).read(digest!)));
});

test('an S3 that gives other bytes: never given out, and what else it changed is noticed', async () => {
	const place = freshUrl();
	const [hello, prose] = (await (await openAt(place)).write([HELLO, PROSE])) as [Digest, Digest];
	const [big] = await (await openAt(place)).write([randomBytes(2 * MIB)]);
	const store = await openAt(place);
	const flip = (body: Buffer) => {
		const other = Buffer.from(body);
		if (other.length > 0) other[other.length - 1]! ^= 1;
		return other;
	};
	s3.meddle = ({ method, url }) => (method === 'GET' && (url ?? '').includes('/blobs/') ? { change: flip } : undefined);
	await assert.rejects(store.read(prose), { code: 'blob_corrupt' });
	assert.deepEqual(await store.has([hello, prose, big!]), new Set([hello]));
	await assert.rejects(store.write([Buffer.from('new')]), { code: 'store_unfaithful', message: /other bytes/ });
	s3.meddle = null;
	await store.write([PROSE]);
	assert.ok(PROSE.equals(await store.read(prose)));
});

test('blobs of a directory move into the store that takes its place, and are there all the while', async () => {
	const data = freshDir();
	const old = await openStore(data, undefined, quiet);
	const digests = await old.write([HELLO, PROSE, randomBytes(2 * MIB)]);
	await old.close();
	const place = freshUrl();
	const dir = join(data, 'blobs');
	const moved = Promise.withResolvers<void>();
	const store = await moveFromDisk(dir, await openAt(place), quiet, moved.resolve);
	assert.deepEqual(await store.has(digests), new Set(digests), 'before the first is copied');
	assert.ok(PROSE.equals(await store.read(digests[1]!)));
	assert.equal((await (await openAt(place)).has(digests)).size, 0);
	await store.claim('ours');
	await moved.promise;
	assert.ok(!existsSync(dir));
	assert.deepEqual(await (await openAt(place)).has(digests), new Set(digests));
	assert.ok(HELLO.equals(await store.read(digests[0]!)));
});

test('what S3 refuses is said in its words', async () => {
	const wrong = { ...s3.env, AWS_SECRET_ACCESS_KEY: 'not-it' };
	await assert.rejects(openStore(freshDir(), s3.url, quiet, wrong), { code: 'store_refused', message: /SignatureDoesNotMatch/ });
	await assert.rejects(openStore(freshDir(), 's3://no-such-bucket', quiet, s3.env), { code: 'store_refused', message: /NoSuchBucket/ });
	await assert.rejects(openStore(freshDir(), s3.url, quiet, {}), { code: 'store_refused', message: /AWS_ACCESS_KEY_ID/ });
	await assert.rejects(openStore(freshDir(), 'gs://bucket', quiet, s3.env), { code: 'store_refused', message: /s3:\/\/bucket/ });
});

test('a copy that was changed on this machine is fetched again', async () => {
	const place = freshUrl();
	const dir = freshDir();
	const [digest] = await (await openAt(place, dir)).write([PROSE]);
	const copies = join(dir, 'store-cache/objects');
	for (const name of await readdir(copies)) await writeFile(join(copies, name), 'x');
	assert.ok(PROSE.equals(await (await openAt(place, dir)).read(digest!)));
});
