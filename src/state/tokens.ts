import { timingSafeEqual } from 'node:crypto';
import type { Clock } from '#clock/clock.ts';
import { randomSecret, sha256 } from '#digest/digest.ts';
import type { Token } from '#wire/api.ts';
import { newToken, tokenIdOf } from '#wire/sign-in.ts';
import { auditEntry } from './audit.ts';
import { packDigests } from './digests.ts';
import type { Database } from './database.ts';
import type { NewToken, Tokens } from './state.ts';
import type { Tables } from './tables.ts';

const CODE_LIFE_MS = 5 * 60_000;
const SESSION_LIFE_MS = 12 * 3_600_000;
/** `lastUsedAt` is for people: a write a minute is enough. */
const TOUCH_EACH_MS = 60_000;

export interface Logins {
	/** A code that signs a browser in as this token, once, within 5 min. */
	createCode(tokenId: string): Promise<{ code: string; expiresAt: number }>;
	/** A session for the code; null when it was used, has expired, or never was. */
	redeem(code: string): Promise<{ session: string; expiresAt: number; token: Token } | null>;
	/** Whose session it is; null when it has ended. */
	session(secret: string): Promise<Token | null>;
	end(secret: string): Promise<void>;
}

/** Secrets are 256 random bits and stored as their SHA-256: the id within finds the row, the hash is compared in constant time. */
export class TokenTable implements Tokens {
	private readonly db: Database;
	private readonly clock: Clock;

	constructor(db: Database, clock: Clock) {
		this.db = db;
		this.clock = clock;
	}

	async create(of: NewToken): Promise<{ token: Token; secret: string }> {
		const { id, secret } = newToken();
		const at = this.clock.now();
		const { name, role, apps, environments, expiresAt, by } = of;
		const row = {
			id,
			name,
			role,
			apps,
			environments,
			hash: hashOf(secret),
			created_at: at,
			expires_at: expiresAt,
			revoked_at: null,
			last_used_at: null,
			parent: null,
		};
		await this.db.transaction(async (rows) => {
			await rows(
				this.db.build
					.insertInto('jibe.token')
					.values(row)
					.onConflict((conflict) => conflict.doNothing()),
			);
			await rows(
				auditEntry(this.db, {
					at,
					by,
					action: 'token.created',
					app: null,
					environment: null,
					detail: { token: id, name, role, apps, environments },
				}),
			);
		});
		return { token: tokenOf(row), secret };
	}

	async verify(secret: string): Promise<Token | null> {
		const id = tokenIdOf(secret);
		if (id === null) return null;
		const [row] = await this.db.rows(this.db.build.selectFrom('jibe.token').selectAll().where('id', '=', id));
		if (!row || !timingSafeEqual(row.hash, hashOf(secret))) return null;
		return this.used(row);
	}

	async list(): Promise<Token[]> {
		const rows = await this.db.rows(this.db.build.selectFrom('jibe.token').selectAll().orderBy('created_at').orderBy('id'));
		return rows.map(tokenOf);
	}

	revoke(id: string, by: string): Promise<boolean> {
		const at = this.clock.now();
		return this.db.transaction(async (rows) => {
			const [revoked] = await rows(this.end(id, at));
			if (!revoked) return false;
			const ended = [id];
			for (let parents = ended; parents.length > 0;) {
				const children = await rows(this.db.build.selectFrom('jibe.token').select('id').where('parent', 'in', parents));
				parents = children.map((child) => child.id);
				for (const child of parents) await rows(this.end(child, at));
				ended.push(...parents);
			}
			await rows(this.db.build.deleteFrom('jibe.session').where('token', 'in', ended));
			await rows(this.db.build.deleteFrom('jibe.login_code').where('token', 'in', ended));
			await rows(auditEntry(this.db, { at, by, action: 'token.revoked', app: null, environment: null, detail: { token: id } }));
			return true;
		});
	}

	private end(id: string, at: number) {
		const { build } = this.db;
		return build.updateTable('jibe.token').set({ revoked_at: at }).where('id', '=', id).where('revoked_at', 'is', null).returning('id');
	}

	/** The token, unless it has ended; `lastUsedAt` follows lazily. */
	async used(row: Tables['jibe.token']): Promise<Token | null> {
		const now = this.clock.now();
		if (row.revoked_at !== null || (row.expires_at !== null && row.expires_at <= now)) return null;
		if (now - (row.last_used_at ?? 0) < TOUCH_EACH_MS) return tokenOf(row);
		await this.db.rows(this.db.build.updateTable('jibe.token').set({ last_used_at: now }).where('id', '=', row.id));
		return tokenOf({ ...row, last_used_at: now });
	}
}

/** One-time codes that sign a browser in as a token, and the sessions they become. */
export class LoginTable implements Logins {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly tokens: TokenTable;

	constructor(db: Database, clock: Clock, tokens: TokenTable) {
		this.db = db;
		this.clock = clock;
		this.tokens = tokens;
	}

	async createCode(tokenId: string): Promise<{ code: string; expiresAt: number }> {
		const code = randomSecret();
		const expiresAt = this.clock.now() + CODE_LIFE_MS;
		await this.db.rows(
			this.db.build
				.insertInto('jibe.login_code')
				.values({ hash: hashOf(code), token: tokenId, expires_at: expiresAt })
				.onConflict((conflict) => conflict.doNothing()),
		);
		return { code, expiresAt };
	}

	async redeem(code: string): Promise<{ session: string; expiresAt: number; token: Token } | null> {
		const now = this.clock.now();
		const session = randomSecret();
		const expiresAt = now + SESSION_LIFE_MS;
		const id = await this.db.transaction(async (rows) => {
			const [used] = await rows(
				this.db.build.deleteFrom('jibe.login_code').where('hash', '=', hashOf(code)).returning(['token', 'expires_at']),
			);
			if (!used || used.expires_at <= now) return null;
			await rows(this.db.build.insertInto('jibe.session').values({ hash: hashOf(session), token: used.token, expires_at: expiresAt }));
			return used.token;
		});
		if (id === null) return null;
		const token = await this.tokenById(id);
		return token && { session, expiresAt, token };
	}

	async session(secret: string): Promise<Token | null> {
		const [row] = await this.db.rows(
			this.db.build
				.selectFrom('jibe.session')
				.select('token')
				.where('hash', '=', hashOf(secret))
				.where('expires_at', '>', this.clock.now()),
		);
		return row ? this.tokenById(row.token) : null;
	}

	async end(secret: string): Promise<void> {
		await this.db.rows(this.db.build.deleteFrom('jibe.session').where('hash', '=', hashOf(secret)));
	}

	private async tokenById(id: string): Promise<Token | null> {
		const [row] = await this.db.rows(this.db.build.selectFrom('jibe.token').selectAll().where('id', '=', id));
		return row ? this.tokens.used(row) : null;
	}
}

function hashOf(secret: string): Buffer {
	return packDigests([sha256(secret)]);
}

function tokenOf(row: Tables['jibe.token']): Token {
	const { id, name, role, apps, environments } = row;
	return {
		id,
		name,
		role,
		apps,
		environments,
		createdAt: row.created_at,
		expiresAt: row.expires_at,
		revokedAt: row.revoked_at,
		lastUsedAt: row.last_used_at,
	};
}
