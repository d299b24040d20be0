import { lstat, readdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * How much lies below some directories, against a limit. To add it all up costs a look at every file, so it is done only
 * when so much less is free on the whole disk that the limit may have been passed, and now and then because others free.
 */
export class DiskWatch {
	private readonly directories: readonly string[];
	private readonly limit: number;
	private measured = 0;
	private freeThen: Promise<Free>;
	private looks = 0;
	private busy = false;

	constructor(directories: readonly string[], limitMiB: number) {
		this.directories = directories;
		this.limit = limitMiB * 2 ** 20;
		this.freeThen = free(directories[0]!);
	}

	async isOver(): Promise<boolean> {
		if (this.busy) return false;
		this.busy = true;
		try {
			const [then, now] = [await this.freeThen, await free(this.directories[0]!)];
			const due = ++this.looks % LOOKS_A_MEASURE === 0;
			if (!due && then.bytes - now.bytes < this.limit - this.measured && then.files - now.files < FILES_A_MEASURE) return false;
			this.freeThen = Promise.resolve(now);
			this.measured = 0;
			for (const directory of this.directories) this.measured += await bytesBelow(directory);
			return this.measured > this.limit;
		} finally {
			this.busy = false;
		}
	}
}

const LOOKS_A_MEASURE = 120;
/** Files have a price besides their bytes. */
const FILES_A_MEASURE = 100_000;
const BYTES_A_FILE = 4_096;

interface Free {
	bytes: number;
	files: number;
}

async function free(path: string): Promise<Free> {
	const { bavail, bsize, ffree } = await statfs(path);
	return { bytes: bavail * bsize, files: ffree };
}

/** What is gone while we look is not counted. */
async function bytesBelow(directory: string): Promise<number> {
	let bytes = 0;
	for (const entry of await readdir(directory, { withFileTypes: true }).catch(() => [])) {
		const path = join(directory, entry.name);
		if (entry.isDirectory()) bytes += BYTES_A_FILE + (await bytesBelow(path));
		else bytes += BYTES_A_FILE + (await lstat(path).then(({ blocks }) => blocks * 512, () => 0)); // prettier-ignore
	}
	return bytes;
}
