import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock as clock } from '#clock/clock.ts';
import type { Digest } from '#digest/digest.ts';
import { createLog } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import { startPostgres } from '#state/embedded.ts';
import { openState } from '#state/open.ts';
import type { State } from '#state/state.ts';
import { openDiskStore } from '#store/disk.ts';
import { newDeployment, newRelease } from '../test/fixtures/release.ts';
import { BenchJibe } from './jibe.ts';
import type { Row } from './row.ts';

/**
 * `jibe backup` and `jibe restore`, sealed, of 10,000 deployments and 2 GiB of blobs: from before the command is started
 * until it has ended. MiB are those of the blobs, unpacked. JIBE_BENCH_MIB makes it smaller.
 */
const BLOBS_MIB = Number(process.env['JIBE_BENCH_MIB'] ?? 2048);
const DEPLOYMENTS = Math.ceil((10_000 * BLOBS_MIB) / 2048);
const MIB = 1024 * 1024;
/** Of the blobs: text in small files, as modules are; text in large ones; noise in large ones, as images are. */
const SHARES = { small: 0.6, large: 0.2, noise: 0.2 };
const SMALL_BYTES = { least: 1024, most: 15 * 1024 };
const LARGE_BYTES = 4 * MIB;
const BATCH_BYTES = 32 * MIB;
/** Each release has some blobs of its own, and these of all. */
const SHARED_BLOBS = 25;
const APPS = 8;

export async function bench(): Promise<Row[]> {
	process.env['JIBE_BACKUP_PASSPHRASE'] = 'the passphrase of a bench';
	const jibe = new BenchJibe();
	const restored = join(jibe.place, 'restored');
	const file = join(jibe.place, 'backup');
	try {
		await jibe.up(1);
		await jibe.run(['down']);
		const bytes = await fill(jibe.data);
		await jibe.run(['up', '--detach']);
		const made = await jibe.run(['backup', file, '--all']);
		await jibe.run(['down']);
		const back = await jibe.run(['restore', file, '--data', restored]);
		check(made.json, back.json, bytes);
		const rate = (ms: number) => Math.round(bytes / MIB / (ms / 1000));
		return [
			{ row: 'backup-mib-per-s', value: rate(made.ms), unit: 'MiB/s', bar: 80, goal: 200 },
			{ row: 'restore-mib-per-s', value: rate(back.ms), unit: 'MiB/s', bar: 60, goal: 150 },
		];
	} finally {
		rmSync(file, { force: true });
		rmSync(runDirectory(restored), { recursive: true, force: true });
		await jibe.end();
	}
}

function check(made: Record<string, unknown>, back: Record<string, unknown>, bytes: number): void {
	if (made['bytes'] === bytes && back['bytes'] === bytes && made['blobs'] === back['blobs']) return;
	throw new Error(`${bytes} bytes of blobs went in, ${String(made['bytes'])} into the file, ${String(back['bytes'])} out of it`);
}

/** What a team that has deployed for years has, put in place without the years. */
async function fill(data: string): Promise<number> {
	const log = createLog({}, { write: () => {} });
	const postgres = await startPostgres({ data, runDir: runDirectory(data), log, clock });
	const state = await openState({ database: postgres.connection, log, clock });
	const store = await openDiskStore(join(data, 'blobs'), { durable: false });
	let bytes = 0;
	const digests: Digest[] = [];
	for (const batch of batches()) {
		digests.push(...(await store.write(batch)));
		for (const blob of batch) bytes += blob.length;
	}
	await deploy(state, digests);
	await store.close();
	await state.close();
	await postgres.stop();
	return bytes;
}

function* batches(): Generator<Buffer[]> {
	const text = words(8 * MIB);
	const random = (below: number) => Math.floor(Math.random() * below);
	let batch: Buffer[] = [];
	let batchBytes = 0;
	for (const [kind, share] of Object.entries(SHARES)) {
		for (let left = share * BLOBS_MIB * MIB; left > 0;) {
			const bytes = kind === 'small' ? SMALL_BYTES.least + random(SMALL_BYTES.most - SMALL_BYTES.least) : LARGE_BYTES;
			const from = random(text.length - bytes);
			const blob = kind === 'noise' ? randomBytes(bytes) : Buffer.concat([randomBytes(8), text.subarray(from, from + bytes - 8)]);
			left -= bytes;
			batch.push(blob);
			batchBytes += bytes;
			if (batchBytes < BATCH_BYTES) continue;
			yield batch;
			[batch, batchBytes] = [[], 0];
		}
	}
	yield batch;
}

/** Packs to about a third, as source code does. */
function words(bytes: number): Buffer {
	const known = Array.from({ length: 4_000 }, () => randomBytes(1 + Math.floor(Math.random() * 6)).toString('hex'));
	const parts: string[] = [];
	for (let length = 0; length < bytes;) {
		const word = known[Math.floor(Math.random() ** 2 * known.length)]!;
		parts.push(word);
		length += word.length + 1;
	}
	return Buffer.from(parts.join(' '));
}

async function deploy(state: State, digests: readonly Digest[]): Promise<void> {
	const shared = digests.slice(0, SHARED_BLOBS);
	const each = Math.ceil(digests.length / DEPLOYMENTS);
	let next = 0;
	const worker = async (app: string) => {
		for (let i = next++; i < DEPLOYMENTS; i = next++) {
			const blobs = [...new Set([...shared, ...digests.slice(i * each, (i + 1) * each)])];
			await state.blobs.own(app, blobs);
			const plan = () => ({ rollout: null, regions: [], writes: [] });
			await state.deployments.create(newDeployment(app, { release: newRelease(app, blobs), state: 'DeployFailed', plan }));
		}
	};
	await Promise.all(Array.from({ length: APPS }, (_, i) => worker(`app-${i}`)));
}
