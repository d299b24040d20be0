import { BlockList, isIP } from 'node:net';

/** Which addresses Jibe connects to on somebody's behalf: those of the public internet, and what an admin listed. */

/** Loopback, private, link-local (with the metadata of clouds), shared, reserved, multicast; and IPv6 that stands for IPv4. */
const NOT_PUBLIC: readonly [network: string, prefix: number, family: 'ipv4' | 'ipv6'][] = [
	['0.0.0.0', 8, 'ipv4'],
	['10.0.0.0', 8, 'ipv4'],
	['100.64.0.0', 10, 'ipv4'],
	['127.0.0.0', 8, 'ipv4'],
	['169.254.0.0', 16, 'ipv4'],
	['172.16.0.0', 12, 'ipv4'],
	['192.0.0.0', 24, 'ipv4'],
	['192.0.2.0', 24, 'ipv4'],
	['192.88.99.0', 24, 'ipv4'],
	['192.168.0.0', 16, 'ipv4'],
	['198.18.0.0', 15, 'ipv4'],
	['198.51.100.0', 24, 'ipv4'],
	['203.0.113.0', 24, 'ipv4'],
	['224.0.0.0', 3, 'ipv4'],
	// Some clouds have their metadata or key services in the middle of public ranges.
	['168.63.129.16', 32, 'ipv4'],
];
/** Of IPv6 only what is given out to the internet, 2000::/3, and of that not what carries IPv4 within, or is for documents. */
const PUBLIC_6: readonly [string, number] = ['2000::', 3];
const NOT_PUBLIC_6: readonly [network: string, prefix: number][] = [
	['2001::', 23],
	['2001:db8::', 32],
	['2002::', 16],
	['3fff::', 20],
];

const notPublic4 = new BlockList();
for (const [network, prefix, family] of NOT_PUBLIC) notPublic4.addSubnet(network, prefix, family);
const public6 = new BlockList();
public6.addSubnet(...PUBLIC_6, 'ipv6');
const notPublic6 = new BlockList();
for (const [network, prefix] of NOT_PUBLIC_6) notPublic6.addSubnet(network, prefix, 'ipv6');

export function isPublic(address: string): boolean {
	if (isIP(address) === 4) return !notPublic4.check(address, 'ipv4');
	if (isIP(address) !== 6) return false;
	return public6.check(address, 'ipv6') && !notPublic6.check(address, 'ipv6');
}

/** What admins listed: `forge.lan`, `forge.lan:8443`, `10.1.0.7`, `[fd00::7]:443`, `10.1.0.0/16`. */
export interface Allowed {
	/** The host as it was named, and the address that it has. */
	has(host: string, port: number, address: string): boolean;
}

export function allowedBy(lines: readonly string[]): Allowed {
	const names = new Set<string>();
	const ranges = new BlockList();
	for (const line of lines) {
		const range = /^([^/]+)\/(\d{1,3})$/.exec(line);
		if (range === null) names.add(line.toLowerCase());
		else addRange(ranges, range[1]!, Number(range[2]));
	}
	return {
		has(host, port, address) {
			const bare = [host, address].map((name) => name.toLowerCase().replace(/^\[|\]$/g, ''));
			if (bare.some((name) => names.has(name) || names.has(`${name}:${port}`) || names.has(`[${name}]`) || names.has(`[${name}]:${port}`)))
				return true;
			const family = isIP(address);
			return family !== 0 && ranges.check(address, family === 4 ? 'ipv4' : 'ipv6');
		},
	};
}

/** A range must be one. */
export function isAllowedLine(line: string): boolean {
	const range = /^([^/]+)\/(\d{1,3})$/.exec(line);
	if (range === null) return true;
	const family = isIP(range[1]!);
	return family !== 0 && Number(range[2]) <= (family === 4 ? 32 : 128);
}

function addRange(ranges: BlockList, network: string, prefix: number): void {
	if (isAllowedLine(`${network}/${prefix}`)) ranges.addSubnet(network, prefix, isIP(network) === 4 ? 'ipv4' : 'ipv6');
}
