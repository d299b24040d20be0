import { randomBytes, scrypt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Kdf } from '#wire/backup-header.ts';
import { EXIT, Failure, usage } from './failure.ts';

/** The passphrase of a backup: it is read here, and only a key made of it goes to control. */

const VARIABLE = 'JIBE_BACKUP_PASSPHRASE';
const PASSPHRASE_MIN_CHARS = 8;
/** 128 MiB and 0.3 s a guess. */
const COST = 2 ** 17;
const BLOCK_SIZE = 8;
const KEY_BYTES = 32;

/** From the file, else from the environment; null: there is none. @throws Failure */
export function readPassphrase(file: string | null): string | null {
	const passphrase = file === null ? process.env[VARIABLE] : readSecret(file);
	if (passphrase === undefined || passphrase === '') return null;
	if (passphrase.length >= PASSPHRASE_MIN_CHARS) return passphrase;
	throw usage(`a passphrase needs at least ${PASSPHRASE_MIN_CHARS} characters`);
}

export function newKdf(): Kdf {
	const salt = randomBytes(16).toString('base64');
	return { name: 'scrypt', cost: COST, blockSize: BLOCK_SIZE, parallelization: 1, salt };
}

export function deriveKey(passphrase: string, { cost, blockSize, parallelization, salt }: Kdf): Promise<Buffer> {
	const options = { N: cost, r: blockSize, p: parallelization, maxmem: 256 * cost * blockSize };
	return new Promise((resolve, reject) => {
		scrypt(passphrase.normalize('NFC'), Buffer.from(salt, 'base64'), KEY_BYTES, options, (error, key) => {
			if (error) reject(error);
			else resolve(key);
		});
	});
}

function readSecret(file: string): string {
	try {
		return readFileSync(file, 'utf8').replace(/\r?\n$/, '');
	} catch (cause) {
		throw new Failure('passphrase', EXIT.usage, `the passphrase in ${file} can't be read: ${(cause as Error).message}`, { cause });
	}
}
