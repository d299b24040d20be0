import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '#log/log.ts';
import { StoreRefused, type SweptStore } from './blob-store.ts';
import { openDiskStore } from './disk.ts';
import type { Objects } from './objects.ts';
import type { S3Place } from './s3-requests.ts';
import { storePlace, type StorePlace } from './store-place.ts';

/** The store of an installation: `blobs/` of its data directory, or what `--store` names. What only S3 needs is loaded only for it. */

/** Copies of a store's objects on this machine's disk. */
const CACHE_MIB = 2048;
const MIB = 1024 * 1024;
const DEFAULT_REGION = 'us-east-1';

type Environment = Readonly<Record<string, string | undefined>>;

export async function openStore(data: string, url: string | undefined, log: Log, env: Environment = process.env): Promise<SweptStore> {
	if (url === undefined) return openDiskStore(join(data, 'blobs'), { durable: true });
	const objects = await openObjects(storePlace(url), env);
	const { openObjectStore } = await import('./object-store.ts');
	const cacheBytes = Number(env['JIBE_STORE_CACHE_MIB'] ?? CACHE_MIB) * MIB;
	const store = await openObjectStore({ objects, dir: join(data, 'store-cache'), cacheBytes, log });
	const before = join(data, 'blobs');
	if (!existsSync(before)) return store;
	const { moveFromDisk } = await import('./moving.ts');
	return moveFromDisk(before, store, log);
}

async function openObjects(place: StorePlace, env: Environment): Promise<Objects> {
	if (place.kind === 'file') return (await import('./directory-objects.ts')).openDirectoryObjects(place.dir);
	const { openS3 } = await import('./s3.ts');
	return openS3(s3Place(place, env));
}

function s3Place({ bucket, prefix }: { bucket: string; prefix: string }, env: Environment): S3Place {
	const [accessKeyId, secretAccessKey, sessionToken] = [env['AWS_ACCESS_KEY_ID'], env['AWS_SECRET_ACCESS_KEY'], env['AWS_SESSION_TOKEN']];
	if (!accessKeyId || !secretAccessKey) {
		throw new StoreRefused(
			`s3://${bucket} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of jibe up`,
		);
	}
	const endpoint = env['JIBE_S3_ENDPOINT'] ?? env['AWS_ENDPOINT_URL_S3'] ?? env['AWS_ENDPOINT_URL'] ?? null;
	if (endpoint !== null && !URL.canParse(endpoint)) throw new StoreRefused(`${endpoint} is no URL of an S3 endpoint`);
	const region = env['AWS_REGION'] ?? env['AWS_DEFAULT_REGION'] ?? DEFAULT_REGION;
	return { bucket, prefix, region, endpoint, credentials: { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) } };
}
