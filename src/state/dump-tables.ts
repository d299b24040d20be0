/** What of the database a backup does not carry. */

/** The installation's row goes by itself; the schema is made by migrations; the rest is of this moment and these processes only. */
export const LEFT_OUT: ReadonlySet<string> = new Set([
	'installation', 'migration', 'transition', 'login_code', 'session', 'sign_in', 'join_token', 'replica', 'control_address',
	'package', 'server_package', 'build_log', 'step_entry', 'step_run', 'delivery', 'commit_status',
]); // prettier-ignore

const KEYS: ReadonlySet<string> = new Set(['private_pem', 'public_pem', 'ca_key', 'ca_certificate']);

/** The installation's row without what signs for it. */
export function keysLeftOut(row: Readonly<Record<string, unknown>>): Record<string, unknown> {
	return Object.fromEntries(Object.entries(row).filter(([name]) => !KEYS.has(name)));
}
