import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { TestContext } from 'node:test';
import { createLog } from '#log/log.ts';
import { encodeTar, type TarFile, type TarLink } from '#store/tar.ts';
import type { BuildJob } from '#wire/builds.ts';

/** For tests of builders: sources as maps of files, and jobs. */

/** Text of a file; `{ to }` of a symbolic link; `{ run }` of a file that can be run. */
export type Tree = Record<string, string | { to: string } | { run: string }>;

export function directoryOf(t: TestContext, tree: Tree = {}): string {
	const directory = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-builder-')));
	t.after(() => rmSync(directory, { recursive: true, force: true }));
	lay(directory, tree);
	return directory;
}

export function lay(directory: string, tree: Tree): void {
	for (const [path, what] of Object.entries(tree)) {
		const full = join(directory, path);
		mkdirSync(dirname(full), { recursive: true });
		if (typeof what === 'string') writeFileSync(full, what);
		else if ('to' in what) symlinkSync(what.to, full);
		else {
			writeFileSync(full, what.run);
			chmodSync(full, 0o755);
		}
	}
}

export async function* tarOf(tree: Tree): AsyncGenerator<Buffer> {
	const entries = Object.entries(tree).map(([path, what]): TarFile | TarLink => {
		if (typeof what === 'string') return { kind: 'file', path, bytes: Buffer.from(what), executable: false };
		if ('to' in what) return { kind: 'link', path, target: what.to };
		return { kind: 'file', path, bytes: Buffer.from(what.run), executable: true };
	});
	yield* encodeTar(entries);
}

export function jobOf(more: Partial<BuildJob> = {}): BuildJob {
	return {
		id: 'dpl_7m4k92xy',
		attempt: 1,
		deadline: Number.MAX_SAFE_INTEGER,
		app: 'notes',
		environment: 'production',
		kind: 'deploy',
		source: { kind: 'tar', digest: `sha256:${'0'.repeat(64)}` },
		lane: 'app:notes',
		directory: '',
		commit: null,
		branch: null,
		author: null,
		subject: null,
		ancestors: [],
		trust: 'production',
		priority: 'remote',
		platform: null,
		by: 'token:ann',
		why: null,
		force: false,
		now: false,
		artifact: null,
		verifies: null,
		secrets: {},
		env: {},
		reach: { allowed: [], own: [] },
		...more,
	};
}

export const silent = createLog({}, { write: () => {} });
