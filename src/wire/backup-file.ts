import { createCipheriv, createDecipheriv, createHash, createHmac, hash, hkdfSync, timingSafeEqual } from 'node:crypto';

/**
 * The file that `jibe backup` writes: `JIBEBAK1`, then records of
 * `u8 kind | u32 length | payload | 32 bytes`, where the last are the SHA-256 of the record before, kind, length and payload:
 * each record vouches for all before it, and the last one for the whole. docs/operating.md says what is in them.
 * With a passphrase all payloads but the first are sealed with AES-256-GCM. The command checks what passes through it by
 * the same code as control: this file imports no validator.
 */
export const BACKUP_TYPE = 'application/vnd.jibe.backup';
export const BACKUP_FORMAT = 1;

export const RECORD = {
	/** JSON, never sealed: what is needed to read the rest. */
	header: 1,
	/** JSON: the installation's row. */
	installation: 2,
	/** JSON `{table, columns}`: the rows that follow are of it. */
	table: 3,
	/** zstd of rows as COPY writes them (text). */
	rows: 4,
	/** JSON `{blobs}`: how many follow. */
	blobs: 5,
	/** A pack of blobs, as in the store. */
	pack: 6,
	/** JSON `{rows, blobs, bytes}`: the backup is whole. */
	end: 7,
	/** JSON `{code, message}`: it failed while it was made; nothing follows. */
	failed: 8,
} as const;
export type RecordKind = (typeof RECORD)[keyof typeof RECORD];

export interface BackupRecord {
	kind: RecordKind;
	payload: Buffer;
	/** From the start of the file. */
	at: number;
	/** The first is 0. */
	index: number;
}

export type BackupErrorCode =
	| 'backup_truncated'
	| 'backup_damaged'
	| 'backup_newer'
	| 'backup_unreadable'
	| 'backup_sealed'
	| 'backup_passphrase';

export class BackupError extends Error {
	readonly code: BackupErrorCode;
	constructor(code: BackupErrorCode, message: string, options?: ErrorOptions) {
		super(message, options);
		this.code = code;
	}
}

const MAGIC = Buffer.from('JIBEBAK1');
const HEAD_BYTES = 5;
const CHECK_BYTES = 32;
/** Of what one record may hold: the largest blob, and its place in a pack. */
export const MAX_PAYLOAD_BYTES = 512 * 1024 * 1024;
const TAG_BYTES = 16;
const KINDS: ReadonlySet<number> = new Set(Object.values(RECORD));

/** Makes the bytes of a file, record by record. */
export class BackupWriter {
	private check: Buffer = startCheck();
	private index = 0;
	private seal: Seal | null = null;

	/** The file's first bytes. From here on payloads are sealed when a key is given. */
	begin(header: object, key: Buffer | null): Buffer[] {
		const bytes = [MAGIC, ...this.record(RECORD.header, Buffer.from(JSON.stringify(header)))];
		if (key) this.seal = new Seal(key, this.check);
		return bytes;
	}

	json(kind: RecordKind, value: object): Buffer[] {
		return this.record(kind, Buffer.from(JSON.stringify(value)));
	}

	record(kind: RecordKind, plain: Buffer): Buffer[] {
		const payload = this.seal ? this.seal.close(kind, this.index, plain) : [plain];
		const length = payload.reduce((sum, part) => sum + part.length, 0);
		if (length > MAX_PAYLOAD_BYTES) throw new Error(`a record of ${length} bytes is more than a backup can hold`);
		this.index++;
		const head = headOf(kind, length);
		this.check = nextCheck(this.check, head, ...payload);
		return [head, ...payload, this.check];
	}
}

/** Takes the bytes of a file as they come, and gives its records once each is whole and checked. */
export class BackupParser {
	private check: Buffer = startCheck();
	private parts: Buffer[] = [];
	private held = 0;
	private at = 0;
	private index = 0;
	private ended = false;

	/** @throws BackupError with the place */
	*push(bytes: Buffer): Generator<BackupRecord> {
		this.parts.push(bytes);
		this.held += bytes.length;
		if (this.at === 0) this.takeMagic();
		while (this.at > 0) {
			const record = this.take();
			if (!record) return;
			yield record;
		}
	}

	/** Call when no more bytes come. @throws BackupError when the file is not whole */
	finish(): void {
		if (this.ended) return;
		const place = this.held === 0 && this.at > 0 ? `after record ${this.index}` : `within record ${this.index + 1}`;
		throw new BackupError('backup_truncated', `the backup is cut short at byte ${this.at + this.held}, ${place}: its end is missing`);
	}

	private takeMagic(): void {
		if (this.held < MAGIC.length) return;
		if (!this.peek(MAGIC.length).equals(MAGIC))
			throw new BackupError('backup_unreadable', 'this file is no backup of Jibe: it begins with other bytes');
		this.drop(MAGIC.length);
	}

