import type { Forge } from '#wire/repositories.ts';

/** What a clone URL says: who is spoken to, and how. */
export interface CloneTarget {
	protocol: 'https' | 'http' | 'ssh';
	user: string | null;
	host: string;
	port: number;
	/** Without the slash before it and `.git` behind it: `team/notes`. */
	path: string;
}

const PORTS = { https: 443, http: 80, ssh: 22 } as const;

/** Of a URL that `cloneUrl` accepts. */
export function readCloneUrl(text: string): CloneTarget {
	const short = /^([\w.-]+)@([\w.-]+):(.+)$/.exec(text);
	if (short && !text.includes('://')) return { protocol: 'ssh', user: short[1]!, host: short[2]!, port: 22, path: pathOf(short[3]!) };
	const { protocol, username, hostname, port, pathname } = new URL(text);
	const name = protocol.slice(0, -1) as CloneTarget['protocol'];
	const host = hostname.replace(/^\[|\]$/g, '');
	return { protocol: name, user: username || null, host, port: Number(port) || PORTS[name], path: pathOf(decodeURIComponent(pathname)) };
}

function pathOf(text: string): string {
	return text
		.replace(/^\/+/, '')
		.replace(/\/+$/, '')
		.replace(/\.git$/, '');
}

/** Of the forge's API; null: it has none that Jibe speaks. */
export function apiOf(forge: Forge, url: string | null, given: string | null): string | null {
	if (given !== null) return given.replace(/\/+$/, '');
	if (url === null || forge === 'generic' || forge === 'push') return null;
	const { protocol, host, port } = readCloneUrl(url);
	const scheme = protocol === 'http' ? 'http' : 'https';
	// What answers ssh says nothing of the port that answers HTTPS.
	const at = protocol === 'ssh' || port === PORTS[protocol] ? host : `${host}:${port}`;
	if (forge === 'github') return host === 'github.com' ? 'https://api.github.com' : `${scheme}://${at}/api/v3`;
	return `${scheme}://${at}/api/${forge === 'gitlab' ? 'v4' : 'v1'}`;
}
