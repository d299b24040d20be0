/** Set by the edge on page loads while a split runs, so that a browser keeps its side when its address changes. */
export const FIRST_PARTY_COOKIE = 'jibe-user';
const MAX_KEY_CHARS = 256;

/** Where an app says that its users' identity is: `header:NAME` or `cookie:NAME`. */
export type KeySource = { from: 'header' | 'cookie'; name: string };

/** What has to be known of a request to tell its user; asked for lazily, in the order of preference. */
export interface UserRequest {
	header(name: string): string | null;
	cookie(name: string): string | null;
	address(): string;
	/** A page load by a browser: it will send a cookie back. */
	navigates(): boolean;
}

export interface UserKey {
	key: string;
	from: 'header' | 'cookie' | 'first-party' | 'minted' | 'address';
}

/**
 * The configured header or cookie, else the first-party cookie, else the address. A page load without any gets a new
 * first-party cookie while a split runs, and counts by it at once: its next request must not change sides. Requests
 * of clients that may not keep cookies are never minted one: each would count as somebody new.
 */
export function userKeyOf(request: UserRequest, configured: KeySource | null, mint: (() => string) | null): UserKey {
	if (configured !== null) {
		const value = configured.from === 'header' ? request.header(configured.name) : request.cookie(configured.name);
		if (value) return { key: value.slice(0, MAX_KEY_CHARS), from: configured.from };
	}
	const own = request.cookie(FIRST_PARTY_COOKIE);
	if (own) return { key: own.slice(0, MAX_KEY_CHARS), from: 'first-party' };
	if (mint !== null && request.navigates()) return { key: mint(), from: 'minted' };
	return { key: request.address(), from: 'address' };
}

/** Null for null, and for anything that is not `header:NAME` or `cookie:NAME`. */
export function parseKeySource(text: string | null): KeySource | null {
	const match = /^(header|cookie):([A-Za-z0-9_-]+)$/.exec(text ?? '');
	if (!match) return null;
	const from = match[1] === 'header' ? 'header' : 'cookie';
	const name = match[2] ?? '';
	return { from, name: from === 'header' ? name.toLowerCase() : name };
}

/** The first value of a cookie in a Cookie header, or null. */
export function cookieValue(header: string, name: string): string | null {
	let at = 0;
	while (at < header.length) {
		let end = header.indexOf(';', at);
		if (end === -1) end = header.length;
		while (header[at] === ' ') at++;
		if (header.startsWith(name, at) && header[at + name.length] === '=') {
			const value = header.slice(at + name.length + 1, end).trim();
			return value.startsWith('"') && value.endsWith('"') && value.length > 1 ? value.slice(1, -1) : value;
		}
		at = end + 1;
	}
	return null;
}
