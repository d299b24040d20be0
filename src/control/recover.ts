import type { Digest } from '#digest/digest.ts';
import type { Recovery } from '#state/state.ts';
import { appConfig } from '#wire/config.ts';
import { compareVersions, wantKey, type ReleaseSpec, type Want } from '#wire/region.ts';
import type { House } from './house.ts';
import { namedBy } from './hub.ts';
import { Refusal } from './ports.ts';

/**
 * After a region was found ahead of the database (a restored backup, a standby that was behind, a lost disk): the epoch
 * goes above all that any region has seen, and what is to hold is written in it. By default that is what the regions
 * serve; releases that the database has lost are written down again as the regions remember them.
 */
export async function recover(house: House, app: string, by: string, took: Recovery['took']): Promise<{ epoch: number }> {
	const { state, driver, hub, log } = house;
	const [known, rows] = await Promise.all([state.deployments.wants({ app }), state.apps.list()]);
	if (driver.readOnly(app) === null && !rows.some((row) => row.app === app && row.readOnly !== null)) {
		throw new Refusal('nothing_to_recover', 409, `no region is ahead of the database for ${app}`);
	}
	const held = await hub.held(app);
	const wants = chosen(known, held.wants, took);
	const all = [...known, ...held.wants, ...[...hub.wanted()].filter((want) => want.app === app)];
	const done = await state.recover({
		app,
		by,
		took,
		above: Math.max(0, ...all.map((want) => want.epoch)),
		lastRelease: Math.max(0, ...all.flatMap(namedBy), ...held.releases.map(({ release }) => release)),
		releases: took === 'regions' ? await lostReleases(house, app, wants, held.releases) : [],
		environments: [...Map.groupBy(wants, (want) => want.environment)].map(([environment, theirs]) => ({
			environment,
			removed: theirs.every((want) => want.removed),
			writes: theirs.map((want) => ({ region: want.region, expect: versionIn(known, want), pointer: want.pointer, run: want.run })),
		})),
	});
	await driver.recovered(app);
	await hub.refreshAll();
	log.warn('app.recovered', { app, epoch: done.epoch, took, by });
	return { epoch: done.epoch };
}

/** What is to hold in each region: what it serves where it knows more than the database, else what the database wants. */
function chosen(known: readonly Want[], held: readonly Want[], took: Recovery['took']): Want[] {
	const wants = new Map(known.map((want) => [wantKey(want), want]));
	for (const want of held) {
		const ours = wants.get(wantKey(want));
		if (took === 'regions' ? !ours || compareVersions(want, ours) > 0 : !ours)
			wants.set(wantKey(want), took === 'regions' ? want : emptied(want));
	}
	return [...wants.values()];
}

/** The database has never heard of it: it serves nothing there any more. */
function emptied(want: Want): Want {
	return { ...want, pointer: { primary: null, candidate: null, hold: null }, run: [] };
}

function versionIn(known: readonly Want[], want: Want): { epoch: number; version: number } | null {
	const ours = known.find((one) => wantKey(one) === wantKey(want));
	return ours ? { epoch: ours.epoch, version: ours.version } : null;
}

/** As the regions remember them. What jibe.json said beyond that is gone: it comes with the next deploy. */
async function lostReleases(
	house: House,
	app: string,
	wants: readonly Want[],
	held: readonly ReleaseSpec[],
): Promise<Recovery['releases']> {
	const named = [...new Set(wants.flatMap(namedBy))];
	const known = new Set((await house.state.deployments.releases(app, named)).map(({ release }) => release));
	const lost = held.filter(({ release }) => named.includes(release) && !known.has(release));
	return Promise.all(
		lost.map(async (spec) => {
			const instances = Math.max(
				1,
				...wants.flatMap((want) => want.run.filter((run) => run.release === spec.release).map((run) => run.instances)),
			);
			const { release: number, environment, deployment, artifact, vendor } = spec;
			const config = appConfig.parse({ app, runtime: spec.runtime.kind, entry: spec.entry, instances, domains: spec.domains });
			return { number, environment, deployment, artifact, vendor, config, spec, blobs: await pinsOf(house, app, spec) };
		}),
	);
}

/** Of what is still stored here nothing is to be collected; agents have the rest. */
async function pinsOf({ manifests }: House, app: string, { artifact, vendor }: ReleaseSpec): Promise<Digest[]> {
	const trees = await Promise.all((vendor === null ? [artifact] : [artifact, vendor]).map((root) => manifests.find(app, root)));
	return [...new Set(trees.flatMap((tree) => [...(tree?.digests ?? [])]))];
}
