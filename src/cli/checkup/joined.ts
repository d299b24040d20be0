import { lookup } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { bad, ok, type Finding } from '#process/checkup.ts';
import { certificateFinding, reachFindings } from '#wire/reach.ts';
import { servers as serversSchema } from '#wire/region.ts';
import type { ServerIdentity } from '#wire/server-identity.ts';
import { Failure } from '../failure.ts';
import { clockProblem, meet } from '../tls.ts';
import { identityDirectory } from '../up/check-in.ts';

/** What `jibe doctor` finds of a joined server's connections: to control, and to the others of its region. */
export async function joinedFindings(data: string, identity: ServerIdentity): Promise<Finding[]> {
	const [control, others] = await Promise.all([Promise.all(identity.control.map((url) => towards(url, identity))), peers(data, identity)]);
	return [
		ok('server', `${identity.server} of ${identity.region} (${identity.roles.join(', ')})`),
		certificateFinding(identityDirectory(data)),
		...control.flat(),
		...others,
	];
}

async function towards(address: string, { fingerprint }: ServerIdentity): Promise<Finding[]> {
	const url = new URL(address);
	const host = url.hostname.replace(/^\[|\]$/g, '');
	try {
		await lookup(host);
	} catch {
		return [
			bad('names', `${host}, where control is, leads nowhere`, 'look at the DNS of this machine (/etc/resolv.conf), and at that name'),
		];
	}
	try {
		const { aheadMs, fingerprint: found } = await meet(url);
		const clock = clockProblem(aheadMs);
		return [
			found === fingerprint
				? ok('control', `${url.origin} answers`)
				: bad(
						'control',
						`${url.origin} is another control: its CA is ${found}`,
						'look whether its address has moved; join again if it was set up anew',
					),
			clock ? bad('clock', clock.message, 'timedatectl set-ntp true') : ok('clock', "as control's"),
		];
	} catch (error) {
		if (!(error instanceof Failure)) throw error;
		return [bad('control', error.message, error.hint ?? 'look at the way out of this machine to that port')];
	}
}

function peers(data: string, { server }: ServerIdentity): Promise<Finding[]> {
	try {
		const list = serversSchema.parse(JSON.parse(readFileSync(join(identityDirectory(data), 'servers.json'), 'utf8')));
		if (list.servers.some(({ name }) => name === server)) return reachFindings(server, list);
		return Promise.resolve([
			bad('server', `${server} is not among the servers of this installation any more`, 'it was removed: jibe uninstall, or join again'),
		]);
	} catch {
		return Promise.resolve([bad('server', 'it has not heard yet who the others are', 'it hears of them when it reaches control')]);
	}
}
