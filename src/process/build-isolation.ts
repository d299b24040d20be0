import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { cgroupAbilities } from './cgroup.ts';
import { ok, warn, type Finding } from './checkup.ts';
import { isRoot } from './directory.ts';

/** What can keep a build apart from this machine, the best first. Whether it really works, a builder tries when it starts. */
export type Isolator = 'crun' | 'runc' | 'bwrap';

export interface BuildIsolation {
	kinds: Isolator[];
	/** What is not enforced here even so, each a sentence for a person. */
	missing: string[];
	/** What to install or to change; null where nothing is missing. */
	hint: string | null;
}

/** For `jibe doctor`: what builds on this machine would be kept apart by. */
export function buildFindings(): Finding[] {
	const { kinds, missing, hint } = buildIsolation();
	const [best] = kinds;
	if (best === undefined) return [warn('builds', 'no builds are run here: nothing keeps them apart from this machine', hint ?? '')];
	const sentence = `${best} keeps each build in a file system, processes and a network of its own`;
	const out = onPath('ip') ? [] : [warn('builds', NO_WAY_OUT, 'install iproute2')];
	if (missing.length === 0) return [ok('builds', `${sentence}; its memory, processes and CPU are limited`), ...out];
	return [ok('builds', sentence), ...missing.map((detail) => warn('builds', detail, hint ?? '')), ...out];
}

const NO_WAY_OUT =
	'no dependencies are installed and no step gets to the network: `ip`, which makes them a network of their own, is not here';

let known: BuildIsolation | undefined;

export function buildIsolation(): BuildIsolation {
	known ??= findOut();
	return known;
}

function findOut(): BuildIsolation {
	if (process.platform !== 'linux') return { kinds: [], missing: [], hint: 'builds in a sandbox need Linux' };
	const root = isRoot();
	const mayMount =
		spawnSync('unshare', [...(root ? [] : ['--user', '--map-root-user']), '--mount', 'true'], { stdio: 'ignore' }).status === 0;
	if (!mayMount) return { kinds: [], missing: [], hint: root ? NOT_THIS_ROOT : NOT_THIS_USER };
	// What is run by an OCI runtime has limits that only root may set: without them bubblewrap does the same with less.
	const kinds = (root ? (['crun', 'runc', 'bwrap'] as const) : (['bwrap'] as const)).filter(onPath);
	if (kinds.length === 0) return { kinds: [], missing: [], hint: `install ${root ? 'crun (or runc, or bubblewrap)' : 'bubblewrap'}` };
	const missing = unlimited(root);
	return {
		kinds,
		missing,
		hint: missing.length === 0 ? null : root ? 'on a machine of its own they are' : 'a builder that runs as root has them',
	};
}

const NOT_THIS_ROOT = 'this root may not make mount namespaces, as in a container: run it with --privileged, or a builder elsewhere';
const NOT_THIS_USER =
	'this user may not make namespaces: sysctl kernel.unprivileged_userns_clone=1 (or kernel.apparmor_restrict_unprivileged_userns=0), or a builder that runs as root';

function unlimited(root: boolean): string[] {
	const { limits } = cgroupAbilities();
	const why = root ? 'no such cgroup here' : 'Jibe does not run as root';
	const words = { memory: 'memory', pids: 'number of processes', cpu: 'CPU' } as const;
	const open = (Object.keys(words) as (keyof typeof words)[]).filter((name) => !limits.includes(name));
	return open.map((name) => `the ${words[name]} of a build is not limited (${why})`);
}

function onPath(command: string): boolean {
	// Where a builder looks, whatever its user's PATH says.
	const places = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
	return places.split(delimiter).some((directory) => {
		try {
			accessSync(join(directory, command), constants.X_OK);
			return true;
		} catch {
			return false;
		}
	});
}
