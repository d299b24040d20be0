import type { Clock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { ServerLink } from '#wire/accept.ts';
import type { LogLines } from '#wire/region.ts';

/** Log lines that somebody reads: asked of each region's agents, ended when they end it, or the reader does. */

/** Agents answer what they have at once; one that does not must not keep a reader waiting. */
const ANSWER_LIMIT_MS = 10_000;

export interface LogsQuery {
	regions: readonly string[];
	app: string;
	environment: string;
	since: number;
	follow: boolean;
	maxLines: number;
	onLines(lines: LogLines['lines']): void;
	onEnd(): void;
}

interface Follow {
	link: ServerLink;
	onLines(lines: LogLines['lines']): void;
	onEnd(): void;
}

export class Follows {
	private readonly follows = new Map<string, Follow>();
	private readonly clock: Clock;

	constructor(clock: Clock) {
		this.clock = clock;
	}

	start(query: LogsQuery, linkOf: (region: string) => ServerLink | null): () => void {
		const { app, environment, since, follow, maxLines } = query;
		const open = new Set<string>();
		const ended = (id: string) => {
			this.follows.delete(id);
			if (!open.delete(id) || open.size > 0) return;
			limit.cancel();
			query.onEnd();
		};
		const limit = this.clock.after(follow ? 2 ** 31 - 1 : ANSWER_LIMIT_MS, () => stop(), { idle: true });
		const stop = () => {
			for (const id of open) this.follows.get(id)?.link.send({ type: 'logsDone', id });
			for (const id of open) ended(id);
		};
		const asked = query.regions.flatMap((region) => {
			const link = linkOf(region);
			return link ? [{ id: randomId(12), region, link }] : [];
		});
		for (const { id, link } of asked) {
			open.add(id);
			this.follows.set(id, { link, onLines: (lines) => query.onLines(lines), onEnd: () => ended(id) });
		}
		for (const { id, region, link } of asked) {
			if (!link.send({ type: 'logsWanted', id, region, app, environment, since, follow, maxLines })) ended(id);
		}
		if (asked.length === 0) {
			limit.cancel();
			query.onEnd();
		}
		return stop;
	}

	lines(message: LogLines): void {
		const follow = this.follows.get(message.id);
		if (message.lines.length > 0) follow?.onLines(message.lines);
		if (message.end) follow?.onEnd();
	}

	linkGone(link: ServerLink): void {
		for (const follow of this.follows.values()) if (follow.link === link) follow.onEnd();
	}

	close(): void {
		for (const follow of this.follows.values()) follow.onEnd();
	}
}
