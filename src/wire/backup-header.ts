import { z } from 'zod';
import { BACKUP_FORMAT, BackupError } from './backup-file.ts';

/** What the first record of a backup says, and what a request for one is. */

/** Bounds what a changed file may make us compute. */
const MAX_COST = 2 ** 20;
const salt = z.base64().max(100);

export const kdf = z.object({
	name: z.literal('scrypt'),
	cost: z.int().min(2).max(MAX_COST),
	blockSize: z.int().min(1).max(32),
	parallelization: z.int().min(1).max(16),
	salt,
});
export type Kdf = z.infer<typeof kdf>;

export const backupHeader = z.object({
	format: z.literal(BACKUP_FORMAT),
	/** Of the Jibe that made it. */
	version: z.string(),
	createdAt: z.int(),
	installation: z.string(),
	/** Blobs of all releases that are kept, or only of those that run or serve somewhere. */
	all: z.boolean(),
	/** Whether the installation's private keys are in it. */
	keys: z.boolean(),
	seal: z.object({ kdf, fileSalt: salt, proof: salt }).nullable(),
	migrations: z.array(z.object({ number: z.int(), name: z.string(), checksum: z.string() })),
	/** What `jibe up` was told where it was made. */
	up: z.object({ regions: z.array(z.string()), port: z.int(), edgePort: z.int() }),
});
export type BackupHeader = z.infer<typeof backupHeader>;

/** `key`: 32 bytes from the passphrase, which itself stays where it was typed. Without `seal` the private keys are left out. */
export const backupRequest = z.object({
	all: z.boolean().default(false),
	seal: z.object({ kdf, key: z.base64().length(44) }).nullable(),
});

export const tableRecord = z.object({ table: z.string(), columns: z.array(z.string()) });
export const blobsRecord = z.object({ blobs: z.int() });
export const endRecord = z.object({ rows: z.int(), blobs: z.int(), bytes: z.int() });
export const failedRecord = z.object({ code: z.string(), message: z.string() });

/** @throws BackupError backup_newer, backup_unreadable */
export function readHeader(payload: Buffer): BackupHeader {
	let value: unknown;
	try {
		value = JSON.parse(payload.toString());
	} catch (cause) {
		throw new BackupError('backup_unreadable', 'the first record of the backup is not what a backup begins with', { cause });
	}
	const { format, version } = value as { format?: unknown; version?: unknown };
	if (typeof format === 'number' && format > BACKUP_FORMAT) {
		const made = `the backup was made by Jibe ${String(version)}, in a format that this one does not know`;
		throw new BackupError('backup_newer', `${made}: restore it with that version, or a later one`);
	}
	const parsed = backupHeader.safeParse(value);
	if (parsed.success) return parsed.data;
	const issue = parsed.error.issues[0];
	throw new BackupError(
		'backup_unreadable',
		`the first record of the backup is not as it must be: ${issue?.path.join('.')}: ${issue?.message}`,
	);
}
