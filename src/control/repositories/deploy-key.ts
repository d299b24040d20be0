import { randomBytes, type KeyObject } from 'node:crypto';

/** Deploy keys as OpenSSH writes and reads them: ed25519, without a passphrase. */

const TYPE = 'ssh-ed25519';
const MAGIC = Buffer.from('openssh-key-v1\0');
const BLOCK_BYTES = 8;
const LINE_CHARACTERS = 70;
const BEGIN = '-----BEGIN OPENSSH PRIVATE KEY-----';
const END = '-----END OPENSSH PRIVATE KEY-----';

export function newDeployKey(key: KeyObject, comment: string): { privateKey: string; publicKey: string } {
	const { d, x } = key.export({ format: 'jwk' });
	const [secret, point] = [d, x].map((part) => Buffer.from(part!, 'base64url')) as [Buffer, Buffer];
	const open = Buffer.concat([text(TYPE), text(point)]);
	const check = randomBytes(4);
	const inner = Buffer.concat([check, check, open, text(Buffer.concat([secret, point])), text(comment)]);
	const padding = Buffer.from(Array.from({ length: (BLOCK_BYTES - (inner.length % BLOCK_BYTES)) % BLOCK_BYTES }, (_, i) => i + 1));
	const whole = Buffer.concat([MAGIC, text('none'), text('none'), text(''), uint(1), text(open), text(Buffer.concat([inner, padding]))]);
	const lines = whole.toString('base64').match(new RegExp(`.{1,${LINE_CHARACTERS}}`, 'g'))!;
	return { privateKey: [BEGIN, ...lines, END, ''].join('\n'), publicKey: `${TYPE} ${open.toString('base64')} ${comment}` };
}

/** The public half of one that was made here; null for any other. */
export function deployKeyOf(privateKey: string): string | null {
	const bytes = Buffer.from(privateKey.replace(BEGIN, '').replace(END, ''), 'base64');
	if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) return null;
	let at = MAGIC.length;
	const next = () => {
		const length = bytes.readUInt32BE(at);
		at += 4 + length;
		return bytes.subarray(at - length, at);
	};
	for (let skipped = 0; skipped < 3; skipped++) next();
	at += 4;
	const open = next();
	return open.subarray(4, 4 + TYPE.length).toString() === TYPE ? `${TYPE} ${open.toString('base64')}` : null;
}

function uint(value: number): Buffer {
	const bytes = Buffer.alloc(4);
	bytes.writeUInt32BE(value);
	return bytes;
}

function text(value: string | Buffer): Buffer {
	const bytes = Buffer.from(value as string);
	return Buffer.concat([uint(bytes.length), bytes]);
}
