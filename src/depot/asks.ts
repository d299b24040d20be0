import type { Clock } from '#clock/clock.ts';
import type { ServerLink } from '#wire/accept.ts';
import type { DownMessage, LogLines, Probed, UpMessage } from '#wire/region.ts';

/** Questions of control that somebody in the region answers: a probe by one edge, log lines by every agent of the region. */

type ProbeAsk = Extract<DownMessage, { type: 'probe' }>;
type LogsAsk = Extract<DownMessage, { type: 'logsWanted' }>;

const PROBES_MAX = 1_000;
const FOLLOWS_MAX = 200;

export class Asks {
	private readonly probes = new Map<string, ServerLink>();
	private readonly follows = new Map<string, { ask: LogsAsk; waiting: Set<ServerLink> }>();
	private readonly up: (message: UpMessage) => void;
	private readonly clock: Clock;

	constructor(options: { up: (message: UpMessage) => void; clock: Clock }) {
		this.up = options.up;
		this.clock = options.clock;
	}

	/** Any connected edge of the region will do; `edges` are those. */
	probe(ask: ProbeAsk, edges: readonly ServerLink[]): void {
		const edge = edges[0];
		if (!edge) return this.up(failedProbe(ask.id, `no edge of ${ask.region} is connected`));
		if (this.probes.size >= PROBES_MAX) return this.up(failedProbe(ask.id, `${PROBES_MAX} probes are under way`));
		this.probes.set(ask.id, edge);
		if (!edge.send(ask)) this.edgeGone(edge);
	}

	probed(message: Probed): void {
		if (this.probes.delete(message.id)) this.up(message);
	}

	edgeGone(edge: ServerLink): void {
		for (const [id, asked] of this.probes) {
			if (asked !== edge) continue;
			this.probes.delete(id);
			this.up(failedProbe(id, 'the edge that was asked went away'));
		}
	}

	logsWanted(ask: LogsAsk, agents: readonly ServerLink[]): void {
		if (agents.length === 0 || this.follows.size >= FOLLOWS_MAX) return this.up({ type: 'logLines', id: ask.id, lines: [], end: true });
		this.follows.set(ask.id, { ask, waiting: new Set(agents) });
		for (const agent of agents) if (!agent.send(ask)) this.agentGone(agent);
	}

	/** The end is passed on once the last agent has said it. */
	logLines(from: ServerLink, message: LogLines): void {
		const follow = this.follows.get(message.id);
		if (!follow) return;
		if (message.end) follow.waiting.delete(from);
		const end = follow.waiting.size === 0;
		if (end) this.follows.delete(message.id);
		if (end || message.lines.length > 0) this.up({ ...message, end });
	}

	logsDone(id: string): void {
		const follow = this.follows.get(id);
		this.follows.delete(id);
		for (const agent of follow?.waiting ?? []) agent.send({ type: 'logsDone', id });
	}

	/** An agent that is back goes on with what is followed; lines of its absence can be asked for with `since`. */
	agentJoined(agent: ServerLink): void {
		for (const follow of this.follows.values()) {
			if (!follow.ask.follow || !agent.hello.regions.includes(follow.ask.region)) continue;
			follow.waiting.add(agent);
			agent.send({ ...follow.ask, since: this.clock.now() });
		}
	}

	agentGone(agent: ServerLink): void {
		for (const [id, follow] of this.follows) {
			if (!follow.waiting.delete(agent) || follow.waiting.size > 0 || follow.ask.follow) continue;
			this.follows.delete(id);
			this.up({ type: 'logLines', id, lines: [], end: true });
		}
	}

	/** Nobody is there to hear the answers any more. */
	controlGone(): void {
		this.probes.clear();
		for (const id of this.follows.keys()) this.logsDone(id);
	}
}

function failedProbe(id: string, error: string): Probed {
	return { type: 'probed', id, samples: [], error };
}
