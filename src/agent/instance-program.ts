import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { sha256 } from '#digest/digest.ts';

/** Directory of the program that runs an instance, which apps get to see, and its file below it. */
export interface InstanceProgram {
	root: string;
	file: string;
}

const NAME_LENGTH = 16;

/** In the package its bundle stands beside this one; in the repository it is run from its source. */
export function instanceProgram(): InstanceProgram {
	const here = import.meta.dirname;
	if (!import.meta.filename.endsWith('.ts')) return { root: here, file: 'instance.js' };
	return { root: dirname(dirname(here)), file: join('src', 'agent', 'instance.ts') };
}

/**
 * A bundle is copied to the agent's own directory, under its digest: what an instance is started from stays whole and
 * the same while the package is built again, upgraded or removed, and apps see nothing else of the package. Copies of
 * earlier versions stay, 70 KB each: instances that they started may still run.
 */
export function keepProgram(home: string, from: InstanceProgram): InstanceProgram {
	if (from.file.endsWith('.ts')) return from; // it imports its neighbours
	const bytes = readFileSync(join(from.root, from.file));
	const root = join(home, 'programs', sha256(bytes).replace('sha256:', '').slice(0, NAME_LENGTH));
	// `.mjs`: there is no package.json beside it to say that it is a module, and Node would parse it twice to find out.
	const kept = { root, file: 'instance.mjs' };
	if (existsSync(join(root, kept.file)) && readFileSync(join(root, kept.file)).equals(bytes)) return kept;
	const draft = `${root}.${process.pid}`;
	mkdirSync(draft, { recursive: true });
	writeFileSync(join(draft, kept.file), bytes, { mode: 0o644 });
	rmSync(root, { recursive: true, force: true });
	renameSync(draft, root);
	return kept;
}
