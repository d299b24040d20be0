import { fileURLToPath } from 'node:url';
import { StoreRefused } from './blob-store.ts';

export type StorePlace = { kind: 's3'; bucket: string; prefix: string } | { kind: 'file'; dir: string };

/** What `--store` may name. @throws StoreRefused */
export function storePlace(url: string): StorePlace {
	const s3 = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/([\w.\-/]*))?$/.exec(url);
	if (s3) {
		const prefix = (s3[2] ?? '').split('/').filter(Boolean).join('/');
		return { kind: 's3', bucket: s3[1]!, prefix: prefix === '' ? '' : `${prefix}/` };
	}
	if (/^file:\/\/\/./.test(url)) return { kind: 'file', dir: fileURLToPath(url) };
	throw new StoreRefused(`--store takes s3://bucket, s3://bucket/prefix or file:///directory, not ${url}`);
}
