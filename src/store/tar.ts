/**
 * Trees as tar streams: what a laptop sends to be built elsewhere, and what git makes of a commit. Written in one way only, so
 * that the same files give the same bytes: no times, no owners, two modes. Read without trust: what is neither a file, a folder
 * nor a symbolic link, or lies elsewhere than below the root, is refused.
 */
export type TarEntry = TarFile | TarLink | { kind: 'directory'; path: string };

export interface TarFile {
	kind: 'file';
	path: string;
	bytes: Buffer;
	executable: boolean;
}

export interface TarLink {
	kind: 'link';
	path: string;
	target: string;
}

export interface TarLimits {
	entries: number;
	/** Of all files. */
	bytes: number;
	/** Hears each entry's time, wall seconds: git gives all of them the commit's. */
	heard?: (mtimeS: number) => void;
}

export class TarError extends Error {
	readonly code: 'bad_archive' | 'archive_too_large';
	constructor(code: TarError['code'], message: string) {
		super(message);
		this.code = code;
	}
}

const BLOCK = 512;
const NAME_BYTES = 100;
const MODE = { file: 0o644, executable: 0o755, link: 0o777 };
/** Of the extended headers that carry long names; what is longer is no name. */
const MAX_HEADER_BYTES = 64 * 1024;
const MAX_NAME_BYTES = 4_096;
/** Twelve digits of octal, less one. */
const MAX_FILE_BYTES = 0o77777777777;

/** The archive's bytes, entry by entry, in the order given. */
export function* encodeTar(entries: Iterable<TarFile | TarLink>): Generator<Buffer> {
	for (const entry of entries) {
		const bytes = entry.kind === 'file' ? entry.bytes : Buffer.alloc(0);
		const target = entry.kind === 'link' ? entry.target : '';
		const long = [...(fits(entry.path) ? [] : [record('path', entry.path)]), ...(fits(target) ? [] : [record('linkpath', target)])].join(
			'',
		);
		if (long !== '') {
			const extended = Buffer.from(long);
			yield header({ name: 'PaxHeader', type: 'x', size: extended.length, mode: MODE.file, target: '' });
			yield padded(extended);
		}
		const mode = entry.kind === 'link' ? MODE.link : entry.executable ? MODE.executable : MODE.file;
		yield header({ name: entry.path, type: entry.kind === 'link' ? '2' : '0', size: bytes.length, mode, target });
		if (bytes.length > 0) yield padded(bytes);
	}
	yield Buffer.alloc(BLOCK * 2);
}

function fits(name: string): boolean {
	return Buffer.byteLength(name) <= NAME_BYTES && /^[\x20-\x7e]*$/.test(name);
}

/** `<length> <key>=<value>\n`, where the length counts itself. */
function record(key: string, value: string): string {
	const rest = Buffer.byteLength(` ${key}=${value}\n`);
	let length = rest + String(rest).length;
	if (String(length).length !== String(rest).length) length = rest + String(length).length;
	return `${length} ${key}=${value}\n`;
}

function header(of: { name: string; type: string; size: number; mode: number; target: string }): Buffer {
	if (of.size > MAX_FILE_BYTES) throw new TarError('archive_too_large', `${of.name} has more than ${MAX_FILE_BYTES} bytes`);
	const block = Buffer.alloc(BLOCK);
	const octal = (value: number, at: number, length: number) => block.write(value.toString(8).padStart(length - 1, '0'), at, 'latin1');
	block.set(Buffer.from(of.name).subarray(0, NAME_BYTES), 0);
	octal(of.mode, 100, 8);
	octal(0, 108, 8);
	octal(0, 116, 8);
	octal(of.size, 124, 12);
	octal(0, 136, 12);
	block.fill(' ', 148, 156);
	block.write(of.type, 156, 'latin1');
	block.set(Buffer.from(of.target).subarray(0, NAME_BYTES), 157);
	block.write('ustar\x0000', 257, 'latin1');
	block.write(checksum(block).toString(8).padStart(6, '0'), 148, 'latin1');
	block[154] = 0;
	return block;
}

/** As if the field of the sum itself were blank. */
function checksum(block: Buffer): number {
	let sum = 0;
	for (let at = 0; at < BLOCK; at++) sum += at >= 148 && at < 156 ? 32 : block[at]!;
	return sum;
}

function padded(bytes: Buffer): Buffer {
	const rest = bytes.length % BLOCK;
	return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(BLOCK - rest)]);
}

