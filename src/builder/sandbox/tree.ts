import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, constants, cpSync, lstatSync, mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, isAbsolute, join, normalize, relative } from 'node:path';
import { isRoot } from '#process/directory.ts';
import { quote, type Holder } from './holder.ts';
import { BUILD_UID, HOME_PATH, SandboxError, SECRETS_PATH, SOURCE_PATH, type Mount, type SandboxOptions } from './sandbox.ts';
import { machineRoot, type Place } from './view.ts';

/**
 * The directory of one sandbox on this machine's disk:
 * `root` what is mounted as /, read-only, with a point for everything that is mounted over it · `source` the source, the
 * overlay's merged side · `upper` and `work` its writable side · `home`, `tmp` · `secrets` in memory · `l0`, `l1`… links to
 * the source and the layers · `out`, `err` the pipes of commands.
 */
export interface Tree {
	directory: string;
	/** What is mounted over `root`, in order. */
	places: Place[];
}

const SKELETON = ['proc', 'dev', 'etc', 'run/secrets', 'src', 'home/build', 'tmp', 'var', 'usr'];
const OWN = ['source', 'upper', 'work', 'home', 'tmp', 'secrets'];
const WRITABLE = ['upper', 'home', 'tmp'];
/** Where nothing may be mounted: what is there belongs to the machine or to the sandbox. */
const RESERVED = /^\/(usr|bin|sbin|lib\w*|etc|proc|dev|sys|run|var)(\/|$)/;
const SECRETS_MIB = 16;
const OVERLAY_OPTIONS = 'redirect_dir=off,index=off,metacopy=off';

const ETC: Record<string, string> = {
	passwd: `root:x:0:0:root:/root:/usr/sbin/nologin\nbuild:x:${BUILD_UID}:${BUILD_UID}:build:${HOME_PATH}:/bin/sh\n`,
	group: `root:x:0:\nbuild:x:${BUILD_UID}:\n`,
	'nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files dns\n',
	hosts: '127.0.0.1 localhost\n::1 localhost\n',
	'resolv.conf': '',
};

/** All that is the same for every sandbox; made before one is asked for. */
export async function prepareTree(directory: string, holder: Holder): Promise<Tree> {
	mkdirSync(directory, { recursive: true, mode: 0o700 });
	const root = join(directory, 'root');
	for (const name of SKELETON) mkdirSync(join(root, name), { recursive: true, mode: 0o755 });
	for (const name of OWN) mkdirSync(join(directory, name), { mode: 0o755 });
	for (const name of WRITABLE) own(join(directory, name));
	chmodSync(join(directory, 'tmp'), 0o1777);
	symlinkSync('/tmp', join(root, 'var/tmp'));
	for (const [name, text] of Object.entries(ETC)) writeFileSync(join(root, 'etc', name), text);
	const { places, links } = machineRoot();
	for (const { path, target } of links) symlinkSync(target, join(root, path));
	for (const { from, to } of places) makePoint(from, join(root, to));
	await holder.run(`cd ${quote(directory)} && mkfifo -m 666 out err`);
	const at = (name: string, to: string, readonly = false): Place => ({ from: join(directory, name), to, readonly });
	return {
		directory,
		places: [...places, at('source', SOURCE_PATH), at('home', HOME_PATH), at('tmp', '/tmp'), at('secrets', SECRETS_PATH, true)],
	};
}

/** Puts in what one build brings: its source, layers, mounts and secrets. `copies`: where there are no overlays. */
export async function fillTree(tree: Tree, holder: Holder, of: SandboxOptions, copies: boolean): Promise<Tree> {
	const { directory } = tree;
	const lower = [of.source, ...(of.layers ?? [])];
	for (const path of lower) give(path);
	const mounts = [...asPlaces(of.readOnly, true), ...asPlaces(of.writable, false)];
	for (const { from, to } of mounts) makePoint(from, pointOf(directory, to));
	for (const { from } of of.writable ?? []) give(from);
	const steps = [`cd ${quote(directory)}`];
	const secrets = Object.entries(of.secrets ?? {});
	if (secrets.length > 0) steps.push(`mount -t tmpfs -o size=${SECRETS_MIB}m,mode=0755,nosuid,nodev,noexec tmpfs secrets`);
	if (copies) {
		copyInto(join(directory, 'upper'), lower);
		give(join(directory, 'upper'), true);
	}
	steps.push(copies ? 'mount --bind upper source' : overlay(directory, lower));
	await holder.run(steps.join(' && '));
	for (const [name, value] of secrets) writeSecret(holder.inside(join(directory, 'secrets')), name, value);
	return { directory, places: [...tree.places, ...mounts] };
}