	private take(): BackupRecord | null {
		if (this.ended && this.held > 0) throw this.damaged('there are bytes after its end');
		if (this.held < HEAD_BYTES) return null;
		const head = this.peek(HEAD_BYTES);
		const [kind, length] = [head.readUInt8(), head.readUInt32LE(1)];
		if (!KINDS.has(kind) || length > MAX_PAYLOAD_BYTES) throw this.damaged('no record begins there');
		const size = HEAD_BYTES + length + CHECK_BYTES;
		if (this.held < size) return null;
		const whole = this.peek(size);
		const payload = whole.subarray(HEAD_BYTES, HEAD_BYTES + length);
		const check = nextCheck(this.check, whole.subarray(0, HEAD_BYTES), payload);
		if (!check.equals(whole.subarray(HEAD_BYTES + length))) throw this.damaged('the digest of that record is another');
		const record = { kind: kind as RecordKind, payload, at: this.at, index: this.index };
		this.check = check;
		this.index++;
		this.ended = kind === RECORD.end || kind === RECORD.failed;
		this.drop(size);
		return record;
	}

	/** The next bytes in one piece. */
	private peek(count: number): Buffer {
		const [first] = this.parts;
		if (first && first.length >= count) return first.subarray(0, count);
		const joined = Buffer.concat(this.parts);
		this.parts = [joined];
		return joined.subarray(0, count);
	}

	private drop(count: number): void {
		const rest = this.parts[0]!.subarray(count);
		this.parts[0] = rest;
		if (rest.length === 0) this.parts.shift();
		this.held -= count;
		this.at += count;
	}

	private damaged(what: string): BackupError {
		return new BackupError('backup_damaged', `the backup was damaged or changed at byte ${this.at}, in record ${this.index + 1}: ${what}`);
	}
}

/** AES-256-GCM of payloads, bound to their places and to the header: none can be moved, left out, or put under another header. */
export class Seal {
	private readonly key: Buffer;
	private readonly header: Buffer;

	constructor(key: Buffer, header: Buffer) {
		this.key = key;
		this.header = header;
	}

	/** Of a file with this header's payload. */
	static of(key: Buffer, header: Buffer): Seal {
		return new Seal(key, nextCheck(startCheck(), headOf(RECORD.header, header.length), header));
	}

	close(kind: RecordKind, index: number, plain: Buffer): Buffer[] {
		const cipher = createCipheriv('aes-256-gcm', this.key, nonceOf(index)).setAAD(this.bound(kind));
		return [cipher.update(plain), cipher.final(), cipher.getAuthTag()].filter((part) => part.length > 0);
	}

	/** @throws BackupError backup_damaged */
	open({ kind, index, payload, at }: BackupRecord): Buffer {
		try {
			const decipher = createDecipheriv('aes-256-gcm', this.key, nonceOf(index)).setAAD(this.bound(kind));
			decipher.setAuthTag(payload.subarray(Math.max(0, payload.length - TAG_BYTES)));
			const plain = decipher.update(payload.subarray(0, payload.length - TAG_BYTES));
			decipher.final();
			return plain;
		} catch (cause) {
			const message = `the backup was changed at byte ${at}, in record ${index + 1}: its seal is broken`;
			throw new BackupError('backup_damaged', message, { cause });
		}
	}

	private bound(kind: RecordKind): Buffer {
		return Buffer.concat([this.header, Buffer.from([kind])]);
	}
}

/** How the key of a file comes from a passphrase: scrypt on the machine where the passphrase is, then one key for each file. */
export interface SealNote {
	kdf: { name: 'scrypt'; cost: number; blockSize: number; parallelization: number; salt: string };
	fileSalt: string;
	/** Tells a wrong passphrase from a damaged file. */
	proof: string;
}

export function fileKey(passphraseKey: Buffer, fileSalt: string): Buffer {
	return Buffer.from(hkdfSync('sha256', passphraseKey, Buffer.from(fileSalt, 'base64'), 'jibe backup', 32));
}

export function proofOf(key: Buffer): string {
	return createHmac('sha256', key).update('jibe backup').digest().subarray(0, 16).toString('base64');
}

/** @throws BackupError backup_passphrase */
export function checkProof(key: Buffer, { proof }: SealNote): void {
	const [ours, theirs] = [Buffer.from(proofOf(key)), Buffer.from(proof)];
	if (ours.length === theirs.length && timingSafeEqual(ours, theirs)) return;
	throw new BackupError('backup_passphrase', 'this is not the passphrase that the backup was sealed with');
}

function nonceOf(index: number): Buffer {
	const nonce = Buffer.alloc(12);
	nonce.writeBigUInt64BE(BigInt(index), 4);
	return nonce;
}

function startCheck(): Buffer {
	return hash('sha256', MAGIC, 'buffer');
}

function headOf(kind: RecordKind, length: number): Buffer {
	const head = Buffer.alloc(HEAD_BYTES);
	head.writeUInt8(kind);
	head.writeUInt32LE(length, 1);
	return head;
}

function nextCheck(before: Buffer, ...parts: Buffer[]): Buffer {
	const check = createHash('sha256').update(before);
	for (const part of parts) check.update(part);
	return check.digest();
}
