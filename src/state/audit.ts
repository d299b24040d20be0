import type { Database } from './database.ts';
import type { Audit, AuditEntry } from './state.ts';

type Entry = Omit<AuditEntry, 'id'>;

export class AuditTable implements Audit {
	private readonly db: Database;

	constructor(db: Database) {
		this.db = db;
	}

	async write(entry: Entry): Promise<void> {
		await this.db.rows(auditEntry(this.db, entry));
	}

	list(of: { app?: string; limit: number; before?: number }): Promise<AuditEntry[]> {
		let query = this.db.build.selectFrom('jibe.audit').selectAll().orderBy('id', 'desc').limit(of.limit);
		if (of.app !== undefined) query = query.where('app', '=', of.app);
		if (of.before !== undefined) query = query.where('id', '<', of.before);
		return this.db.rows(query);
	}
}

/** The statement that writes an entry: for the transaction of the change that it records. */
export function auditEntry(db: Database, entry: Entry) {
	return db.build.insertInto('jibe.audit').values({ ...entry, detail: JSON.stringify(entry.detail) as unknown as Record<string, unknown> });
}
