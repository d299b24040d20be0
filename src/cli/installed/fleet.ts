import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { pause, systemClock } from '#clock/clock.ts';
import { readPidFile } from '#process/pid-file.ts';
import { packageAnswer, packagesAnswer, runsPackage, type ServerPackageStatus } from '#wire/package.ts';
import { EXIT, Failure } from '../failure.ts';
import { count } from '../output.ts';
import { ask, findServer, type Server } from '../server.ts';
import type { Package } from './package.ts';

/** The joined servers go over to a package after control: wave by wave, each only when the one before is whole again. */

/** One first; what is wrong with it is wrong with all. */
const FIRST_WAVE = 1;
const WAVE_GROWTH = 4;
const MAX_WAVE = 32;
const WAVE_LIMIT_MS = 300_000;
const LOOK_EACH_MS = 500;
const RECONNECT_LIMIT_MS = 15_000;

export interface WentOver {
	done: string[];
	/** Not there, or not whole, when it began: they go over when they are back. */
	later: string[];
}

/** @throws Failure when one does not go over: those after it stay as they are */
export async function upgradeServers(of: {
	data: string;
	to: Package;
	/** What it was unpacked from, if it was. */
	tarball: string | null;
	/** Servers that were whole before control went over; null: that is not known. */
	before: readonly string[] | null;
	tell: (line: string) => void;
}): Promise<WentOver> {
	const { data, to, tarball, before, tell } = of;
	const nobody = { done: [], later: [] };
	if (existsSync(join(data, 'server', 'server.json'))) return nobody;
	const control = findServer(data);
	const servers = await reconnected(control, before);
	if (servers.length === 0) return nobody;
	const bytes = tarball === null ? pack(to) : readFileSync(tarball);
	const sent = await ask(control, {
		method: 'POST',
		path: `/api/v1/packages?version=${to.version}`,
		body: { bytes, type: 'application/gzip' },
	});
	const { digest } = packageAnswer.parse(sent);
	const others = servers.filter(({ runs }) => !runsPackage(runs, digest));
	const late = others.filter(({ whole }) => whole);
	const done: string[] = [];
	const want = (name: string) => ask(control, { method: 'PUT', path: `/api/v1/servers/${name}/package`, json: { digest } });
	for (let size = FIRST_WAVE; done.length < late.length; size = Math.min(size * WAVE_GROWTH, MAX_WAVE)) {
		const wave = late.slice(done.length, done.length + size).map(({ name }) => name);
		tell(`Going over to ${to.version}: ${wave.join(', ')}…`);
		for (const name of wave) await want(name);
		await settled(control, wave, digest, done.length, late.length);
		done.push(...wave);
	}
	const later = others.flatMap(({ name, whole }) => (whole ? [] : [name]));
	for (const name of later) await want(name);
	return { done, later };
}

/** A control that has just been replaced hears of its servers again within moments. */
async function reconnected(control: Server, before: readonly string[] | null): Promise<ServerPackageStatus[]> {
	const deadline = systemClock.monotonic() + RECONNECT_LIMIT_MS;
	for (;;) {
		const all = await statuses(control);
		if (all.every(({ name, whole }) => whole || before?.includes(name) === false) || systemClock.monotonic() > deadline) return all;
		await pause(LOOK_EACH_MS);
	}
}

/** Null where control can't say: the version before could not. */
export async function wholeServers(data: string): Promise<string[] | null> {
	if (!readPidFile(data, 'control')?.alive) return null;
	try {
		return (await statuses(findServer(data))).flatMap(({ name, whole }) => (whole ? [name] : []));
	} catch {
		return null;
	}
}

async function statuses(control: Server): Promise<ServerPackageStatus[]> {
	return packagesAnswer.parse(await ask(control, { path: '/api/v1/packages' })).servers;
}

async function settled(control: Server, wave: readonly string[], digest: string, done: number, all: number): Promise<void> {
	const deadline = systemClock.monotonic() + WAVE_LIMIT_MS;
	for (;;) {
		const now = (await statuses(control)).filter(({ name }) => wave.includes(name));
		const failed = now.find(({ problem }) => problem !== null);
		const left = now.filter(({ runs, whole }) => !runsPackage(runs, digest) || !whole);
		const far = `${done} of ${count(all, 'server')} went over`;
		if (failed) {
			throw new Failure('server_upgrade_failed', EXIT.jibe, `${failed.name} did not go over: ${failed.problem}`, {
				hint: `${far}; it and those after it run what they did, and all of them serve. jibe upgrade goes on from here`,
			});
		}
		if (left.length === 0) return;
		if (systemClock.monotonic() > deadline) {
			const names = left.map(({ name }) => name).join(', ');
			throw new Failure('server_upgrade_late', EXIT.jibe, `not back within ${WAVE_LIMIT_MS / 60_000} min: ${names}`, {
				hint: `${far}. On that server: jibe doctor; one that is off goes over when it is back. jibe upgrade goes on from here`,
			});
		}
		await pause(LOOK_EACH_MS);
	}
}

const CONTENTS = ['package.json', 'bin', 'dist', 'sql', 'docs', 'CHANGELOG.md'];

/** As npm would, and the same bytes each time, so that servers that have it are left alone. */
function pack({ root }: Package): Buffer {
	const names = CONTENTS.filter((name) => existsSync(join(root, name)));
	const fixed = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--transform=s,^,package/,'];
	try {
		return gzipSync(
			execFileSync('tar', ['-C', root, ...fixed, '-cf', '-', ...names], { maxBuffer: MAX_TAR_BYTES, stdio: ['ignore', 'pipe', 'pipe'] }),
		);
	} catch (cause) {
		throw new Failure('no_tar', EXIT.jibe, `tar could not pack ${root}`, {
			hint: 'name a package that npm pack made: jibe upgrade FILE.tgz',
			cause,
		});
	}
}

const MAX_TAR_BYTES = 512 * 1024 * 1024;
