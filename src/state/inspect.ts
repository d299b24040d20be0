import type { Database } from './database.ts';

export interface DatabaseFacts {
	version: string;
	/** 180004 is 18.4. */
	versionNumber: number;
	inRecovery: boolean;
	fsync: boolean;
	fullPageWrites: boolean;
	synchronousCommit: string;
	readOnly: boolean;
	maxConnections: number;
	connections: number;
	bytes: number;
	/** Its wall clock. */
	at: number;
	/** How long the oldest transaction of anybody has been open. */
	oldestTransactionMs: number;
}

/** What PostgreSQL says of itself, for `jibe doctor`. */
export function inspect(db: Database): Promise<DatabaseFacts> {
	return db.call(
		'jibe_inspect',
		`select jsonb_build_object(
			'version', current_setting('server_version'),
			'versionNumber', current_setting('server_version_num')::integer,
			'inRecovery', pg_is_in_recovery(),
			'fsync', current_setting('fsync') = 'on',
			'fullPageWrites', current_setting('full_page_writes') = 'on',
			'synchronousCommit', current_setting('synchronous_commit'),
			'readOnly', current_setting('default_transaction_read_only') = 'on',
			'maxConnections', current_setting('max_connections')::integer,
			'connections', (select count(*) from pg_stat_activity where backend_type = 'client backend'),
			'bytes', pg_database_size(current_database()),
			'at', floor(extract(epoch from clock_timestamp()) * 1000),
			'oldestTransactionMs', (select coalesce(max(floor(extract(epoch from clock_timestamp() - xact_start) * 1000)), 0)
				from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()))`,
		[],
	);
}
