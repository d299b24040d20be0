import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { programTitle } from '#process/title.ts';
import { storePlace } from '#store/store-place.ts';
import { usage, type Exit } from './failure.ts';
import type { Arguments } from './arguments.ts';
import { chosenPackage } from './installed/chosen.ts';
import { readInstalled } from './installed/note.ts';
import { ownPackage } from './installed/package.ts';
import { becomeServiceUser } from './installed/service.ts';
import { startSupervisor, supervise } from './supervise.ts';
import { refuseWhenRunning } from './up/claim.ts';
import { openData, regionNames, type UpSettings } from './up/installation.ts';
import { programEnvironment, scriptOf } from './up/programs.ts';
import type { Invocation, Verb } from './verbs.ts';

/** `jibe up`: starts the supervisor as a process of its own and shows what it tells, until everything is ready or, without `--detach`, until it ends. */
export const verb: Verb = {
	syntax: {
		options: {
			regions: 'value',
			port: 'value',
			'edge-port': 'value',
			store: 'value',
			listen: 'value',
			address: 'list',
			'tls-cert': 'value',
			'tls-key': 'value',
			builders: 'value',
			'allow-unsandboxed': 'flag',
			detach: 'flag',
			'take-over': 'flag',
			service: 'flag',
		},
		positionals: [],
		optional: 0,
	},
	async run(invocation: Invocation): Promise<Exit> {
		const { args, out, data } = invocation;
		runChosen(data);
		becomeServiceUser(readInstalled(data));
		const regions = args.value('regions');
		const settings: UpSettings = {
			data,
			regions: regions === null ? null : regionNames(regions),
			port: portOption(args.value('port'), '--port'),
			edgePort: portOption(args.value('edge-port'), '--edge-port'),
			store: storeOption(args.value('store')),
			listen: listenOption(args),
			builders: buildersOption(args),
			separate: process.env['JIBE_SEPARATE'] === '1',
			takeOver: args.flag('take-over') || args.flag('service'),
		};
		openData(data);
		if (!settings.takeOver) refuseWhenRunning(data);
		if (args.flag('service')) become(settings);
		return supervise(startSupervisor(settings), out, args.flag('detach'));
	},
};

/** `jibe upgrade` chose a version for this directory: the command of an older one hands over to it. */
function runChosen(data: string): void {
	const [own, chosen] = [ownPackage(), chosenPackage(data)];
	if (chosen === null || chosen.root === own.root || compareVersions(own.version, chosen.version) > 0) return;
	const command = join(chosen.root, 'bin', 'jibe');
	process.execve?.(command, [command, ...process.argv.slice(2)], process.env);
}

/** Negative when `a` is older than `b`. */
function compareVersions(a: string, b: string): number {
	return a.localeCompare(b, 'en', { numeric: true });
}

/** What a service manager starts and watches is the supervisor itself. */
function become(settings: UpSettings): void {
	const words = [programTitle('up'), ...scriptOf('up'), settings.data];
	process.execve?.(process.execPath, words, programEnvironment(settings.data, 'up', settings));
}

function portOption(text: string | null, option: string): number | null {
	if (text === null) return null;
	const port = Number(text);
	if (!/^\d+$/.test(text) || port < 1 || port > 65_535) throw usage(`${option} takes a port from 1 to 65535`);
	return port;
}

const MAX_BUILDERS = 64;

/** `2`, `0..4`. */
function buildersOption(args: Arguments): UpSettings['builders'] {
	const [text, allowUnsandboxed] = [args.value('builders'), args.flag('allow-unsandboxed')];
	if (text === null) {
		if (allowUnsandboxed)
			throw usage('--allow-unsandboxed stands with --builders: it is about those', 'such as --builders 0..2 --allow-unsandboxed');
		return null;
	}
	const [, from, to] = /^(\d+)(?:\.\.(\d+))?$/.exec(text) ?? [];
	const [min, max] = [Number(from), Number(to ?? from)];
	if (from === undefined || min > max || max > MAX_BUILDERS) {
		throw usage(`--builders takes a number, or the least and the most as 0..4; at most ${MAX_BUILDERS}`);
	}
	return { min, max, allowUnsandboxed };
}

/** `0.0.0.0:7443`; `none` ends what an earlier one began. */
function listenOption(args: Arguments): UpSettings['listen'] {
	const text = args.value('listen');
	const [certFile, keyFile] = [args.value('tls-cert'), args.value('tls-key')].map((file) => (file === null ? undefined : resolve(file)));
	const names = args.list('address') ?? undefined;
	if ((certFile === undefined) !== (keyFile === undefined)) throw usage('--tls-cert and --tls-key belong together');
	if (text === null) {
		if (certFile !== undefined || names !== undefined) throw usage('--tls-cert, --tls-key and --address need --listen HOST:PORT');
		return null;
	}
	if (text === 'none') return 'none';
	const [, host, port] = /^(.+):(\d+)$/.exec(text) ?? [];
	if (host === undefined || port === undefined) throw usage('--listen takes HOST:PORT, such as 0.0.0.0:7443');
	for (const file of [certFile, keyFile]) if (file !== undefined && !existsSync(file)) throw usage(`there is no file ${file}`);
	return { host: host.replace(/^\[|\]$/g, ''), port: portOption(port, '--listen') ?? 0, names, certFile, keyFile };
}

function storeOption(url: string | null): string | null {
	if (url === null) return null;
	try {
		storePlace(url);
		return url;
	} catch (error) {
		throw usage((error as Error).message);
	}
}
