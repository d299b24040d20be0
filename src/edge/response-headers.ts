import type { ResponseHead } from './response-reader.ts';

/** An instance's headers for the client: without those of the hop and of Jibe's own, with ours. */
export function responseHeaders(head: ResponseHead, release: string, requestId: string, extra: readonly string[]): string[] {
	const out: string[] = [];
	const { headers } = head;
	const hop = hopNames(headers);
	for (let i = 0; i < headers.length; i += 2) {
		const name = headers[i] as string;
		if (keeps(name) && !hop?.includes(name.toLowerCase())) out.push(name, headers[i + 1] as string);
	}
	out.push('x-jibe-release', release, 'x-request-id', requestId, ...extra);
	return out;
}

function hopNames(headers: readonly string[]): string[] | null {
	let names: string[] | null = null;
	for (let i = 0; i < headers.length; i += 2) {
		if ((headers[i] as string).length !== 10 || (headers[i] as string).toLowerCase() !== 'connection') continue;
		const value = (headers[i + 1] as string).toLowerCase();
		if (value === 'keep-alive' || value === 'close') continue;
		(names ??= []).push(...value.split(',').map((name) => name.trim()));
	}
	return names;
}

const DROPPED = new Set([
	'connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'transfer-encoding', 'content-length',
	'trailer', 'upgrade', 'te', 'x-request-id',
]); // prettier-ignore

/** Frameworks write a name in one way: remembering it saves lower-casing each time. Bounded: names are the app's choice. */
const remembered = new Map<string, boolean>();
const MAX_REMEMBERED_NAMES = 2_000;

function keeps(name: string): boolean {
	const known = remembered.get(name);
	if (known !== undefined) return known;
	const lower = name.toLowerCase();
	const keep = !DROPPED.has(lower) && !lower.startsWith('x-jibe-');
	if (remembered.size < MAX_REMEMBERED_NAMES) remembered.set(name, keep);
	return keep;
}
