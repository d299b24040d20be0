import type { Clock } from '#clock/clock.ts';
import { toJson, type Database } from './database.ts';
import type { EventFeed } from './events.ts';

export interface SecretRow {
	app: string;
	environment: string;
	name: string;
	version: number;
	/** Of the master key that it is sealed under. */
	keyId: string;
	createdAt: number;
	by: string;
	/** Versions before it are revoked as soon as nothing runs that has them. */
	revokesOlder: boolean;
	revokedAt: number | null;
}

/** A value under its own key, and that under a master key. */
export interface SealedSecret {
	ciphertext: Buffer;
	wrapped: Buffer;
	keyId: string;
}

/** Secrets of apps, as nobody can read them without the master key. */
export interface Secrets {
	/** Answers the new version's number. */
	set(of: SealedSecret & { app: string; environment: string; name: string; by: string; revokesOlder: boolean }): Promise<number>;
	/** Without those that were removed, newest version first; null: of all apps. */
	list(of: { app: string; environment: string } | null): Promise<SecretRow[]>;
	/** null: revoked, removed, or never there. */
	sealed(of: { app: string; environment: string; name: string; version: number }): Promise<SealedSecret | null>;
	/** Ends versions before `below` (null: all) that no run list names a release with; answers those it ended. Their values are gone. */
	revoke(of: { app: string; environment: string; name: string; below: number | null; removed: boolean; by: string }): Promise<number[]>;
	/** Id of the master key in use; null: there was none yet. */
	masterKey(): Promise<string | null>;
	/**
	 * This master key instead of that one; null when another is in use by now. With `lost` all that is sealed under others is
	 * revoked: answers which.
	 */
	useMasterKey(of: {
		id: string;
		instead: string | null;
		lost: boolean;
		by: string;
	}): Promise<{ app: string; environment: string; name: string }[] | null>;
	/** Some of what is still sealed under other master keys. */
	wrappedByOthers(
		keyId: string,
		limit: number,
	): Promise<(SealedSecret & { app: string; environment: string; name: string; version: number })[]>;
	rewrap(of: { of: { app: string; environment: string; name: string; version: number }; keyId: string; wrapped: Buffer }): Promise<void>;
}

export class SecretTable implements Secrets {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly events: EventFeed;

	constructor(db: Database, clock: Clock, events: EventFeed) {
		this.db = db;
		this.clock = clock;
		this.events = events;
	}

	async set(of: Parameters<Secrets['set']>[0]): Promise<number> {
		const { ciphertext, wrapped, ...rest } = of;
		const row = { ...rest, ciphertext: ciphertext.toString('base64'), wrapped: wrapped.toString('base64'), at: this.clock.now() };
		const version = await this.db.call<number>('jibe_set_secret', 'select jibe.set_secret($1)', [toJson(row)]);
		this.events.hint();
		return version;
	}

	async list(of: { app: string; environment: string } | null): Promise<SecretRow[]> {
		let query = this.db.build
			.selectFrom('jibe.secret')
			.select(['app', 'environment', 'name', 'version', 'key_id', 'created_at', 'by', 'revokes_older', 'revoked_at'])
			.where('removed_at', 'is', null)
			.orderBy('app')
			.orderBy('environment')
			.orderBy('name')
			.orderBy('version', 'desc');
		if (of) query = query.where('app', '=', of.app).where('environment', '=', of.environment);
		const rows = await this.db.rows(query);
		return rows.map(({ key_id: keyId, created_at: createdAt, revokes_older: revokesOlder, revoked_at: revokedAt, ...row }) => ({
			...row,
			keyId,
			createdAt,
			revokesOlder,
			revokedAt,
		}));
	}

	async sealed({ app, environment, name, version }: { app: string; environment: string; name: string; version: number }) {
		const [row] = await this.db.rows(
			this.db.build
				.selectFrom('jibe.secret')
				.select(['ciphertext', 'wrapped', 'key_id'])
				.where('app', '=', app)
				.where('environment', '=', environment)
				.where('name', '=', name)
				.where('version', '=', version),
		);
		if (!row?.ciphertext || !row.wrapped) return null;
		return { ciphertext: row.ciphertext, wrapped: row.wrapped, keyId: row.key_id };
	}

	async revoke(of: Parameters<Secrets['revoke']>[0]): Promise<number[]> {
		const asked = toJson({ ...of, at: this.clock.now() });
		const versions = await this.db.call<number[]>('jibe_revoke_secret', 'select jibe.revoke_secret($1)', [asked]);
		this.events.hint();
		return versions;
	}

	async masterKey(): Promise<string | null> {
		const [row] = await this.db.rows(this.db.build.selectFrom('jibe.master_key').select('id').where('retired_at', 'is', null));
		return row?.id ?? null;
	}

	async useMasterKey(of: Parameters<Secrets['useMasterKey']>[0]): ReturnType<Secrets['useMasterKey']> {
		return this.db.call('jibe_use_master_key', 'select jibe.use_master_key($1)', [toJson({ ...of, at: this.clock.now() })]);
	}

	async wrappedByOthers(keyId: string, limit: number): Promise<(SealedSecret & Parameters<Secrets['rewrap']>[0]['of'])[]> {
		const rows = await this.db.rows(
			this.db.build
				.selectFrom('jibe.secret')
				.select(['app', 'environment', 'name', 'version', 'ciphertext', 'wrapped', 'key_id'])
				.where('key_id', '!=', keyId)
				.where('wrapped', 'is not', null)
				.limit(limit),
		);
		return rows.flatMap(({ ciphertext, wrapped, key_id: of, ...row }) =>
			ciphertext && wrapped ? [{ ...row, ciphertext, wrapped, keyId: of }] : [],
		);
	}

	async rewrap({ of, keyId, wrapped }: Parameters<Secrets['rewrap']>[0]): Promise<void> {
		await this.db.rows(
			this.db.build
				.updateTable('jibe.secret')
				.set({ wrapped, key_id: keyId })
				.where('app', '=', of.app)
				.where('environment', '=', of.environment)
				.where('name', '=', of.name)
				.where('version', '=', of.version)
				// One that was revoked meanwhile stays unreadable.
				.where('wrapped', 'is not', null),
		);
	}
}
