import { toJson, type Database } from './database.ts';
import type { EventFeed } from './events.ts';
import { StateError, type StateErrorCode } from './state.ts';

/**
 * What is asked of the queue at about the same time goes to PostgreSQL as one transaction, and whatever comes while that is
 * under way waits for the next: a commit costs as much as several claims. Each is answered once its own turn is committed; a
 * claim sees all that was asked before it.
 */
const MAX_TURN = 64;

type Kind = 'enqueues' | 'ends' | 'claims';

interface Asked {
	kind: Kind;
	parameter: object;
	resolve: (answer: unknown) => void;
	reject: (error: unknown) => void;
}

type Answers = Record<Kind, unknown[]> & { told: boolean };

export class Turns {
	readonly #db: Database;
	readonly #events: EventFeed;
	#waiting: Asked[] = [];
	#running = false;

	constructor(db: Database, events: EventFeed) {
		this.#db = db;
		this.#events = events;
	}

	/** It may be sent twice, and must come to the same. @throws StateError */
	ask<T>(kind: Kind, parameter: object): Promise<T> {
		return new Promise<T>((resolve, reject) => {
			this.#waiting.push({ kind, parameter, resolve: resolve as (answer: unknown) => void, reject });
			if (this.#running) return;
			this.#running = true;
			// Whatever arrives together is asked together.
			setImmediate(() => void this.#run());
		});
	}

	async #run(): Promise<void> {
		while (this.#waiting.length > 0) await this.#turn(this.#waiting.splice(0, MAX_TURN));
		this.#running = false;
	}

	async #turn(asked: readonly Asked[]): Promise<void> {
		const of = (kind: Kind) => asked.filter((one) => one.kind === kind);
		const [enqueues, ends, claims] = [of('enqueues'), of('ends'), of('claims')];
		const parameters = (of: Asked[]) => of.map(({ parameter }) => parameter);
		const turn = toJson({ enqueues: parameters(enqueues), ends: parameters(ends), claims: parameters(claims) });
		try {
			const answers = await this.#db.call<Answers>('jibe_build_turn', 'select jibe.build_turn($1)', [turn]);
			if (answers.told) this.#events.hint();
			for (const [i, one] of enqueues.entries()) answer(one, answers.enqueues[i]);
			for (const [i, one] of ends.entries()) answer(one, answers.ends[i]);
			for (const [i, one] of claims.entries()) answer(one, answers.claims[i]);
		} catch (error) {
			if (asked.length === 1 || (error instanceof StateError && error.code === 'database_unavailable')) {
				for (const one of asked) one.reject(error);
				return;
			}
			// One that PostgreSQL can't take must not cost the others their answer.
			for (const one of asked) await this.#turn([one]);
		}
	}
}

function answer({ resolve, reject }: Asked, said: unknown): void {
	const { refused, detail } = (said ?? {}) as { refused?: StateErrorCode; detail?: string };
	if (refused === undefined) resolve(said);
	else reject(new StateError(refused, detail ?? refused));
}
