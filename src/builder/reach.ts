import { execFile } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { existsSync } from 'node:fs';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { systemClock } from '#clock/clock.ts';
import { allowedBy, isPublic } from '#wire/addresses.ts';
import type { BuildJob } from '#wire/builds.ts';
import type { Reach } from './sandbox/sandbox.ts';

/**
 * Where commands of a build may connect to, when they may at all: the public internet, what an admin listed, the proxies and
 * registries that whoever runs this builder gave it or its npm, wherever this machine's names say that they are (a mirror, as in
 * a closed network). Neither this machine nor the rest of Jibe.
 */
export async function reachOf({ reach: { allowed, own } }: Pick<BuildJob, 'reach'>): Promise<Reach> {
	const listed = await Promise.all([...allowed, ...placesIn(Object.values(given())), ...(await npmRegistry())].map(resolved));
	const lines = listed.flatMap(({ line, addresses, port }) => [line, ...addresses.map((address) => named(address, port))]);
	const list = allowedBy(lines);
	const ours = new Set(Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address)));
	for (const { addresses } of await Promise.all(own.map(resolved))) for (const address of addresses) ours.add(address);
	return {
		allows: (address, port) => list.has(address, port, address) || (isPublic(address) && !ours.has(address)),
		places: listed.flatMap(({ addresses, port }) => (port === null ? [] : addresses.map((address) => ({ address, port })))),
	};
}

/** What managers need to reach registries from here: proxies, and the authorities that this machine believes. */
export function wayOut(): Record<string, string> {
	const env = given();
	if (!existsSync(CERTIFICATES)) return env;
	const names = ['NODE_EXTRA_CA_CERTS', 'SSL_CERT_FILE', 'PIP_CERT', 'CARGO_HTTP_CAINFO'];
	return { ...env, ...Object.fromEntries(names.map((name) => [name, CERTIFICATES])) };
}

const CERTIFICATES = '/etc/ssl/certs/ca-certificates.crt';
/** Of the builder's own environment: how to get out of this network. */
const WAY_OUT = /^((https?|all|no)_proxy|npm_config_registry|goproxy|gonosumdb|gonoproxy|pip_index_url|pip_extra_index_url)$/i;
/** A name that takes longer is one that nobody knows. */
const RESOLVE_LIMIT_MS = 3_000;
const DEFAULT_PORTS: Readonly<Record<string, string>> = { 'http:': '80', 'https:': '443' };

function given(): Record<string, string> {
	const all = Object.entries(process.env);
	return Object.fromEntries(all.flatMap(([name, value]) => (value !== undefined && WAY_OUT.test(name) ? [[name, value]] : [])));
}

function placesIn(values: readonly string[]): string[] {
	const urls = values.flatMap((value) => value.split(/[\s,|]+/)).filter((one) => URL.canParse(one));
	return urls.map((one) => new URL(one)).flatMap(({ hostname, port, protocol }) => {
		const at = port || DEFAULT_PORTS[protocol];
		return hostname === '' || at === undefined ? [] : [`${hostname}:${at}`];
	}); // prettier-ignore
}

const NPM_LIMIT_MS = 10_000;
let known: Promise<string[]> | null = null;

/** What npm on this machine was told, or takes for granted; asked once. */
function npmRegistry(): Promise<string[]> {
	known ??= new Promise((resolve) => {
		const asked = ['config', 'get', 'registry'];
		execFile('npm', asked, { cwd: '/', timeout: NPM_LIMIT_MS }, (error, out) => resolve(error ? [] : placesIn([out])));
	});
	return known;
}

/** `forge.lan`, `forge.lan:8443`, `[fd00::7]:443`: its addresses now. A range, and a name that nobody knows, have none. */
async function resolved(line: string): Promise<{ line: string; addresses: string[]; port: number | null }> {
	const [, host = line, port] = isIP(line) === 0 ? (/^\[?([^[\]/]+?)\]?(?::(\d{1,5}))?$/.exec(line) ?? []) : [];
	const of = { line, port: port === undefined ? null : Number(port) };
	if (isIP(host) !== 0) return { ...of, addresses: [host] };
	if (host.includes('/')) return { ...of, addresses: [] };
	return { ...of, addresses: await addressesOf(host) };
}

function addressesOf(host: string): Promise<string[]> {
	return new Promise((resolve) => {
		const limit = systemClock.after(RESOLVE_LIMIT_MS, () => resolve([]));
		const found = lookup(host, { all: true }).then((all) => all.map(({ address }) => address), () => []); // prettier-ignore
		void found.then(resolve).finally(() => limit.cancel());
	});
}

function named(address: string, port: number | null): string {
	return port === null ? address : `${isIP(address) === 6 ? `[${address}]` : address}:${port}`;
}
