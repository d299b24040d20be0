import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import type { Token } from '#wire/api.ts';
import type { State } from '#state/state.ts';
import { Refusal } from './ports.ts';

/** Who asks, what they may, and from where: every request and every WebSocket passes here first. */

export const SESSION_COOKIE = 'jibe_session';
const MAX_SECRET_CHARACTERS = 512;

export interface Caller {
	token: Token;
	/** For the audit: `token:<name>`, or `session:<name>` for a browser that signed in as that token. */
	by: string;
}

export type Role = Token['role'];
const RANK: Record<Role, number> = { viewer: 0, deployer: 1, admin: 2 };

/** @throws Refusal 401 unauthenticated */
export async function authenticate(request: IncomingMessage, state: State): Promise<Caller> {
	const secret = bearer(request);
	if (secret !== null) {
		const token = await state.tokens.verify(secret);
		if (token) return { token, by: `token:${token.name}` };
		throw new Refusal(
			'unauthenticated',
			401,
			'this token does not exist, has expired, or was revoked',
			'ask an admin for "jibe token create"',
		);
	}
	const session = cookie(request, SESSION_COOKIE);
	if (session !== null) {
		const token = await state.logins.session(session);
		if (token) return { token, by: `session:${token.name}` };
	}
	throw new Refusal(
		'unauthenticated',
		401,
		'nothing is answered here without a token',
		'send "Authorization: Bearer <token>", or sign in with "jibe open"',
	);
}

/** @throws Refusal 403 forbidden */
export function authorise({ token }: Caller, role: Role, of: { app?: string | undefined; environment?: string | undefined } = {}): void {
	if (RANK[token.role] < RANK[role]) {
		throw new Refusal(
			'forbidden',
			403,
			`this needs the role ${role}; the token "${token.name}" is a ${token.role}`,
			'ask an admin for a token that may',
		);
	}
	if (of.app !== undefined && !sees(token, of.app)) {
		throw new Refusal('forbidden', 403, `the token "${token.name}" is not for the app ${of.app}`, `it is for ${token.apps?.join(', ')}`);
	}
	if (of.environment !== undefined && token.environments !== null && !token.environments.includes(of.environment)) {
		const hint = `it is for ${token.environments.join(', ')}`;
		throw new Refusal('forbidden', 403, `the token "${token.name}" is not for the environment ${of.environment}`, hint);
	}
}

/** Whether a token's scope holds this app. */
export function sees(token: Token, app: string): boolean {
	return token.apps === null || token.apps.includes(app);
}

/**
 * A page of another site must reach nothing, and neither must a name of another site that was pointed at this address.
 * `names`: host names this control answers to besides the loopback ones.
 * @throws Refusal 421 wrong_host, 403 cross_site
 */
export function checkOrigin(request: IncomingMessage, names: readonly string[]): void {
	const host = request.headers.host ?? '';
	// Node keeps the first of several; whoever stands in front of control may have gone by another.
	if ((request.headersDistinct['host']?.length ?? 0) > 1)
		throw new Refusal('bad_request', 400, 'a request names its host in one Host header');
	if (!hostAllowed(request, names)) {
		throw new Refusal(
			'wrong_host',
			421,
			'this control does not answer to that Host',
			`use one of ${[...LOOPBACK_NAMES, ...names].join(', ')}`,
		);
	}
	const { origin } = request.headers;
	const site = request.headers['sec-fetch-site'];
	const elsewhere = origin !== undefined && origin !== `https://${host}` && (isEncrypted(request) || origin !== `http://${host}`);
	// A link on another page may open the page (without its cookie, which is SameSite=Strict), but nothing else.
	const navigation = request.method === 'GET' && request.headers['sec-fetch-mode'] === 'navigate' && origin === undefined;
	if (elsewhere || ((site === 'cross-site' || site === 'same-site') && !navigation)) {
		throw new Refusal('cross_site', 403, 'requests from pages of other sites are refused');
	}
}

export const LOOPBACK_NAMES: readonly string[] = ['127.0.0.1', '[::1]', 'localhost'];

/** Over TLS any: whoever came there under another site's name would have been refused by the certificate. */
export function hostAllowed(request: IncomingMessage, names: readonly string[]): boolean {
	if (isEncrypted(request)) return true;
	const name = (request.headers.host ?? '').replace(/:\d+$/, '').toLowerCase();
	return LOOPBACK_NAMES.includes(name) || names.includes(name);
}

export function isEncrypted(request: IncomingMessage): boolean {
	return request.socket instanceof TLSSocket;
}

export function bearer(request: IncomingMessage): string | null {
	const match = /^bearer ([^\s]+)$/i.exec(request.headers.authorization ?? '');
	const secret = match?.[1] ?? null;
	return secret !== null && secret.length <= MAX_SECRET_CHARACTERS * 16 ? secret : null;
}

export function cookie(request: IncomingMessage, name: string): string | null {
	for (const part of (request.headers.cookie ?? '').split(';')) {
		const [key, value] = part.trim().split('=', 2);
		if (key === name && value !== undefined && value.length <= MAX_SECRET_CHARACTERS) return value;
	}
	return null;
}
