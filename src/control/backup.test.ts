import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock as clock } from '#clock/clock.ts';
import type { Digest } from '#digest/digest.ts';
import type { Connection, State } from '#state/state.ts';
import { openDiskStore } from '#store/disk.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { newDeployment, newRelease, prepared } from '../../test/fixtures/release.ts';
import { BackupParser, BackupWriter, RECORD } from '#wire/backup-file.ts';
import { makeBackup, type BackupWish } from './backup.ts';
import { restore, type RestoreOptions } from './restore.ts';

const MIB = 1024 * 1024;
const KEY = Buffer.alloc(32, 1);
const SEAL: BackupWish['seal'] = { kdf: { name: 'scrypt', cost: 2, blockSize: 1, parallelization: 1, salt: '' }, key: KEY };

let cluster: TestCluster;
let root: string;
before(async () => {
	cluster = await startCluster();
	root = await mkdtemp(join(tmpdir(), 'jibe-backup-'));
});
after(async () => {
	await cluster.stop();
	await rm(root, { recursive: true, force: true });
});

let count = 0;
const fresh = (name: string) => join(root, `${count++}-${name}`);

const MASTER_KEY = 'qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo=\n';

interface Lived {
	state: State;
	dir: string;
	store: Awaited<ReturnType<typeof openDiskStore>>;
	live: Digest[];
	old: Digest[];
}

/** Two releases: what only the first needs runs nowhere any more. */
async function lived(): Promise<Lived> {
	const state = await cluster.state();
	const dir = fresh('blobs');
	const store = await openDiskStore(dir, { durable: false });
	const files = Array.from({ length: 300 }, (_, i) => Buffer.from(`file ${i} ${'words '.repeat(i)}`));
	const live = await store.write([...files, randomBytes(3 * MIB), Buffer.alloc(6 * MIB, 'prose')]);
	const old = await store.write([Buffer.from('only in the first'), randomBytes(2 * MIB)]);
	await state.blobs.own('notes', [...live, ...old]);
	const first = newDeployment('notes', {
		release: newRelease('notes', [...live, ...old]),
		state: 'DeployFailed',
		plan: () => ({ rollout: null, regions: [], writes: [] }),
	});
	await state.deployments.create(first);
	const plan = (release: number) => ({ rollout: null, regions: [], writes: prepared(release) });
	await state.deployments.create(newDeployment('notes', { release: newRelease('notes', live), plan }));
	return { state, dir, store, live, old };
}

async function backup({ state, store }: Lived, wish: BackupWish = { all: true, seal: SEAL }): Promise<string> {
	const about = { version: '0.1.0', installation: 'x', up: { regions: ['fra'], port: 7070, edgePort: 8080 } };
	const failed = (error: unknown) => ({ code: 'failed', message: (error as Error).message });
	const masterKey = () => Promise.resolve(MASTER_KEY);
	const pieces: Buffer[] = [];
	for await (const piece of makeBackup({ state, store, about, clock, masterKey, failed }, wish)) pieces.push(piece);
	const file = fresh('backup');
	await writeFile(file, Buffer.concat(pieces));
	return file;
}

async function restoreInto(file: string, into: { database?: Connection; dir?: string } = {}, over: Partial<RestoreOptions> = {}) {
	const database = into.database ?? (await cluster.database());
	const store = await openDiskStore(into.dir ?? fresh('blobs'), { durable: false });
	const masterKeys: string[] = [];
	const places = () => Promise.resolve({ database, store });
	const masterKey = (text: string) => void masterKeys.push(text);
	const done = await restore({ file, key: KEY, clock, masterKey, progress: () => {}, places, ...over });
	return { ...done, masterKeys, database, store };
}

test('state and blobs come back, sealed or not, and the epoch is one higher', async () => {
	const from = await lived();
	for (const seal of [SEAL, null]) {
		const { epoch, store, database, blobs, masterKeys } = await restoreInto(await backup(from, { all: true, seal }));
		assert.deepEqual(masterKeys, seal ? [MASTER_KEY] : [], 'only behind a passphrase');
		assert.equal(epoch, 2);
		assert.equal(blobs, from.live.length + from.old.length);
		for (const digest of [...from.live, ...from.old]) assert.ok((await store.read(digest)).equals(await from.store.read(digest)));
		const state = await cluster.state({ database });
		assert.deepEqual(await state.deployments.history({ limit: 5 }), await from.state.deployments.history({ limit: 5 }));
		assert.equal((await state.blobs.owned('notes', from.old)).size, from.old.length);
	}
});

