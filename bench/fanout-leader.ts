import { systemClock as clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { dial, type Link } from '#wire/link.ts';
import { WIRE_VERSION, wantKey, type DownMessage, type Instance, type Want } from '#wire/region.ts';

/** A region's depot, agent and edge in one, for the bench `fanout`: instances are there as soon as they are wanted, and pointers are obeyed at once. */
export function openLeader(of: { url: string; region: string; server: string; credential: string; log: Log }): Link {
	const { url, region, server, credential, log } = of;
	const link = dial({
		url,
		credential: () => credential,
		hello: () => ({ type: 'hello', wire: WIRE_VERSION, role: 'depot', server, name: 'depot', regions: [region], known: [] }),
		onUp: () => link.send({ type: 'presence', regions: [{ region, agents: [{ server }], edges: [{ server, name: 'edge-0' }] }] }),
		onMessage(message: DownMessage) {
			if (message.type === 'probe') {
				const samples = Array.from({ length: message.discard + message.count }, () =>
					message.releases.map((release) => ({ release, status: 200, ms: 1 })),
				);
				link.send({ type: 'probed', id: message.id, samples: samples.flat(), error: null });
			}
			if (message.type !== 'wants') return;
			const place = ({ region: wanted, app, environment }: Want) => ({ region: wanted, app, environment });
			link.send({ type: 'instances', server, groups: message.wants.map((want) => ({ ...place(want), instances: instancesOf(want) })) });
			const items = message.wants.map((want) => ({ ...place(want), epoch: want.epoch, version: want.version }));
			link.send({ type: 'applied', server, edge: 'edge-0', items });
		},
		log,
		clock,
	});
	return link;
}

function instancesOf(want: Want): Instance[] {
	return want.run.map(({ release, as }) => ({
		id: `${wantKey(want)}-${release}`,
		release,
		state: as,
		healthy: true,
		address: 'unix:/nowhere.sock',
		pid: 1,
		reason: null,
		detail: null,
		restarts: 0,
		cold: false,
		timings: null,
	}));
}
