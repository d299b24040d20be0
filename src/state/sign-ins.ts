import { randomInt, timingSafeEqual } from 'node:crypto';
import { sql } from 'kysely';
import type { Clock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import type { Token } from '#wire/api.ts';
import { CODE_LENGTH, CODE_LETTERS, tokenIdOf } from '#wire/sign-in.ts';
import { auditEntry } from './audit.ts';
import type { Database } from './database.ts';
import { packDigests } from './digests.ts';
import type { TokenRole } from './state.ts';

/** For a person to find the page and read what it says. */
export const SIGN_IN_LIFE_MS = 5 * 60_000;
/** Of all that wait, and of those from one address: nobody has shown yet who they are. */
export const MAX_SIGN_INS = 200;
export const MAX_SIGN_INS_OF_ADDRESS = 20;
const CODE_TRIES = 3;

export interface SignIns {
	/** null: too many wait already. */
	begin(of: { token: string; hash: Digest; machine: string; address: string }): Promise<{ code: string; expiresAt: number } | null>;
	/** How it stands with the one that this token was made for; null: there is none, or it was made with another. */
	look(secret: string): Promise<'waiting' | 'allowed' | 'denied' | 'expired' | null>;
	/** What waits under this code; null: nothing, or no more. */
	waiting(code: string): Promise<{ token: string; machine: string; address: string; expiresAt: number } | null>;
	/** Once: the hash becomes a token with this role, with the apps, environments and end of `parent`. null: it waits no more. */
	allow(code: string, of: { parent: Token; role: TokenRole; by: string }): Promise<Token['name'] | null>;
	deny(code: string, by: string): Promise<boolean>;
}

export class SignInTable implements SignIns {
	private readonly db: Database;
	private readonly clock: Clock;

	constructor(db: Database, clock: Clock) {
		this.db = db;
		this.clock = clock;
	}

	async begin(of: { token: string; hash: Digest; machine: string; address: string }): Promise<{ code: string; expiresAt: number } | null> {
		const now = this.clock.now();
		const expiresAt = now + SIGN_IN_LIFE_MS;
		const [count] = await this.db.rows(
			this.db.build
				.selectFrom('jibe.sign_in')
				.select([
					sql<number>`count(*)::integer`.as('all'),
					sql<number>`count(*) filter (where address = ${of.address})::integer`.as('here'),
				])
				.where('expires_at', '>', now),
		);
		if (!count || count.all >= MAX_SIGN_INS || count.here >= MAX_SIGN_INS_OF_ADDRESS) return null;
		const { token, machine, address } = of;
		for (let tried = 0; tried < CODE_TRIES; tried++) {
			const code = Array.from({ length: CODE_LENGTH }, () => CODE_LETTERS[randomInt(CODE_LETTERS.length)]).join('');
			const made = await this.db.rows(
				this.db.build
					.insertInto('jibe.sign_in')
					.values({ token, code, hash: packDigests([of.hash]), machine, address, expires_at: expiresAt, denied: false })
					.onConflict((conflict) => conflict.doNothing())
					.returning('code'),
			);
			if (made.length > 0) return { code, expiresAt };
		}
		return null;
	}

	async look(secret: string): Promise<'waiting' | 'allowed' | 'denied' | 'expired' | null> {
		const id = tokenIdOf(secret);
		if (id === null) return null;
		const hash = packDigests([sha256(secret)]);
		const [row] = await this.db.rows(this.db.build.selectFrom('jibe.sign_in').selectAll().where('token', '=', id));
		if (row) {
			if (!timingSafeEqual(row.hash, hash)) return null;
			return row.denied ? 'denied' : row.expires_at <= this.clock.now() ? 'expired' : 'waiting';
		}
		const [token] = await this.db.rows(this.db.build.selectFrom('jibe.token').select('hash').where('id', '=', id));
		return token && timingSafeEqual(token.hash, hash) ? 'allowed' : null;
	}

	async waiting(code: string): Promise<{ token: string; machine: string; address: string; expiresAt: number } | null> {
		const [row] = await this.db.rows(
			this.db.build
				.selectFrom('jibe.sign_in')
				.select(['token', 'machine', 'address', 'expires_at as expiresAt'])
				.where('code', '=', code)
				.where('denied', '=', false)
				.where('expires_at', '>', this.clock.now()),
		);
		return row ?? null;
	}

	allow(code: string, { parent, role, by }: { parent: Token; role: TokenRole; by: string }): Promise<string | null> {
		const at = this.clock.now();
		const { apps, environments, expiresAt } = parent;
		return this.db.transaction(async (rows) => {
			// Held, so that a parent which is revoked at this moment takes this one along.
			const [alive] = await rows(
				this.db.build.selectFrom('jibe.token').select('id').where('id', '=', parent.id).where('revoked_at', 'is', null).forShare(),
			);
			if (!alive) return null;
			const [row] = await rows(
				this.db.build
					.deleteFrom('jibe.sign_in')
					.where('code', '=', code)
					.where('denied', '=', false)
					.where('expires_at', '>', at)
					.returning(['token', 'hash', 'machine', 'address']),
			);
			if (!row) return null;
			const { token: id, hash, machine, address } = row;
			const name = `login from ${machine}`;
			const ends = { created_at: at, expires_at: expiresAt, revoked_at: null, last_used_at: null };
			const made = await rows(
				this.db.build
					.insertInto('jibe.token')
					.values({ id, name, role, apps, environments, hash, parent: parent.id, ...ends })
					.onConflict((conflict) => conflict.doNothing())
					.returning('id'),
			);
			if (made.length === 0) return null;
			const detail = { token: id, name, role, apps, environments, parent: parent.id, address };
			await rows(auditEntry(this.db, { at, by, action: 'sign_in.allowed', app: null, environment: null, detail }));
			return name;
		});
	}

	deny(code: string, by: string): Promise<boolean> {
		const at = this.clock.now();
		return this.db.transaction(async (rows) => {
			const [row] = await rows(
				this.db.build
					.updateTable('jibe.sign_in')
					.set({ denied: true })
					.where('code', '=', code)
					.where('denied', '=', false)
					.where('expires_at', '>', at)
					.returning(['token', 'machine', 'address']),
			);
			if (row) await rows(auditEntry(this.db, { at, by, action: 'sign_in.denied', app: null, environment: null, detail: row }));
			return row !== undefined;
		});
	}
}