test('without --all it holds what runs: the rest is forgotten, and its history stays', async () => {
	const from = await lived();
	const { store, database, blobs } = await restoreInto(await backup(from, { all: false, seal: SEAL }));
	assert.equal(blobs, from.live.length);
	assert.equal((await store.has(from.old)).size, 0);
	const state = await cluster.state({ database });
	assert.equal((await state.deployments.history({ limit: 5 })).length, 2);
	assert.equal((await state.deployments.releases('notes', [1, 2])).length, 1);
	assert.equal((await state.blobs.owned('notes', from.old)).size, 0);
});

test('a sealed file shows nothing of what is in it', async () => {
	const from = await lived();
	const plain = await readFile(await backup(from, { all: true, seal: null }));
	const { privatePem } = await from.state.installation();
	const [, line = ''] = privatePem.split('\n');
	assert.ok(!plain.includes(line), 'keys are left out of a file that is not sealed');
	const sealed = await readFile(await backup(from));
	assert.ok(plain.includes('public_pem') === false && !sealed.includes('file 7 ') && plain.includes('file 7 '));
});

test('damaged anywhere, cut short, or with another key: refused with the place, the database stays empty, and the next try goes', async () => {
	const from = await lived();
	const file = await backup(from);
	const whole = await readFile(file);
	const database = await cluster.database();
	const dir = fresh('blobs');
	for (const share of [0.01, 0.2, 0.6, 0.99]) {
		const at = Math.floor(whole.length * share);
		const changed = Buffer.from(whole);
		changed[at]! ^= 1;
		await writeFile(file, changed);
		await assert.rejects(restoreInto(file, { database, dir }), { code: /backup_(damaged|truncated|unreadable)/, message: /byte \d+/ });
		await writeFile(file, whole.subarray(0, at));
		await assert.rejects(restoreInto(file, { database, dir }), { code: 'backup_truncated', message: new RegExp(`at byte ${at},`) });
	}
	await writeFile(file, whole);
	await assert.rejects(restoreInto(file, { database, dir }, { key: Buffer.alloc(32) }), { code: 'backup_passphrase' });
	await assert.rejects(restoreInto(file, { database, dir }, { key: null }), { code: 'backup_sealed' });
	const { blobs } = await restoreInto(file, { database, dir });
	assert.equal(blobs, from.live.length + from.old.length);
	await assert.rejects(restoreInto(file, { database, dir }), { code: 'not_empty' });
});

test('a blob under a digest that is not its own: refused, however well the file is made', async () => {
	const file = await backup(await lived(), { all: true, seal: null });
	const records = [...new BackupParser().push(await readFile(file))];
	const writer = new BackupWriter();
	const forged = records.flatMap(({ kind, payload, index }) => {
		if (index === 0) return writer.begin(JSON.parse(payload.toString()) as object, null);
		const content = Buffer.from(payload);
		if (kind === RECORD.pack) content[content.length - 1]! ^= 1;
		return writer.record(kind, content);
	});
	await writeFile(file, Buffer.concat(forged));
	await assert.rejects(restoreInto(file), { code: 'backup_damaged', message: /sha256:\w+, in record \d+ .* does not have that digest/ });
});

test('a blob that is damaged in the store: the backup says which, and can not be restored', async () => {
	const from = await lived();
	const packs = await readdir(join(from.dir, 'packs'));
	const largest = (await Promise.all(packs.map(async (name) => ({ name, size: (await stat(join(from.dir, 'packs', name))).size })))).sort((a, b) => b.size - a.size)[0]!; // prettier-ignore
	await truncate(join(from.dir, 'packs', largest.name), largest.size - 10);
	const file = await backup(from);
	await assert.rejects(restoreInto(file), {
		code: 'backup_truncated',
		message: /failed when it was made: blob sha256:\w+ as it is stored/,
	});
});

test('a store that fails while it is filled leaves the database empty', async () => {
	const file = await backup(await lived());
	const database = await cluster.database();
	const store = await openDiskStore(fresh('blobs'), { durable: false });
	store.writeStored = () => Promise.reject(new Error('the disk is gone'));
	await assert.rejects(restoreInto(file, { database }, { places: () => Promise.resolve({ database, store }) }), /the disk is gone/);
	assert.equal((await restoreInto(file, { database })).epoch, 2);
});
