import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Deployment, Event } from '#wire/api.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import type { DeploymentStore, RegionHub } from '../ports.ts';
import type { Joined } from './candidates.ts';

/** What the driver is given. */
export interface DriverSettings {
	store: DeploymentStore;
	hub: RegionHub;
	clock: Clock;
	log: Log;
	/** Names this process in the fence: who owns a deployment. */
	owner: string;
	/** Other control processes on the same database that live. Absent: there are none. */
	others?: () => ReadonlySet<string>;
	/** Resolves once it is known that the database is what it was, after it was away. Absent: it always is. */
	settled?: () => Promise<void>;
	/** A region has seen more of an app than the database. */
	onReadOnly?: (app: string, reason: string) => void;
	/** Of the secrets that a release pins, those that are revoked. @throws Refusal where nothing stands in for one. Absent: there are no secrets. */
	revokedSecrets?: (spec: Pick<ReleaseSpec, 'app' | 'environment' | 'secrets'>) => Promise<string[]>;
	/** The oldest release that knows the database as it is; null: all do. Absent: nothing is migrated here. */
	schemaFloor?: (app: string, environment: string) => Promise<number | null>;
	/** An edge of the region, and the app's name there; null: it is not known how that is reached. */
	edgeOf?: (region: string, app: string, environment: string) => { host: string; port: number; name: string } | null;
	/** Where people reach the app: by one of its domains, or where there is none by the Host header that is named. */
	addressOf: (app: string, environment: string, domains: readonly string[]) => { url: string; host: string | null };
	/** Servers that joined, and who hears of each change; absent: there are none but this machine. */
	joined?: { servers(): readonly Joined[]; subscribe(listener: () => void): () => void };
}

/** Told of each deployment as it changes. */
export type Listener = (deployment: Deployment, event: Pick<Event, 'type' | 'data'>) => void;
