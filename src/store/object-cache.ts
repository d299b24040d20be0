import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomId } from '#digest/digest.ts';

/**
 * Copies of objects on this machine's disk, whole, the least recently used forgotten first. They save a trip, no more:
 * whoever reads one checks digests, and nothing here needs to be durable or to exist.
 */
export class ObjectCache {
	private readonly dir: string;
	private readonly maxBytes: number;
	/** In the order of their last use. */
	private readonly sizes = new Map<string, number>();
	private bytes = 0;

	private constructor(dir: string, maxBytes: number) {
		this.dir = dir;
		this.maxBytes = maxBytes;
	}

	static async open(dir: string, maxBytes: number): Promise<ObjectCache> {
		const cache = new ObjectCache(dir, maxBytes);
		await mkdir(dir, { recursive: true, mode: 0o700 });
		const found = await Promise.all(
			(await readdir(dir)).map(async (name) => {
				const { size, mtimeMs } = await stat(join(dir, name));
				if (!name.endsWith(DRAFT)) return { name, size, mtimeMs };
				await rm(join(dir, name), { force: true });
				return null;
			}),
		);
		const files = found.filter((file) => file !== null).sort((a, b) => a.mtimeMs - b.mtimeMs);
		for (const { name, size } of files) cache.count(name, size);
		return cache;
	}

	names(): Iterable<string> {
		return this.sizes.keys();
	}

	/** The copy, or what lies there of it within the range; null: there is none. */
	async read(name: string, range?: { from: number; bytes: number }): Promise<Buffer | null> {
		const size = this.sizes.get(name);
		if (size === undefined) return null;
		this.sizes.delete(name);
		this.sizes.set(name, size);
		try {
			return await (range ? readRange(join(this.dir, name), range) : readFile(join(this.dir, name)));
		} catch {
			await this.forget(name); // gone or unreadable: the original is elsewhere
			return null;
		}
	}

	/** Keeps a copy, if there is room. Never throws: the original is elsewhere. */
	async keep(name: string, bytes: Uint8Array): Promise<void> {
		if (this.sizes.has(name) || bytes.length > this.maxBytes) return;
		const draft = join(this.dir, `${name}.${randomId()}${DRAFT}`);
		try {
			await writeFile(draft, bytes, { mode: 0o600 });
			await rename(draft, join(this.dir, name));
			this.count(name, bytes.length);
			for (const oldest of this.sizes.keys()) {
				if (this.bytes <= this.maxBytes) break;
				await this.forget(oldest);
			}
		} catch {
			await rm(draft, { force: true }); // a full disk: it goes on without the copy
		}
	}

	async forget(name: string): Promise<void> {
		this.bytes -= this.sizes.get(name) ?? 0;
		this.sizes.delete(name);
		await rm(join(this.dir, name), { force: true });
	}

	private count(name: string, size: number): void {
		this.bytes += size - (this.sizes.get(name) ?? 0);
		this.sizes.set(name, size);
	}
}

const DRAFT = '.draft';

async function readRange(path: string, { from, bytes }: { from: number; bytes: number }): Promise<Buffer> {
	const file = await open(path, 'r');
	try {
		const { bytesRead, buffer } = await file.read(Buffer.alloc(bytes), 0, bytes, from);
		return buffer.subarray(0, bytesRead);
	} finally {
		await file.close();
	}
}
