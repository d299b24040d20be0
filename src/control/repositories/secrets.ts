import { secretsOf, type RepositoryRow } from '#state/repositories.ts';
import { REPOSITORY_SECRETS, type RepositorySecret } from '#wire/repositories.ts';
import type { House } from '../house.ts';

/** The secrets of repositories, opened: what webhooks are signed with is needed with each of them, and opening takes a while. */

export type Opened = Partial<Record<RepositorySecret, string>>;

const MAX_KEPT = 1_000;

export class RepositorySecrets {
	private readonly house: Pick<House, 'state' | 'secrets'>;
	private readonly kept = new Map<string, { version: number; opened: Opened }>();

	constructor(house: Pick<House, 'state' | 'secrets'>) {
		this.house = house;
	}

	/** @throws Refusal where the master key is not there */
	async open({ name, version }: Pick<RepositoryRow, 'name' | 'version'>): Promise<Opened> {
		const kept = this.kept.get(name);
		if (kept?.version === version) return kept.opened;
		const of = secretsOf(name);
		const rows = await this.house.state.secrets.list(of);
		const pins: Record<string, number> = {};
		// Newest first: the first of each is the one.
		for (const row of rows) if (row.revokedAt === null) pins[row.name] ??= row.version;
		const values = Object.keys(pins).length === 0 ? [] : await this.house.secrets.opened(of, pins);
		const opened = Object.fromEntries(values.map(({ name: of_, value }) => [of_, value]));
		if (this.kept.size >= MAX_KEPT) this.kept.clear();
		this.kept.set(name, { version, opened });
		return opened;
	}

	/** Which there are, without opening any. */
	async names(repository: string): Promise<RepositorySecret[]> {
		const rows = await this.house.state.secrets.list(secretsOf(repository));
		const there = new Set(rows.filter(({ revokedAt }) => revokedAt === null).map(({ name }) => name));
		return REPOSITORY_SECRETS.filter((name) => there.has(name));
	}

	/** null: it is to be no more. */
	async set(repository: string, name: RepositorySecret, value: string | null, by: string): Promise<void> {
		const of = secretsOf(repository);
		if (value === null) await this.house.state.secrets.revoke({ ...of, name, below: null, removed: true, by });
		else {
			const version = await this.house.secrets.set({ ...of, name, value, by, revokesOlder: true });
			await this.house.state.secrets.revoke({ ...of, name, below: version, removed: false, by });
		}
	}
}
