import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createZstdDecompress } from 'node:zlib';
import { systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import { TarError } from '#store/tar.ts';
import type { AppConfig } from '#wire/config.ts';
import type { Attempt } from './attempt.ts';
import { checkOut, type CheckedOut } from './checkout.ts';
import { BuildFault } from './fault.ts';

/** Getting a job's source, and what its jibe.json says. */

const KEPT_CHECKOUTS = 20;
const CHECKOUT = 'source';

/** Each repository has a directory of its own, for each circle of trust: what is the same as the last time stays as it is. */
export async function fetchSource(attempt: Attempt, checkouts: string): Promise<CheckedOut & { directory: string; sentBytes: number }> {
	const { lane, trust } = attempt.job;
	const place = join(checkouts, sha256(`${lane}\0${trust}`).slice(7, 23));
	const directory = join(place, CHECKOUT);
	mkdirSync(directory, { recursive: true, mode: 0o755 });
	const now = systemClock.now() / 1000;
	utimesSync(place, now, now);
	forget(checkouts);
	let sentBytes = 0;
	const tar = new PassThrough();
	const unpacking = pipeline(
		Readable.from(await attempt.open(attempt.query('source'))),
		async function* (chunks: AsyncIterable<Buffer>) {
			for await (const chunk of chunks) {
				sentBytes += chunk.length;
				yield chunk;
			}
		},
		createZstdDecompress(),
		tar,
	);
	try {
		const [made] = await Promise.all([checkOut(tar, directory), unpacking]);
		return { ...made, directory, sentBytes };
	} catch (error) {
		attempt.check();
		if (error instanceof TarError)
			throw new BuildFault(error.code, `the source can't be unpacked: ${error.message}`, null, { cause: error });
		throw error;
	}
}

/** The least recently used ones. */
function forget(checkouts: string): void {
	const all = readdirSync(checkouts).map((name) => ({ path: join(checkouts, name), usedAt: statSync(join(checkouts, name)).mtimeMs }));
	const old = all.sort((a, b) => b.usedAt - a.usedAt).slice(KEPT_CHECKOUTS);
	for (const { path } of old) rmSync(path, { recursive: true, force: true });
}

/** What the source's own jibe.json says for this environment, or what is assumed without one. @throws BuildFault */
export async function readConfig(
	source: string,
	{ app, environment, directory }: { app: string; environment: string; directory: string },
): Promise<{ config: AppConfig; assumed: string[] }> {
	const dir = join(source, directory);
	if (!existsSync(dir))
		throw new BuildFault('no_directory', `the source has no directory ${directory}`, 'jibe repo add says where the app is');
	const { parseConfigFile, configFor, ConfigError } = await import('#wire/config-file.ts');
	const { detectApp, detectEntry } = await import('#build/detect.ts');
	const file = join(dir, 'jibe.json');
	const text = existsSync(file) ? readFileSync(file, 'utf8') : null;
	const found = text !== null && /"(entry|runtime)"/.test(text) ? null : detectApp(dir);
	const assumed = found?.assumptions ?? [];
	if (text === null && found === null) {
		throw new BuildFault('no_app', 'there is no jibe.json, and nothing in the source looks like an app', 'jibe init writes a first one');
	}
	const { runtime, entry, start, dir: folder, build, test } = found ?? {};
	const written = text ?? JSON.stringify({ app, runtime, entry, start, dir: folder, build, test });
	try {
		const detected = {
			entry: entry ?? (text !== null && !/"entry"/.test(text) ? detectEntry(dir) : null),
			dockerfile: existsSync(join(dir, 'Dockerfile')),
		};
		const config = configFor(parseConfigFile(written, 'jibe.json', detected), environment);
		if (config.app !== app)
			throw new BuildFault('app_mismatch', `jibe.json says the app is ${config.app}, and it is built as ${app}`, null);
		return { config, assumed };
	} catch (error) {
		if (error instanceof ConfigError) throw new BuildFault('config', error.message, 'docs/config.md describes every key', { cause: error });
		throw error;
	}
}
