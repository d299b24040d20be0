import type { Clock } from '#clock/clock.ts';
import { wantKey } from '#wire/region.ts';
import { PRODUCTION } from '#wire/names.ts';
import { direct, Serving, type Ways } from './serving.ts';

/** Which app a host name means, in each region. The port in it is ignored. */
export class Routes {
	readonly #servings = new Map<string, Serving>();
	readonly #clock: Clock;
	readonly #ways: Ways;
	/** Region → host as clients write it → answer. Thrown away whenever a name may have changed its meaning. */
	readonly #found = new Map<string, Map<string, Route>>();

	constructor(clock: Clock, ways: Ways = direct) {
		this.#clock = clock;
		this.#ways = ways;
	}

	all(): Iterable<Serving> {
		return this.#servings.values();
	}

	get(key: { region: string; app: string; environment: string }): Serving | null {
		return this.#servings.get(wantKey(key)) ?? null;
	}

	open(key: { region: string; app: string; environment: string }): Serving {
		let serving = this.#servings.get(wantKey(key));
		if (serving === undefined) {
			serving = new Serving(key, this.#clock, this.#ways);
			this.#servings.set(wantKey(key), serving);
			this.changed();
		}
		return serving;
	}

	/** Apps, domains or deployments came or went. */
	changed(): void {
		this.#found.clear();
	}

	find(region: string, host: string): Route {
		let cache = this.#found.get(region);
		if (cache === undefined) this.#found.set(region, (cache = new Map<string, Route>()));
		let route = cache.get(host);
		if (route === undefined) {
			route = this.#find(region, host);
			if (cache.size >= MAX_REMEMBERED_HOSTS) cache.clear();
			cache.set(host, route);
		}
		return route;
	}

	#find(region: string, host: string): Route {
		const name = host.replace(/:\d+$/, '').replace(/\.$/, '').toLowerCase();
		const domain = this.#byDomain(region, name);
		if (domain !== null) return { kind: 'app', serving: domain };
		const label = name.split('.', 1)[0] ?? '';
		const cut = label.indexOf('--');
		if (cut === -1) return this.#app(region, label, PRODUCTION);
		const prefix = label.slice(0, cut);
		const app = label.slice(cut + 2);
		const environment = this.#app(region, app, prefix);
		if (environment.kind !== 'unknown' || !DEPLOYMENT_LABEL.test(prefix)) return environment;
		return this.#deployment(region, app, `dpl_${prefix}`);
	}

	#app(region: string, app: string, environment: string): Route {
		const serving = this.#servings.get(wantKey({ region, app, environment }));
		return serving === undefined || serving.obeyed?.removed || serving.wanted === null ? { kind: 'unknown' } : { kind: 'app', serving };
	}

	/** What is known of the app's releases decides; of one that nobody knows, production's rules hold. */
	#deployment(region: string, app: string, deployment: string): Route {
		let any: Serving | null = null;
		for (const serving of this.#servings.values()) {
			if (serving.region !== region || serving.app !== app) continue;
			if (serving.releaseOf(deployment) !== null) return { kind: 'deployment', serving, deployment };
			if (any === null || serving.environment === PRODUCTION) any = serving;
		}
		return any === null ? { kind: 'unknown' } : { kind: 'deployment', serving: any, deployment };
	}

	/** A domain of what serves. Control gives it to one app only. */
	#byDomain(region: string, name: string): Serving | null {
		for (const serving of this.#servings.values()) {
			if (serving.region === region && serving.settings?.spec.domains.includes(name)) return serving;
		}
		return null;
	}
}

export type Route = { kind: 'app'; serving: Serving } | { kind: 'deployment'; serving: Serving; deployment: string } | { kind: 'unknown' };

const DEPLOYMENT_LABEL = /^[0-9a-hjkmnp-tv-z]{8,26}$/;
const MAX_REMEMBERED_HOSTS = 4_096;
