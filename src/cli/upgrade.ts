import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import { EXIT, Failure, usage, type Exit } from './failure.ts';
import { noteProblem } from './installed/attempt.ts';
import { choosePackage, placeOf, removeOthers } from './installed/chosen.ts';
import { INSTALLED_PLACE, readInstalled } from './installed/note.ts';
import { upgradeServers, wholeServers } from './installed/fleet.ts';
import { handOver, readUpgrade, writeUpgrade, type Upgrade } from './installed/handover.ts';
import {
	copyPackage,
	fetchPackage,
	isWhole,
	ownPackage,
	packageId,
	readPackage,
	unpackPackage,
	type Package,
} from './installed/package.ts';
import { count, seconds } from './output.ts';
import { readIdentity } from './up/check-in.ts';
import { remembered } from './up/installation.ts';
import type { Invocation, Verb } from './verbs.ts';

/**
 * `jibe upgrade`: the installation goes over to another version of Jibe while it serves. Every step may be interrupted
 * and the whole begun again: packages come into being whole, the choice is one rename, and a supervisor that follows
 * another one replaces what is still of the version before.
 */
export const verb: Verb = {
	syntax: { options: {}, positionals: ['PACKAGE.tgz|DIR|VERSION'], optional: 0 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const started = systemClock.monotonic();
		const running = remembered(data);
		if (running === null)
			throw new Failure('not_installed', EXIT.usage, `there is no installation in ${data}`, { hint: 'jibe up makes one' });
		const place = placeOf(data);
		const to = obtain(args.positionals[0] ?? null, place, (line) => out.say(line));
		const from = readUpgrade(data)?.from ?? running.package ?? null;
		if (from !== null) refuseBackwards(from, to);
		if (from !== null && to.schema > from.schema)
			out.say('The database will be migrated: from then on the way back is a backup made before (jibe backup FILE).');
		const before = readIdentity(data) === null ? await wholeServers(data) : [];
		writeUpgrade(data, { from, to });
		choosePackage(place, to);
		out.say(`Going over to ${to.version}…`);
		await goOver(data, place, { from, to }, (line) => out.say(line));
		writeUpgrade(data, null);
		const tarball = statSync(args.positionals[0] ?? '', { throwIfNoEntry: false })?.isFile() ? resolve(args.positionals[0] ?? '') : null;
		const { done, later } = await upgradeServers({ data, to, tarball, before, tell: (line) => out.say(line) });
		const removed = place === join(data, 'programs') || readInstalled(data) ? removeOthers(place, from === null ? [] : [from.root]) : [];
		const ms = Math.round(systemClock.monotonic() - started);
		out.result({ from: from?.version ?? null, to: to.version, package: to.root, ms, servers: done, later, removed }, [
			`✓ Jibe ${to.version} runs${from === null || from.version === to.version ? '' : `, where ${from.version} did`} (${seconds(ms)})`,
			...(done.length > 0 ? [`✓ ${count(done.length, 'server')} went over: ${done.join(', ')}`] : []),
			...(later.length > 0 ? [`! ${later.join(', ')}: not there now; going over when they are back`] : []),
		]);
		return EXIT.done;
	},
};

/** The package that was named, or the one that this command belongs to, where it can stay. */
function obtain(named: string | null, place: string, tell: (line: string) => void): Package {
	if (named === null) return settle(readPackage(ownPackage().root), place, tell);
	const stat = statSync(named, { throwIfNoEntry: false });
	if (stat?.isDirectory()) return settle(readPackage(named), place, tell);
	if (stat?.isFile()) return unpacked(resolve(named), place, tell);
	if (isAbsolute(named) || /[/\\]|\.tgz$/.test(named)) throw usage(`there is no ${named}`);
	if (!/^(\d+\.\d+\.\d+(-[\w.]+)?|[a-z]+)$/.test(named)) throw usage(`"${named}" is neither a package, a directory nor a version`);
	tell(`Fetching jibe ${named}…`);
	const downloads = join(place, '.downloads');
	try {
		return unpacked(fetchPackage(named, downloads), place, tell);
	} finally {
		rmSync(downloads, { recursive: true, force: true });
	}
}

const ID_DIGITS = 12;

function unpacked(tarball: string, place: string, tell: (line: string) => void): Package {
	tell('Unpacking the package…');
	const id = sha256(readFileSync(tarball)).slice('sha256:'.length).slice(0, ID_DIGITS);
	return unpackPackage(tarball, place, id);
}

/** A directory is used where it lies, if it can be; but everybody's `jibe`, and what root runs, comes from where only root writes. */
function settle(found: Package, place: string, tell: (line: string) => void): Package {
	const stays = place !== INSTALLED_PLACE || found.root.startsWith(`${place}/`);
	if (stays && isWhole(found)) return found;
	tell('Copying the package…');
	return copyPackage(found, place, packageId(found));
}

/** An older version works with a database that knows no more than it does; else the way back is a backup. */
function refuseBackwards(from: Package, to: Package): void {
	if (to.schema < from.schema) {
		throw new Failure('downgrade', EXIT.usage, `Jibe ${to.version} can't work with the database as ${from.version} left it`, {
			hint:
				`it knows ${to.schema} of the ${from.schema} migrations that were made; a database is never taken back\n` +
				`the way back: a backup that ${to.version} made, with jibe restore FILE --data of a new directory`,
		});
	}
	if (from.postgres !== null && to.postgres !== null && to.postgres < from.postgres) {
		throw new Failure(
			'downgrade',
			EXIT.usage,
			`Jibe ${to.version} brings PostgreSQL ${to.postgres}, the database is one of ${from.postgres}`,
			{
				hint: `the way back: a backup that ${to.version} made, with jibe restore FILE --data of a new directory`,
			},
		);
	}
}

/** Where the new version does not come up, what ran before is put back, as long as it can. */
async function goOver(data: string, place: string, { from, to }: Upgrade, tell: (line: string) => void): Promise<void> {
	try {
		await handOver(data, to, tell);
	} catch (error) {
		if (!(error instanceof Failure)) throw error;
		if (from === null || from.root === to.root || from.schema !== to.schema || !existsSync(join(from.root, 'bin', 'jibe'))) {
			throw new Failure(error.code, error.exit, error.message, {
				hint: 'what still runs goes on serving; jibe upgrade begins again where it ended, jibe doctor looks for the reason',
				cause: error,
			});
		}
		tell(`Going back to ${from.version}…`);
		noteProblem(data, error.message);
		choosePackage(place, from);
		await handOver(data, from, tell);
		writeUpgrade(data, null);
		throw new Failure(error.code, error.exit, error.message, { hint: `${from.version} runs again, and nothing was lost`, cause: error });
	}
}
