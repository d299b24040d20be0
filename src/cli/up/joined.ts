import { join } from 'node:path';
import { isoTime, pause, systemClock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import type { ServerIdentity } from '#wire/server-identity.ts';
import { EXIT, Failure } from '../failure.ts';
import { checkIn, expiresAt, identityDirectory, readIdentity } from './check-in.ts';
import { programReady } from './control.ts';
import type { Ground, Starting } from './ground.ts';
import { remember, type Layout } from './installation.ts';
import { OwnUpgrade, runsHere } from './own-upgrade.ts';
import { healthOf, type Program } from './programs.ts';
import { tellParent } from './told.ts';

/** What control says is waited for when everything else is ready; it may be away. */
const CONTROL_WITHIN_MS = 2_000;

/** A server that joined: the programs of its roles, and the papers that the others know it by. They go on without control. */
export class JoinedGround implements Ground {
	readonly data: string;
	readonly programs: readonly Program[];
	/** Control finds two machines with one identity within this time. */
	readonly lookEachMs = 120_000;
	readonly #layout: Layout;
	readonly #log: Log;
	#identity: ServerIdentity;
	/** All programs are of this version. */
	#runs = false;
	/** What was said of it last, so that it is said once. */
	#said: string | null = null;

	constructor(data: string, log: Log) {
		const identity = readIdentity(data);
		if (identity === null) throw new Failure('not_joined', EXIT.usage, `${data} is not the directory of a server that joined`);
		this.data = data;
		this.#log = log;
		this.#identity = identity;
		this.#layout = { data, regions: [identity.region], port: 0, edgePort: identity.edgePort, separate: false };
		this.programs = serverPrograms(data, identity);
	}

	remember(runs: Record<string, string>): void {
		remember(this.#layout, runs);
	}

	/** What it has from the last time is enough to begin with: a region must not need control to start again. */
	async open({ keepers, begin, replaceStale, given }: Starting): Promise<void> {
		tellParent({ now: 'Starting…' });
		const looked = this.look();
		// Off for a month, or before it was renewed in time: without papers its programs are nobody, and would only end.
		if (expiresAt(this.data).peers <= systemClock.now()) await looked;
		this.#refuseExpired();
		await Promise.all(keepers.map(begin));
		await replaceStale();
		for (const keeper of keepers) await programReady(keeper, given);
		await Promise.race([looked, pause(CONTROL_WITHIN_MS)]);
		this.#runs = true;
		await Promise.race([this.look(), pause(CONTROL_WITHIN_MS)]);
		const tell = () => this.look();
		new OwnUpgrade({ data: this.data, identity: () => this.#identity, log: this.#log, tell }).watch();
	}

	health(program: Program): ReturnType<Ground['health']> {
		return healthOf(program, this.#layout);
	}

	/** Checks in. What control has against this server is said; its programs are refused by whom they speak to, and run on. */
	async look(): Promise<void> {
		try {
			const { identity, warning } = await checkIn(this.data, this.#identity, this.#runs ? runsHere(this.data) : undefined);
			this.#identity = identity;
			this.#say(warning);
		} catch (error) {
			const { message, hint } = wordsOf(error);
			this.#say(`${message}${hint === null ? '' : ` (${hint.replaceAll('\n', '; ')})`}`);
			this.#log.warn('check_in', { error });
		}
	}

	describe(): ReturnType<Ground['describe']> {
		const { region, server, control, edgePort, host, roles } = this.#identity;
		const url = `http://${host.includes(':') ? `[${host}]` : host}:${edgePort}`;
		return {
			url: control[0] ?? '',
			edgeUrl: url,
			regions: roles.includes('edge') ? [{ name: region, url }] : [],
			data: this.data,
			server,
			region,
		};
	}

	#refuseExpired(): void {
		const expired = expiresAt(this.data).peers;
		if (expired > systemClock.now()) return;
		const { server, region } = this.#identity;
		throw new Failure('certificate_expired', EXIT.jibe, `the certificate of ${server} expired on ${isoTime(expired)}`, {
			hint: `${this.#said ?? 'control could not be asked for another'}\nit joins again by the line of: jibe server add --region ${region} --name ${server}`,
		});
	}

	#say(line: string | null): void {
		if (line !== null && line !== this.#said) tellParent({ said: `! ${line}` });
		this.#said = line;
	}
}

function wordsOf(error: unknown): { message: string; hint: string | null } {
	const goesOn = 'it is asked again every 2 min; what runs here goes on';
	if (!(error instanceof Failure)) return { message: `control could not be asked: ${String(error)}`, hint: goesOn };
	return error.code === 'unreachable' ? { message: error.message, hint: goesOn } : error;
}

const EDGES = 2;

/** The programs of a joined server, by its roles. */
export function serverPrograms(data: string, identity: ServerIdentity): Program[] {
	const { server, region, roles } = identity;
	const everywhere = identity.host.includes(':') ? '::' : '0.0.0.0';
	const program = (role: Program['role'], name: string, more: Record<string, unknown>): Program => {
		const credentialFile = join(data, 'credentials', `${role}.json`);
		const depotSocket = join(runDirectory(data), 'depot.sock');
		const own = { data, name, server, depotSocket, credentialFile, regions: [region], identity: identityDirectory(data) };
		const settings = { ...own, ...more };
		return { role, name, label: name === role ? null : name, settings, regions: [region], credentialFile, server };
	};
	const depot = () => program('depot', 'depot', { upstreams: identity.control, listen: { host: everywhere, port: identity.depotPort } });
	const agent = () => program('agent', 'agent', { listen: { host: everywhere, port: identity.agentPort } });
	const builder = () => program('builder', 'builder-0', { upstreams: identity.control });
	const edge = (n: number) => program('edge', `edge-${n}`, { regions: [{ name: region, port: identity.edgePort }], host: everywhere });
	return [
		...(roles.includes('depot') ? [depot()] : []),
		...(roles.includes('agent') ? [agent()] : []),
		...(roles.includes('builder') ? [builder()] : []),
		...(roles.includes('edge') ? Array.from({ length: EDGES }, (_, n) => edge(n)) : []),
	];
}
