import { role as roleSchema, type Role } from '#wire/region.ts';
import { usage, type Exit } from './failure.ts';
import { joinControl } from './joining.ts';
import { done } from './output.ts';
import { startSupervisor, supervise } from './supervise.ts';
import { openData, type UpSettings } from './up/installation.ts';
import type { Invocation, Verb } from './verbs.ts';

/** This machine becomes a server, and its programs start. */
export const verb: Verb = {
	syntax: {
		options: { name: 'value', host: 'value', region: 'value', roles: 'list', 'edge-port': 'value', detach: 'flag' },
		positionals: ['STRING'],
		optional: 1,
	},
	async run({ args, out, data }: Invocation): Promise<Exit> {
		openData(data);
		const identity = await joinControl({
			data,
			text: args.positionals[0] ?? '',
			name: args.value('name'),
			host: args.value('host'),
			region: args.value('region'),
			roles: args.list('roles')?.map(roleNamed) ?? null,
			edgePort: portNamed(args.value('edge-port')),
		});
		out.say(done(`Joined as ${identity.server}`, `region ${identity.region}: ${identity.roles.join(', ')}`));
		// One that runs already goes on as who it is now: what it keeps running is taken over.
		const settings: UpSettings = { data, regions: null, port: null, edgePort: null, separate: false, takeOver: true };
		return supervise(startSupervisor(settings), out, args.flag('detach'));
	},
};

function roleNamed(text: string): Role {
	const parsed = roleSchema.safeParse(text);
	if (parsed.success) return parsed.data;
	throw usage(`"${text}" is no role`, `roles are ${roleSchema.options.join(', ')}`);
}

function portNamed(text: string | null): number | null {
	if (text === null) return null;
	const port = Number(text);
	if (!/^\d+$/.test(text) || port < 1 || port > 65_535) throw usage('--edge-port takes a port from 1 to 65535');
	return port;
}
