import type { Digest } from '#digest/digest.ts';
import type { ColumnType, GeneratedAlways } from 'kysely';
import type { RegionOutcome } from '#wire/api.ts';
import type { AppConfig } from '#wire/config.ts';
import type { ReleaseSpec, Role } from '#wire/region.ts';

/** The tables of `sql/`, as the query builder sees them. Deployments, wants and events are written by functions of `sql/` alone. */
export interface Tables {
	'jibe.installation': {
		one: ColumnType<boolean, never, never>;
		id: string;
		epoch: number;
		private_pem: string;
		public_pem: string;
		created_at: number;
		timeline: string | null;
		pruned_cursor: ColumnType<number, never, number>;
		ca_certificate: string | null;
		ca_key: string | null;
		servers_version: ColumnType<number, never, number>;
	};
	'jibe.server': {
		name: string;
		region: string;
		roles: Role[];
		labels: string[];
		host: string;
		depot_port: number | null;
		agent_port: number | null;
		edge_port: number | null;
		spki: string;
		joined_at: number;
		certificate_expires: number;
		draining: boolean;
		conflict: string | null;
		ticket: string;
		ticket_epoch: number;
		seen_at: number;
		seen_from: string;
		removed_at: number | null;
	};
	'jibe.join_token': {
		hash: Buffer;
		region: string;
		roles: Role[];
		labels: string[];
		name: string | null;
		created_at: number;
		expires_at: number;
		used_at: number | null;
		used_by: string | null;
		used_spki: string | null;
	};
	'jibe.package': { digest: Digest; version: string; bytes: Buffer; added_at: number };
	'jibe.server_package': {
		server: string;
		wanted: Digest | null;
		runs: string | null;
		version: string | null;
		problem: string | null;
		said_at: number | null;
	};
	'jibe.control_address': { address: string; seen_at: number };
	'jibe.region': { name: string; position: number; edge_port: number; retired: boolean; home: string | null };
	'jibe.app': {
		name: string;
		created_at: number;
		removed_at: number | null;
		last_release: number;
		read_only: string | null;
		forgotten_version: number;
	};
	'jibe.release': {
		app: string;
		number: number;
		environment: string;
		deployment: string;
		artifact: string;
		vendor: string | null;
		config: AppConfig;
		spec: ReleaseSpec;
		pins: Buffer;
		git: { commit: string; branch: string | null; dirty: boolean } | null;
		created_at: number;
	};
	'jibe.transition': { from_state: string; to_state: string };
	'jibe.deployment': {
		id: string;
		app: string;
		environment: string;
		release: number;
		previous: number | null;
		state: string;
		created_at: number;
		ended_at: number | null;
		watch_until: number | null;
		regions: RegionOutcome[];
	};
	'jibe.want': { app: string; environment: string; region: string; epoch: number; version: number; removed: boolean };
	'jibe.event': {
		cursor: GeneratedAlways<number>;
		at: number;
		type: string;
		app: string | null;
		environment: string | null;
		deployment: string | null;
		data: Record<string, unknown>;
	};
	'jibe.env': { app: string; environment: string; name: string; value: string | null; staged: boolean };
	'jibe.secret': {
		app: string;
		environment: string;
		name: string;
		version: number;
		ciphertext: Buffer | null;
		wrapped: Buffer | null;
		key_id: string;
		created_at: number;
		by: string;
		revokes_older: boolean;
		revoked_at: number | null;
		removed_at: number | null;
	};
	'jibe.master_key': { id: string; created_at: number; retired_at: number | null };
	'jibe.blob': { app: string; digest: Buffer; leased_until: number };
	'jibe.manifest': { app: string; root: Buffer; seen_at: number };
	'jibe.token': {
		id: string;
		name: string;
		role: 'viewer' | 'deployer' | 'admin';
		apps: string[] | null;
		environments: string[] | null;
		hash: Buffer;
		created_at: number;
		expires_at: number | null;
		revoked_at: number | null;
		last_used_at: number | null;
	};
	'jibe.login_code': { hash: Buffer; token: string; expires_at: number };
	'jibe.session': { hash: Buffer; token: string; expires_at: number };
	'jibe.audit': {
		id: GeneratedAlways<number>;
		at: number;
		by: string;
		action: string;
		app: string | null;
		environment: string | null;
		detail: Record<string, unknown>;
	};
}
