import { execFile } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { chmodSync, linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

/**
 * Where the master key comes from: a file, the environment, or a command that asks a key management service. Each gives
 * one key, or several while one takes the place of another: the first seals, the others still open.
 */

export interface MasterKey {
	/** Made of the key, and tells nothing of it: what the database remembers it by. */
	id: string;
	bytes: Buffer;
}

export interface MasterKeySource {
	/** For people: where it was looked for. */
	where: string;
	/** Empty where there is none. @throws MasterKeyError */
	read(): Promise<MasterKey[]>;
	/** Makes one where there is none; null: this source's keys are made by people. */
	make: (() => Promise<MasterKey>) | null;
	/** Replaces what is there; null as above. */
	write: ((keys: readonly MasterKey[]) => Promise<void>) | null;
}

export class MasterKeyError extends Error {
	readonly code = 'master_key_unreadable';
}

const MASTER_KEY_FILE = 'master.key';
const KEY_BYTES = 32;
const FILE_MODE = 0o600;
const COMMAND_LIMIT_MS = 10_000;
const MAX_OUTPUT_BYTES = 64 * 1024;
const ID_CHARACTERS = 16;

/** Takes what it needs out of the environment: nothing that control starts is to inherit it. */
export function masterKeySource(data: string, env: Record<string, string | undefined>): MasterKeySource {
	const { JIBE_MASTER_KEY: text, JIBE_MASTER_KEY_COMMAND: command } = env;
	delete env['JIBE_MASTER_KEY'];
	if (text) return fixed('JIBE_MASTER_KEY', async () => text);
	if (command) return fixed('the output of JIBE_MASTER_KEY_COMMAND', () => outputOf(command, { ...env }));
	return inFile(join(data, MASTER_KEY_FILE));
}

export function newMasterKey(): MasterKey {
	return masterKey(randomBytes(KEY_BYTES));
}

function masterKey(bytes: Buffer): MasterKey {
	return { id: createHmac('sha256', bytes).update('jibe master key').digest('hex').slice(0, ID_CHARACTERS), bytes };
}

function fixed(where: string, text: () => Promise<string>): MasterKeySource {
	return { where, read: async () => parse(await text(), where), make: null, write: null };
}

function inFile(file: string): MasterKeySource {
	const draftOf = (keys: readonly MasterKey[]): string => {
		const draft = `${file}.${process.pid}`;
		writeFileSync(draft, textOfKeys(keys), { mode: FILE_MODE, flush: true });
		return draft;
	};
	const read = (): MasterKey[] => {
		try {
			const keys = parse(readFileSync(file, 'utf8'), file);
			chmodSync(file, FILE_MODE);
			return keys;
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
			throw error;
		}
	};
	return {
		where: file,
		read: async () => read(),
		async make() {
			const draft = draftOf([newMasterKey()]);
			try {
				linkSync(draft, file);
			} catch (error) {
				// Somebody was quicker: theirs is the one.
				if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
			} finally {
				rmSync(draft, { force: true });
			}
			return read()[0]!;
		},
		write: async (keys) => renameSync(draftOf(keys), file),
	};
}

/** Into the directory of an installation that is restored. */
export function restoreMasterKey(data: string, text: string): void {
	writeFileSync(join(data, MASTER_KEY_FILE), text, { mode: FILE_MODE, flush: true });
}

export function textOfKeys(keys: readonly MasterKey[]): string {
	return keys.map(({ bytes }) => `${bytes.toString('base64')}\n`).join('');
}

/** 32 bytes each, in base64 or hexadecimal, separated by commas or white space. */
function parse(text: string, where: string): MasterKey[] {
	const words = text.split(/[\s,]+/).filter((word) => word !== '');
	return words.map((word) => {
		const bytes = /^[0-9a-f]{64}$/i.test(word) ? Buffer.from(word, 'hex') : Buffer.from(word, 'base64');
		if (bytes.length === KEY_BYTES) return masterKey(bytes);
		throw new MasterKeyError(
			`a master key is ${KEY_BYTES} bytes in base64 or hexadecimal, and in ${where} one has ${bytes.length}: "openssl rand -base64 32" makes one`,
		);
	});
}

async function outputOf(command: string, env: Record<string, string | undefined>): Promise<string> {
	try {
		const limits = { timeout: COMMAND_LIMIT_MS, maxBuffer: MAX_OUTPUT_BYTES, env: env as NodeJS.ProcessEnv };
		return (await promisify(execFile)('/bin/sh', ['-c', command], limits)).stdout;
	} catch (error) {
		// Its output may hold the key, and so may Node's words about it.
		const { code, killed } = error as { code?: unknown; killed?: boolean };
		const how = killed ? `did not end within ${COMMAND_LIMIT_MS / 1000} s` : `ended with ${String(code)}`;
		throw new MasterKeyError(`JIBE_MASTER_KEY_COMMAND ${how}: run it by hand to see why`);
	}
}
