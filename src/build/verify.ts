import { cpSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, relative } from 'node:path';
import type { Digest } from '#digest/digest.ts';
import { diffManifests } from '#store/manifest.ts';
import { buildApp, type BuildInput } from './build.ts';
import { findLockfile } from './lockfile.ts';
import type { BuildResult } from './result.ts';

/** Whether the same sources give the same artifact when nothing is remembered and the app lies elsewhere. */
export interface Verification {
	same: boolean;
	artifact: Digest;
	again: Digest;
	vendor: Digest | null;
	vendorAgain: Digest | null;
	/** Paths whose content differs, `vendor:` before those of the vendor tree. */
	differing: string[];
}

/** Builds `input.dir` with its cache, and a copy of it elsewhere with an empty one. */
export async function verifyBuild(input: BuildInput): Promise<Verification> {
	const first = await buildApp(input);
	const elsewhere = mkdtempSync(join(tmpdir(), 'jibe-verify-'));
	try {
		const dir = copyOf(realpathSync(input.dir), elsewhere);
		const second = await buildApp({ ...input, dir, cacheDir: join(elsewhere, 'cache') });
		return compare(first, second);
	} finally {
		rmSync(elsewhere, { recursive: true, force: true });
	}
}

/** Sources are copied; packages, which no build writes to, are reached by links. A workspace is copied from its root. */
function copyOf(dir: string, elsewhere: string): string {
	const root = findLockfile(dir)?.root ?? dir;
	const copy = join(elsewhere, `copy-of-${basename(root)}`);
	const links: [string, string][] = [];
	cpSync(root, copy, {
		recursive: true,
		verbatimSymlinks: true,
		filter: (from, to) => {
			const name = basename(from);
			if (name === 'node_modules') links.push([from, to]);
			return name !== 'node_modules' && name !== '.git' && name !== '.jibe';
		},
	});
	for (const [from, to] of links) symlinkSync(from, to);
	return join(copy, relative(root, dir));
}

function compare(first: BuildResult, second: BuildResult): Verification {
	const vendor = first.vendor?.root ?? null;
	const vendorAgain = second.vendor?.root ?? null;
	const differing = differences(first.manifest, second.manifest);
	if (vendor !== vendorAgain && first.vendor && second.vendor) {
		differing.push(...differences(first.vendor.manifest, second.vendor.manifest).map((path) => `vendor:${path}`));
	}
	const same = first.artifact === second.artifact && vendor === vendorAgain;
	return { same, artifact: first.artifact, again: second.artifact, vendor, vendorAgain, differing };
}

function differences(a: BuildResult['manifest'], b: BuildResult['manifest']): string[] {
	const delta = diffManifests(a, b);
	return [...Object.keys(delta.set), ...delta.delete].sort();
}