/** The entries of an archive as they come. @throws TarError, also when it is cut short */
export async function* readTar(chunks: AsyncIterable<Uint8Array>, limits: TarLimits): AsyncGenerator<TarEntry> {
	const reader = new Reader(chunks);
	let long: { path?: string; linkpath?: string } = {};
	let entries = 0;
	let bytes = 0;
	for (;;) {
		const block = await reader.take(BLOCK);
		if (block.every((byte) => byte === 0)) return await reader.drain();
		const found = readHeader(block);
		if ('xgLK'.includes(found.type)) {
			if (found.size > MAX_HEADER_BYTES) throw new TarError('bad_archive', 'a name in the archive is longer than any name may be');
			const text = (await reader.takePadded(found.size)).toString();
			long = { ...long, ...extended(found.type, text) };
			continue;
		}
		if (++entries > limits.entries) throw new TarError('archive_too_large', `the archive has more than ${limits.entries} entries`);
		bytes += found.size;
		if (bytes > limits.bytes) throw new TarError('archive_too_large', `the archive unpacks to more than ${limits.bytes} bytes`);
		const content = await reader.takePadded(found.size);
		limits.heard?.(found.mtimeS);
		const entry = entryOf({ ...found, name: long.path ?? found.name, target: long.linkpath ?? found.target }, content);
		long = {};
		if (entry) yield entry;
	}
}

interface Header {
	name: string;
	type: string;
	size: number;
	mode: number;
	mtimeS: number;
	target: string;
}

function readHeader(block: Buffer): Header {
	const text = (at: number, length: number) => block.toString('utf8', at, at + length).replace(/\0[\s\S]*$/, '');
	const octal = (at: number, length: number) => {
		const digits = text(at, length).trim();
		if (!/^[0-7]*$/.test(digits)) throw new TarError('bad_archive', 'a number in the archive is none');
		return Number.parseInt(digits || '0', 8);
	};
	if (octal(148, 8) !== checksum(block)) throw new TarError('bad_archive', 'the archive is damaged: the sum of a header is wrong');
	const prefix = block.toString('latin1', 257, 262) === 'ustar' ? text(345, 155) : '';
	return {
		name: prefix === '' ? text(0, NAME_BYTES) : `${prefix}/${text(0, NAME_BYTES)}`,
		type: block[156] === 0 ? '0' : String.fromCharCode(block[156]!),
		size: octal(124, 12),
		mode: octal(100, 8),
		mtimeS: octal(136, 12),
		target: text(157, NAME_BYTES),
	};
}

/** What an extended header says of the entry after it; one that speaks of all of them says nothing that is needed. */
function extended(type: string, text: string): { path?: string; linkpath?: string } {
	if (type === 'L') return { path: text.replace(/\0+$/, '') };
	if (type === 'K') return { linkpath: text.replace(/\0+$/, '') };
	const said: Record<string, string> = {};
	if (type === 'g') return said;
	for (let rest = Buffer.from(text); rest.length > 0;) {
		const length = Number.parseInt(rest.toString('latin1', 0, 12), 10);
		if (!(length > 0 && length <= rest.length)) throw new TarError('bad_archive', 'an extended header of the archive is damaged');
		const [, key, value] = /^\d+ ([^=]+)=([\s\S]*)\n$/.exec(rest.toString('utf8', 0, length)) ?? [];
		if (key === 'size') throw new TarError('archive_too_large', 'a file of the archive is larger than any file may be');
		if (value !== undefined && (key === 'path' || key === 'linkpath')) said[key] = value;
		rest = rest.subarray(length);
	}
	return said;
}

function entryOf(of: Header, content: Buffer): TarEntry | null {
	const path = of.name.replace(/^(\.\/)+/, '').replace(/\/+$/, '');
	if (of.type === '5' && (path === '' || path === '.')) return null;
	checkName(path);
	switch (of.type) {
		case '0':
		case '7':
			return { kind: 'file', path, bytes: content, executable: (of.mode & 0o100) !== 0 };
		case '2':
			return { kind: 'link', path, target: of.target };
		case '5':
			return { kind: 'directory', path };
		default:
			throw new TarError('bad_archive', `${path} is neither a file, a folder nor a symbolic link`);
	}
}

function checkName(path: string): void {
	const parts = path.split('/');
	const bad =
		path === '' || path.startsWith('/') || path.includes('\0') || parts.some((part) => part === '' || part === '.' || part === '..');
	if (bad || Buffer.byteLength(path) > MAX_NAME_BYTES) {
		throw new TarError('bad_archive', `${JSON.stringify(path.slice(0, 200))} is not a path below the root`);
	}
}

class Reader {
	readonly #source: AsyncIterator<Uint8Array>;
	#parts: Buffer[] = [];
	#held = 0;

	constructor(chunks: AsyncIterable<Uint8Array>) {
		this.#source = chunks[Symbol.asyncIterator]();
	}

	async take(length: number): Promise<Buffer> {
		while (this.#held < length) {
			const { value, done } = await this.#source.next();
			if (done) throw new TarError('bad_archive', 'the archive is cut short');
			this.#parts.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength));
			this.#held += value.byteLength;
		}
		const all = this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts);
		this.#parts = all.length === length ? [] : [all.subarray(length)];
		this.#held -= length;
		return all.subarray(0, length);
	}

	async takePadded(size: number): Promise<Buffer> {
		if (size === 0) return Buffer.alloc(0);
		const whole = await this.take(Math.ceil(size / BLOCK) * BLOCK);
		return whole.subarray(0, size);
	}

	/** What follows the end is padding; whoever writes it must be let finish. */
	async drain(): Promise<void> {
		this.#parts = [];
		while (!(await this.#source.next()).done);
	}
}
