import type { Clock } from '#clock/clock.ts';
import type { ServerLink } from '#wire/accept.ts';
import type { Control } from './control-links.ts';
import type { DownMessage, LogLines, Probed, UpMessage } from '#wire/region.ts';

/**
 * Questions of control that somebody in the region answers: a probe by one edge, log lines by every agent of the region.
 * Whoever of control's replicas asked gets the answer, and nobody else.
 */

type ProbeAsk = Extract<DownMessage, { type: 'probe' }>;
type LogsAsk = Extract<DownMessage, { type: 'logsWanted' }>;

const PROBES_MAX = 1_000;
const FOLLOWS_MAX = 200;

export class Asks {
	private readonly probes = new Map<string, { edge: ServerLink; control: Control }>();
	private readonly follows = new Map<string, { ask: LogsAsk; waiting: Set<ServerLink>; control: Control }>();
	private readonly clock: Clock;

	constructor(clock: Clock) {
		this.clock = clock;
	}

	/** Any connected edge of the region will do; `edges` are those. */
	probe(ask: ProbeAsk, edges: readonly ServerLink[], control: Control): void {
		const edge = edges[0];
		if (!edge) return void control.send(failedProbe(ask.id, `no edge of ${ask.region} is connected`));
		if (this.probes.size >= PROBES_MAX) return void control.send(failedProbe(ask.id, `${PROBES_MAX} probes are under way`));
		this.probes.set(ask.id, { edge, control });
		if (!edge.send(ask)) this.edgeGone(edge);
	}

	probed(message: Probed): void {
		this.probes.get(message.id)?.control.send(message);
		this.probes.delete(message.id);
	}

	edgeGone(edge: ServerLink): void {
		for (const [id, asked] of this.probes) {
			if (asked.edge !== edge) continue;
			this.probes.delete(id);
			asked.control.send(failedProbe(id, 'the edge that was asked went away'));
		}
	}

	logsWanted(ask: LogsAsk, agents: readonly ServerLink[], control: Control): void {
		if (agents.length === 0 || this.follows.size >= FOLLOWS_MAX) return void control.send(endOf(ask.id));
		this.follows.set(ask.id, { ask, waiting: new Set(agents), control });
		for (const agent of agents) if (!agent.send(ask)) this.agentGone(agent);
	}

	/** The end is passed on once the last agent has said it. */
	logLines(from: ServerLink, message: LogLines): void {
		const follow = this.follows.get(message.id);
		if (!follow) return;
		if (message.end) follow.waiting.delete(from);
		const end = follow.waiting.size === 0;
		if (end) this.follows.delete(message.id);
		if (end || message.lines.length > 0) follow.control.send({ ...message, end });
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
			follow.control.send(endOf(id));
		}
	}

	/** Nobody is there to hear its answers any more. */
	controlGone({ address }: Control): void {
		for (const [id, { control }] of this.probes) if (control.address === address) this.probes.delete(id);
		for (const [id, { control }] of this.follows) if (control.address === address) this.logsDone(id);
	}
}

function endOf(id: string): UpMessage {
	return { type: 'logLines', id, lines: [], end: true };
}

function failedProbe(id: string, error: string): Probed {
	return { type: 'probed', id, samples: [], error };
}