/** Mounts, if any are left, are gone with their holder. */
export async function removeTree(directory: string): Promise<void> {
	try {
		await rm(directory, { recursive: true, force: true });
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'EACCES') throw error;
		// Without root: directories that a command made unreadable to their owner.
		spawnSync('chmod', ['-R', 'u+rwX', directory], { stdio: 'ignore' });
		await rm(directory, { recursive: true, force: true });
	}
}

function overlay(directory: string, lower: readonly string[]): string {
	// Links, because a mount's options have a page, and paths may hold commas and colons.
	for (const [index, path] of lower.entries()) symlinkSync(path, join(directory, `l${index}`));
	const layers = lower.map((_, index) => `l${index}`).reverse();
	const owner = isRoot() ? '' : ',userxattr';
	return `mount -t overlay -o nosuid,nodev,lowerdir=${layers.join(':')},upperdir=upper,workdir=work,${OVERLAY_OPTIONS}${owner} overlay source`;
}

export function copyInto(directory: string, lower: readonly string[]): void {
	for (const path of lower) {
		cpSync(path, directory, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true, mode: constants.COPYFILE_FICLONE });
	}
}

export function asPlaces(mounts: readonly Mount[] = [], readonly: boolean): Place[] {
	return mounts.map(({ from, to }) => {
		if (!isAbsolute(from) || !isAbsolute(to) || normalize(to) !== to || to.endsWith('/') || RESERVED.test(to)) {
			const where = `an absolute path outside /usr, /etc, /proc, /dev, /run and /var`;
			throw new SandboxError('sandbox_mount', `A sandbox can't show ${from} as ${to}: give ${where}`);
		}
		if (statSync(from, { throwIfNoEntry: false }) === undefined) {
			throw new SandboxError('sandbox_mount', `A sandbox can't show ${from} as ${to}: there is no ${from}`);
		}
		return { from, to, readonly };
	});
}

/** Where the point of a mount has to be made so that it is seen at `to`. */
function pointOf(directory: string, to: string): string {
	for (const [path, name] of [
		[SOURCE_PATH, 'upper'],
		[HOME_PATH, 'home'],
		['/tmp', 'tmp'],
	] as const) {
		// prettier-ignore
		if (to === path || to.startsWith(`${path}/`)) return join(directory, name, relative(path, to));
	}
	return join(directory, 'root', to);
}

function makePoint(from: string, at: string): void {
	const missing: string[] = [];
	for (let parent = dirname(at); lstatSync(parent, { throwIfNoEntry: false }) === undefined; parent = dirname(parent))
		missing.unshift(parent);
	for (const parent of missing) mkdirSync(parent, { mode: 0o755 });
	if (statSync(from).isDirectory()) mkdirSync(at, { recursive: true, mode: 0o755 });
	else writeFileSync(at, '', { flag: 'a' });
	for (const path of [...missing, at]) own(path);
}

export function writeSecret(directory: string, name: string, value: string): void {
	const file = join(directory, name);
	if (!SECRET_NAME.test(name)) throw new SandboxError('sandbox_mount', `A secret can't be a file named ${JSON.stringify(name)}`);
	writeFileSync(file, value, { mode: 0o400 });
	own(file);
}

const SECRET_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$/;

/** As root, commands run as somebody else, who must be able to write here. */
function give(directory: string, surely = false): void {
	if (isRoot() && (surely || statSync(directory).uid !== BUILD_UID)) chownAll(directory);
}

function own(path: string): void {
	if (isRoot()) chownSync(path, BUILD_UID, BUILD_UID);
}

function chownAll(directory: string): void {
	const { status, stderr } = spawnSync('chown', ['-hR', `${BUILD_UID}:${BUILD_UID}`, directory], { encoding: 'utf8' });
	if (status !== 0) throw new SandboxError('sandbox_failed', `${directory} could not be given to builds: ${stderr.trim()}`);
}
