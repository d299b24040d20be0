import { availableParallelism } from 'node:os';
import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { bear, type InstanceProcess, type ProcessSurroundings, type Template } from './instance-process.ts';

/**
 * Idle processes, warmed up for one (app, environment) as its next release will most likely need them. Filled only
 * while nothing is being deployed, a few at a time and at low priority: 24 of them take two cores for seconds.
 */
export interface Pool {
	/** A process of this template: an idle one, one that is just warming up, or a new one (`cold`). @throws ProcessEnded, WarmUpTimeout */
	take(template: Template): Promise<{ process: InstanceProcess; cold: boolean }>;
	/** How many to hold of this template; others of its app are thrown away. Takes effect once it is quiet. */
	want(template: Template, count: number): void;
	/** An idle process that an earlier agent left. */
	adopt(process: InstanceProcess): void;
	/** All idle processes of an app, or of every app. Resolves with how many there were. */
	drop(of?: { app: string; environment: string }): Promise<number>;
	/** Something is going on: no filling until it is over. */
	hold(): () => void;
	idle(): InstanceProcess[];
	close(): void;
}

interface Wanted {
	template: Template;
	count: number;
}

interface Idle {
	key: string;
	app: string;
	environment: string;
	born: Promise<InstanceProcess>;
	process: InstanceProcess | null;
	/** `hurried`: somebody waits for it. */
	haste: { hurried: boolean };
}

const QUIET_MS = 150;
/**
 * How many processes of one app warm up at once. 24 together would all be ready at the end only, and on a busy machine
 * none of them within its 30 s; those that wait their turn have not begun to use theirs up.
 */
const BIRTHS_AT_ONCE = 2 * availableParallelism();
/** Whoever deploys again after some seconds finds all of them. */
const FILL_AT_ONCE = Math.min(4, availableParallelism());
const FILL_RETRY_MS = 5_000;

export function createPool(of: { around: ProcessSurroundings; clock: Clock; log: Log }): Pool {
	const { around, clock, log } = of;
	const wanted = new Map<string, Wanted>();
	const idles = new Set<Idle>();
	const births = new Map<string, { going: number; waiting: (() => void)[] }>();
	let holds = 0;
	let timer: Timer | null = null;
	let filling = false;
	let closed = false;

	function begin(template: Template, hurried: boolean): Idle {
		const { key, app, environment } = template;
		const haste = { hurried };
		const idle: Idle = { key, app, environment, process: null, haste, born: bearInTurn(template, () => haste.hurried) };
		idles.add(idle);
		idle.born.then(
			(process) => {
				idle.process = process;
				void process.ended.then(() => idles.delete(idle));
			},
			() => idles.delete(idle),
		);
		return idle;
	}

	async function bearInTurn(template: Template, hurried: () => boolean): Promise<InstanceProcess> {
		const place = `${template.app}/${template.environment}`;
		const line = births.get(place) ?? { going: 0, waiting: [] };
		births.set(place, line);
		if (line.going >= BIRTHS_AT_ONCE) await new Promise<void>((resolve) => line.waiting.push(resolve));
		else line.going++;
		try {
			return await bear(around, template, hurried);
		} finally {
			// Who waits takes over the turn.
			const next = line.waiting.shift();
			if (next) next();
			else if (--line.going === 0) births.delete(place);
		}
	}

	function soon(delayMs = QUIET_MS): void {
		timer?.cancel();
		timer = closed || holds > 0 ? null : clock.after(delayMs, () => void fill(), { idle: true });
	}

	async function fill(): Promise<void> {
		if (filling) return;
		filling = true;
		try {
			await Promise.all(Array.from({ length: FILL_AT_ONCE }, fillOneByOne));
		} catch (error) {
			log.warn('pool.birth_failed', { error });
			soon(FILL_RETRY_MS);
		} finally {
			filling = false;
		}
	}

	async function fillOneByOne(): Promise<void> {
		for (let next = short(); next && holds === 0 && !closed; next = short()) await begin(next, false).born;
	}

	function short(): Template | null {
		for (const { template, count } of wanted.values()) {
			if ([...idles].filter(({ key }) => key === template.key).length < count) return template;
		}
		return null;
	}

	async function discard(idle: Idle): Promise<void> {
		idles.delete(idle);
		await idle.born.then((process) => process.stop(0), () => {}); // prettier-ignore
	}

	return {
		async take(template) {
			const alike = [...idles].filter(({ key }) => key === template.key);
			const idle = alike.find(({ process }) => process !== null && !process.over) ?? alike[0];
			if (!idle) {
				const fresh = begin(template, true);
				idles.delete(fresh);
				return { process: await fresh.born, cold: true };
			}
			idles.delete(idle);
			idle.haste.hurried = true;
			const process = await idle.born;
			process.hurry();
			return { process, cold: false };
		},
		want(template, count) {
			wanted.set(`${template.app}/${template.environment}`, { template, count });
			for (const idle of idles) if (isOf(idle, template) && idle.key !== template.key) void discard(idle);
			const alike = [...idles].filter(({ key }) => key === template.key);
			for (const idle of alike.slice(count)) void discard(idle);
			soon();
		},
		adopt(process) {
			const { app, environment, pool: key } = process.record;
			const idle: Idle = { key, app, environment, born: Promise.resolve(process), process, haste: { hurried: false } };
			idles.add(idle);
			void process.ended.then(() => idles.delete(idle));
		},
		async drop(place) {
			if (place) wanted.delete(`${place.app}/${place.environment}`);
			const going = [...idles].filter((idle) => !place || isOf(idle, place));
			await Promise.all(going.map(discard));
			return going.length;
		},
		hold() {
			holds++;
			timer?.cancel();
			let held = true;
			return () => {
				if (held && --holds === 0) soon();
				held = false;
			};
		},
		idle: () => [...idles].flatMap(({ process }) => process ?? []),
		close() {
			closed = true;
			timer?.cancel();
		},
	};
}

function isOf(idle: Idle, place: { app: string; environment: string }): boolean {
	return idle.app === place.app && idle.environment === place.environment;
}
