import type { Database } from './database.ts';
import type { DatabaseFacts } from './state.ts';

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
