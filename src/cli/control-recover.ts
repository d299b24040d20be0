import { EXIT, usage, type Exit } from './failure.ts';
import { count, done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

interface App {
	app: string;
	readOnly: string | null;
}

/**
 * Ends the read-only state of apps that a region knows more of than the database: what the regions serve holds from now
 * on, or, with `--take database`, what the database wants, which may be older.
 */
export const verb: Verb = {
	syntax: { options: { all: 'flag', take: 'value' }, positionals: ['APP'], optional: 0 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const take = args.value('take') ?? 'regions';
		if (take !== 'regions' && take !== 'database') throw usage('--take is regions (what they serve holds) or database');
		const server = findServer(data);
		const { apps } = (await ask(server, { path: '/api/v1/apps' })) as { apps: App[] };
		const chosen = choose(apps, args.positionals[0] ?? null, args.flag('all'));
		const recovered: { app: string; epoch: number; was: string }[] = [];
		for (const { app, readOnly } of chosen) {
			const path = `/api/v1/apps/${encodeURIComponent(app)}/recoveries?take=${take}`;
			const { epoch } = (await ask(server, { method: 'POST', path })) as { epoch: number };
			recovered.push({ app, epoch, was: readOnly ?? '' });
		}
		const holds = take === 'regions' ? 'what the regions serve holds' : 'what the database wants holds';
		const lines = recovered.map(({ app, epoch }) => done(`Recovered ${app}`, `epoch ${epoch}; ${holds}`));
		out.result({ recovered, take }, recovered.length === 0 ? [done('Nothing to recover', 'no app is read-only')] : lines);
		return EXIT.done;
	},
};

/** @throws Failure (usage) */
function choose(apps: readonly App[], named: string | null, all: boolean): App[] {
	const readOnly = apps.filter((one) => one.readOnly !== null);
	if (all) return readOnly;
	if (named !== null) return [apps.find(({ app }) => app === named) ?? { app: named, readOnly: null }];
	if (readOnly.length === 0) return [];
	const lines = readOnly.map(({ app, readOnly: why }) => `  ${app}: ${why}`);
	throw usage(
		`${count(readOnly.length, 'app')} can be recovered:\n${lines.join('\n')}`,
		'jibe control recover APP, or --all: what the regions serve holds from then on',
	);
}
