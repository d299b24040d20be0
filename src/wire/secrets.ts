import { createCipheriv, createDecipheriv, createPublicKey, diffieHellman, generateKeyPairSync, hkdfSync, sign, verify } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { z } from 'zod';
import { sha256 } from '#digest/digest.ts';
import { appName, environmentName, releaseNumber, serverName } from './names.ts';
import { keyPem, proof } from './join.ts';

/**
 * How the secrets of a release get from control to the agent of a server that runs it, through depots that can't read
 * them: the agent makes a key pair for this one question and signs it with its server's key; control seals the answer
 * to it with a key pair of its own, and signs that with the installation's key. Nothing that is kept opens it later.
 */

export const SECRETS_PATH = '/secrets';
export const MAX_SECRET_BYTES = 64 * 1024;
export const MAX_SECRETS = 100;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** 100 secrets at their largest, in JSON and base64. */
const MAX_BOX_CHARACTERS = 24 * 1024 * 1024;

const publicKey = z.base64().length(44);

/** `POST /secrets`, of an agent by its depot. */
export const secretsRequest = z.object({
	server: serverName,
	app: appName,
	environment: environmentName,
	release: releaseNumber,
	/** X25519, made for this question. */
	key: publicKey,
	/** By the key of the server that joined. */
	signed: z.object({ publicKey: keyPem, proof }).nullable(),
	/** Of the agent on control's own machine, which has no such key: nobody elsewhere ever sees it. */
	credential: z.string().max(8_192).nullable(),
});
export type SecretsRequest = z.infer<typeof secretsRequest>;

export const secretsAnswer = z.object({ key: publicKey, box: z.base64().max(MAX_BOX_CHARACTERS), signature: z.base64().length(88) });
export type SecretsAnswer = z.infer<typeof secretsAnswer>;

const opened = z.array(z.object({ name: z.string(), version: z.int().positive(), value: z.string() })).max(MAX_SECRETS);
export type OpenedSecret = z.infer<typeof opened>[number];

export class UnsealFailed extends Error {
	readonly code = 'fetch';
}

/** What the server's key signs. */
export function secretsText(
	installation: string,
	{ server, app, environment, release, key }: Omit<SecretsRequest, 'signed' | 'credential'>,
) {
	return `jibe secrets\n${installation}\n${server}\n${app}\n${environment}\n${release}\n${key}`;
}

export function newExchangeKey(): { key: string; privateKey: KeyObject } {
	const pair = generateKeyPairSync('x25519');
	const { x } = pair.publicKey.export({ format: 'jwk' });
	return { key: Buffer.from(x!, 'base64url').toString('base64'), privateKey: pair.privateKey };
}

export function sealSecrets(text: string, theirs: string, secrets: readonly OpenedSecret[], installationKey: KeyObject): SecretsAnswer {
	const mine = newExchangeKey();
	const { cipherKey, nonce } = shared(text, mine.privateKey, theirs, mine.key);
	const cipher = createCipheriv('aes-256-gcm', cipherKey, nonce);
	const box = Buffer.concat([cipher.update(JSON.stringify(secrets)), cipher.final(), cipher.getAuthTag()]).toString('base64');
	return { key: mine.key, box, signature: sign(null, answerText(text, mine.key, box), installationKey).toString('base64') };
}

/** @throws UnsealFailed when it is not an answer of this installation's control to this very question */
export function openSecrets(text: string, privateKey: KeyObject, answer: unknown, installationPem: string): OpenedSecret[] {
	const parsed = secretsAnswer.safeParse(answer);
	if (!parsed.success) throw new UnsealFailed('what came for its secrets is no answer of control');
	const { key, box, signature } = parsed.data;
	if (!verify(null, answerText(text, key, box), createPublicKey(installationPem), Buffer.from(signature, 'base64')))
		throw new UnsealFailed('its secrets came without the signature of this installation: a depot on the way changed them');
	const bytes = Buffer.from(box, 'base64');
	const { cipherKey, nonce } = shared(text, privateKey, key, key);
	const cipher = createDecipheriv('aes-256-gcm', cipherKey, nonce);
	cipher.setAuthTag(bytes.subarray(-TAG_BYTES));
	return opened.parse(JSON.parse(Buffer.concat([cipher.update(bytes.subarray(0, -TAG_BYTES)), cipher.final()]).toString()));
}

function answerText(text: string, key: string, box: string): Buffer {
	return Buffer.from(`jibe secrets answer\n${sha256(text)}\n${key}\n${box}`);
}

/** Both keys are made for this question alone, so what comes of them seals one text only. The question's text holds the agent's. */
function shared(text: string, privateKey: KeyObject, theirs: string, controls: string): { cipherKey: Buffer; nonce: Buffer } {
	const x = Buffer.from(theirs, 'base64').toString('base64url');
	const secret = diffieHellman({ privateKey, publicKey: createPublicKey({ key: { kty: 'OKP', crv: 'X25519', x }, format: 'jwk' }) });
	const made = Buffer.from(hkdfSync('sha256', secret, sha256(text), `jibe secrets ${controls}`, KEY_BYTES + NONCE_BYTES));
	return { cipherKey: made.subarray(0, KEY_BYTES), nonce: made.subarray(KEY_BYTES) };
}
