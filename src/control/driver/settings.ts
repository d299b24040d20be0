import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Deployment, Event } from '#wire/api.ts';
import type { DeploymentStore, RegionHub } from '../ports.ts';

/** What the driver is given. */
export interface DriverSettings {
	store: DeploymentStore;
	hub: RegionHub;
	clock: Clock;
	log: Log;
	/** Names this process in the fence: who owns a deployment. */
	owner: string;
	/** Where people reach the app. */
	urlOf: (app: string, environment: string) => string;
}

/** Told of each deployment as it changes. */
export type Listener = (deployment: Deployment, event: Pick<Event, 'type' | 'data'>) => void;
