import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import type { SealedSecret } from '#state/secrets.ts';
import type { MasterKey } from './master-key.ts';

/** Envelopes: a value under a key of its own, that key under the master key, both AES-256-GCM and bound to what they belong to. */

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export interface Belongs {
	app: string;
	environment: string;
	name: string;
}

export function seal(value: string, of: Belongs, master: MasterKey): SealedSecret {
	const key = randomBytes(KEY_BYTES);
	return { ciphertext: encrypt(key, Buffer.from(value), `value ${textOf(of)}`), ...wrap(key, of, master) };
}

/** @throws when it was changed, or belongs to something else */
export function open(sealed: SealedSecret, of: Belongs, master: MasterKey): string {
	return decrypt(unwrap(sealed, of, master), sealed.ciphertext, `value ${textOf(of)}`).toString();
}

/** The same value's key under another master key; the value stays as it is. */
export function rewrap(sealed: SealedSecret, of: Belongs, from: MasterKey, to: MasterKey): { wrapped: Buffer; keyId: string } {
	return wrap(unwrap(sealed, of, from), of, to);
}

function wrap(key: Buffer, of: Belongs, master: MasterKey): { wrapped: Buffer; keyId: string } {
	return { wrapped: encrypt(master.bytes, key, `key ${textOf(of)}`), keyId: master.id };
}

function unwrap({ wrapped }: SealedSecret, of: Belongs, master: MasterKey): Buffer {
	return decrypt(master.bytes, wrapped, `key ${textOf(of)}`);
}

function textOf({ app, environment, name }: Belongs): string {
	return JSON.stringify([app, environment, name]);
}

function encrypt(key: Buffer, bytes: Buffer, about: string): Buffer {
	const nonce = randomBytes(NONCE_BYTES);
	const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(about));
	const text = Buffer.concat([cipher.update(bytes), cipher.final()]);
	return Buffer.concat([nonce, cipher.getAuthTag(), text]);
}

function decrypt(key: Buffer, bytes: Buffer, about: string): Buffer {
	const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES });
	decipher.setAAD(Buffer.from(about)).setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
	return Buffer.concat([decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES)), decipher.final()]);
}
