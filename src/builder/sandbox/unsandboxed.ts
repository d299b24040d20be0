import { spawnSync } from 'node:child_process';
import { mkdirSync, symlinkSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { HOME_PATH, SandboxError, SOURCE_PATH, type SandboxOptions } from './sandbox.ts';
import { asPlaces, copyInto, writeSecret, type Tree } from './tree.ts';

/** The tree of a command that runs as the builder itself: a copy of the source, and links in place of mounts. */
export function prepareCopy(directory: string): Tree {
	for (const name of ['source', 'home', 'tmp', 'secrets']) mkdirSync(join(directory, name), { recursive: true, mode: 0o700 });
	const { status, stderr } = spawnSync('mkfifo', ['-m', '600', join(directory, 'out'), join(directory, 'err')], { encoding: 'utf8' });
	if (status !== 0) throw new SandboxError('sandbox_failed', `Pipes for a build could not be made: ${stderr.trim()}`);
	return { directory, places: [] };
}

export function copyTree(tree: Tree, of: SandboxOptions): Tree {
	const { directory } = tree;
	copyInto(join(directory, 'source'), [of.source, ...(of.layers ?? [])]);
	for (const { from, to } of [...asPlaces(of.readOnly, true), ...asPlaces(of.writable, false)]) {
		if (from === to) continue;
		const link = linkOf(directory, to);
		if (link === null) {
			const where = `only below ${SOURCE_PATH} and ${HOME_PATH}, or where it is`;
			throw new SandboxError('sandbox_mount', `Without a sandbox ${from} can't be seen as ${to}: ${where}`);
		}
		mkdirSync(dirname(link), { recursive: true });
		symlinkSync(from, link);
	}
	for (const [name, value] of Object.entries(of.secrets ?? {})) writeSecret(join(directory, 'secrets'), name, value);
	return tree;
}

function linkOf(directory: string, to: string): string | null {
	if (to.startsWith(`${SOURCE_PATH}/`)) return join(directory, 'source', relative(SOURCE_PATH, to));
	return to.startsWith(`${HOME_PATH}/`) ? join(directory, 'home', relative(HOME_PATH, to)) : null;
}
