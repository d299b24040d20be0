import { systemClock } from '#clock/clock.ts';
import { serversAnswer, type ServerStatus } from '#wire/join.ts';
import { EXIT, type Exit } from './failure.ts';
import { ago, table } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const { servers } = serversAnswer.parse(await ask(findServer(data), { path: '/api/v1/servers' }));
		const now = systemClock.now();
		const rows = servers.map((server) => row(server, now));
		const notes = servers.flatMap(({ name, reason }) => (reason === null ? [] : [`! ${name}: ${reason}`]));
		const head = [
			'server',
			'region',
			'state',
			'roles',
			'labels',
			'instances',
			'memory',
			'disk',
			'version',
			'address',
			'seen',
			'certificate',
		];
		const none = ['No server has joined; "jibe server add --region R" makes a join string.'];
		out.result({ servers }, servers.length === 0 ? none : [...table(head, rows), ...notes]);
		return EXIT.done;
	},
};

function row(server: ServerStatus, now: number): string[] {
	const { name, region, state, roles, labels, instances, has, host, seenAt, certificateExpires } = server;
	const hours = Math.floor((certificateExpires - now) / 3_600_000);
	const certificate = certificateExpires <= now ? `expired ${ago(now - certificateExpires)}` : `${hours} h left`;
	return [
		name,
		region,
		state,
		roles.join(','),
		labels.join(',') || '-',
		String(instances),
		...had(has),
		host,
		ago(now - seenAt),
		certificate,
	];
}

/** Memory that is reserved of what instances may take, disk that is free, and Jibe's version there. */
function had(has: ServerStatus['has']): string[] {
	if (has === null) return ['?', '?', '?'];
	const { reservedMiB, budgetMiB, diskFreeMiB, version } = has;
	return [`${reservedMiB}/${budgetMiB} MiB`, `${Math.floor(diskFreeMiB / 1024)} GiB free`, version];
}
