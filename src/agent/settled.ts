import { compareVersions, wantKey, type DownMessage, type Known } from '#wire/region.ts';

type SettledMessage = Extract<DownMessage, { type: 'settled' }>;

/**
 * What is settled where a region has several depots. Each speaks for the edges that have a link to it, so that only what
 * all of them say holds for all edges; one that has no edge at all is not waited for, nor one that is away: its edges have
 * links to the others, and those that do not are out of everybody's reach.
 */
export class SettledByAll {
	readonly #depots = new Map<string, { edges: number | null; items: Map<string, Known> }>();
	readonly #told = new Map<string, Known>();
	readonly #tell: (items: Known[]) => void;

	constructor(tell: (items: Known[]) => void) {
		this.#tell = tell;
	}

	/** A link is up: until the depot has said how many edges it has, nothing is settled. */
	up(depot: string): void {
		this.#depots.set(depot, { edges: null, items: new Map() });
	}

	down(depot: string): void {
		if (this.#depots.delete(depot)) this.#look();
	}

	said(depot: string, { items, edges }: SettledMessage): void {
		const theirs = this.#depots.get(depot) ?? { edges: null, items: new Map<string, Known>() };
		this.#depots.set(depot, theirs);
		theirs.edges = edges ?? Math.max(1, theirs.edges ?? 1);
		for (const item of items) {
			const before = theirs.items.get(wantKey(item));
			if (!before || compareVersions(item, before) > 0) theirs.items.set(wantKey(item), item);
		}
		this.#look(items);
	}

	/** `said`: told again also where nothing is new, because what it is about may have come in between. */
	#look(said: readonly Known[] = []): void {
		const speaking = [...this.#depots.values()].filter(({ edges }) => edges !== 0);
		const [first, ...others] = speaking;
		const again = new Set(said.map(wantKey));
		const news: Known[] = [];
		for (const [key, item] of first?.items ?? []) {
			let oldest: Known | null = item;
			for (const { items } of others) oldest = older(oldest, items.get(key));
			const told = this.#told.get(key);
			const order = oldest && told ? compareVersions(oldest, told) : 1;
			if (!oldest || order < 0 || (order === 0 && !again.has(key))) continue;
			this.#told.set(key, oldest);
			news.push(oldest);
		}
		if (news.length > 0) this.#tell(news);
	}
}

/** Null: one of them has said nothing of it. */
function older(a: Known | null, b: Known | undefined): Known | null {
	if (!a || !b) return null;
	return compareVersions(a, b) < 0 ? a : b;
}
