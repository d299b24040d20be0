import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Installation, State } from '#state/state.ts';
import type { SweptStore } from '#store/blob-store.ts';
import type { Kept } from './git/kept.ts';
import type { Repositories } from './git/repositories.ts';
import type { BuildDesk } from './builds/desk.ts';
import type { BuildLogs } from './builds/log.ts';
import type { Hub } from './hub.ts';
import type { Manifests } from './manifests.ts';
import type { Metrics } from './metrics.ts';
import type { Outbound } from './outbound/outbound.ts';
import type { Driver } from './ports.ts';
import type { Mirrors } from './repositories/mirror.ts';
import type { RepositorySecrets } from './repositories/secrets.ts';
import type { Reserve } from './reserve.ts';
import type { Roster } from './roster.ts';
import type { SecretKeeper } from './secrets.ts';

/** What the parts of control share. Everything in it is made once, in `main.ts`. */
export interface House {
	installation: Installation;
	state: State;
	store: SweptStore;
	/** Other controls on this database reach the same blobs. */
	sharedStore: boolean;
	hub: Hub;
	driver: Driver;
	manifests: Manifests;
	metrics: Metrics;
	secrets: SecretKeeper;
	/** Builders that wait for a job, readers that wait for news of builds. */
	builds: BuildDesk;
	buildLogs: BuildLogs;
	/** What was pushed here, and mirrors of what was pushed elsewhere. */
	git: Repositories;
	/** What was pushed here, as other controls find it, too. */
	kept: Kept;
	/** To addresses that users name. */
	outbound: Outbound;
	repositorySecrets: RepositorySecrets;
	mirrors: Mirrors;
	/** The servers that joined. */
	roster: Roster;
	/** How far off the wall clocks of servers are, as they last said. */
	clocks: Map<string, number>;
	/** Those there are now, in order: the first is the canary region. */
	readonly regions: readonly { name: string; edgePort: number }[];
	/** Those of them that this control's own machine serves. */
	local: readonly { name: string; edgePort: number }[];
	/** null: the database's disk is not ours to keep. */
	reserve: Reserve | null;
	/** Where control itself is: `http://127.0.0.1:7070`. */
	url: string;
	log: Log;
	clock: Clock;
}
