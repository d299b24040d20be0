import { constants, copyFileSync, mkdirSync, readlinkSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { compareUtf8 } from '#digest/digest.ts';
import type { Input } from '#build/steps/key.ts';

/** A directory with these files of the source and no others. Copies, shared with the original where the disk can: a link would touch it. */
export function stage(checkout: string, inputs: readonly Input[], directory: string): string {
	mkdirSync(directory, { recursive: true });
	const made = new Set<string>([directory]);
	for (const { path, is } of inputs.toSorted((a, b) => compareUtf8(a.path, b.path))) {
		const to = join(directory, path);
		if (!made.has(dirname(to))) {
			mkdirSync(dirname(to), { recursive: true });
			made.add(dirname(to));
		}
		if (is.startsWith('-> ')) symlinkSync(readlinkSync(join(checkout, path)), to);
		else copyFileSync(join(checkout, path), to, constants.COPYFILE_FICLONE);
	}
	return directory;
}
