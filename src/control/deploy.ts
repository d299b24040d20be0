import type { Digest } from '#digest/digest.ts';
import { StateError } from '#state/state.ts';
import { StoreFull } from '#store/blob-store.ts';
import { treeOf } from '#store/manifest.ts';
import { deployRequest, type Deployment, type DeployRequest } from '#wire/api.ts';
import { MAX_GIFT_BYTES, type Gift } from '#wire/region.ts';
import { decodeUpload } from '#wire/upload.ts';
import { authorise, type Caller } from './access.ts';
import { checkDomains } from './domains.ts';
import type { House } from './house.ts';
import { baseUnknown, type KnownTree, type NewTree } from './manifests.ts';
import { unsafeMigrations } from './migrations/migrations.ts';
import { checkPlatform } from './platforms.ts';
import { Refusal, type DeployInput } from './ports.ts';
import { releaseSpec } from './release.ts';

/** From the bytes of one request to a deployment that walks. Everything is stored durably before the driver hears of it. */
export async function deploy(
	house: House,
	app: string,
	body: Buffer,
	caller: Caller,
): Promise<{ deployment: Deployment; already: boolean }> {
	const { header, blobs } = decodeUpload(body);
	const request = readHeader(header, app);
	authorise(caller, 'deployer', { app, environment: request.environment });
	return accept(house, app, { request, blobs }, inputOf(request, app, caller));
}

/** What a laptop or a builder made, whoever may have been asked to: stored, checked, and handed to the driver. */
export async function accept(
	house: House,
	app: string,
	{ request, blobs }: { request: DeployRequest; blobs: ReadonlyMap<Digest, Buffer> },
	input: Omit<DeployInput, 'release' | 'gift'>,
): Promise<{ deployment: Deployment; already: boolean }> {
	const { environment, config } = request;
	checkRegions(house, config);
	const [artifact, vendor, env, secrets] = await Promise.all([
		house.manifests.apply(app, request.manifest, request.artifact),
		vendorTree(house, app, request),
		house.state.env.get(app, environment),
		house.secrets.pins({ app, environment }, config.secrets),
	]);
	const spec = releaseSpec({ app, environment, artifact: request.artifact, vendor: request.vendor }, config, env.values, secrets);
	const trees = vendor ? [artifact, vendor] : [artifact];
	const fresh = await takeBlobs(house, app, trees, blobs);
	const digests = [...new Set(trees.flatMap((tree) => [...tree.digests]))];
	await checkStored(house, app, trees, digests);
	await checkPlatform(house, request, vendor, input.build?.metadata?.platform ?? null);
	const release = { artifact: request.artifact, vendor: request.vendor, config, spec, blobs: digests };
	const unsafe = await unsafeMigrations(house, { app, environment, artifact: request.artifact, config });
	const gift = giftOf(request, fresh);
	return await checkDomains(house, app, config.domains, () => start(house, { ...input, release, gift, unsafe }));
}

async function start(house: House, input: DeployInput): Promise<{ deployment: Deployment; already: boolean }> {
	try {
		return await house.driver.deploy(input);
	} catch (error) {
		if (!(error instanceof StateError && error.code === 'blob_missing')) throw error;
		// Collected or damaged since this process last saw it: look again at what is really there.
		house.manifests.forget();
		throw missingBlobs(await house.state.blobs.missing(input.app, input.release.blobs, house.store));
	}
}

function readHeader(header: Record<string, unknown>, app: string): DeployRequest {
	const parsed = deployRequest.safeParse(header);
	if (!parsed.success) {
		const issues = parsed.error.issues.slice(0, 20).map(({ path, message }) => ({ path: path.join('.'), message }));
		throw new Refusal('bad_request', 400, `the deploy request is not as it must be: ${issues[0]?.path}: ${issues[0]?.message}`, null, {
			issues,
		});
	}
	if (parsed.data.config.app === app) return parsed.data;
	throw new Refusal('app_mismatch', 422, `jibe.json says the app is ${parsed.data.config.app}, the request was made for ${app}`);
}

/** @throws Refusal 422 unknown_region */
export function checkRegions(house: House, config: DeployRequest['config']): void {
	if (config.regions === 'all') return;
	const known = house.regions.map(({ name }) => name);
	const unknown = config.regions.filter((name) => !known.includes(name));
	if (unknown.length === 0) return;
	throw new Refusal('unknown_region', 422, `there is no region ${unknown.join(', ')} here`, `the regions are ${known.join(', ')}`);
}

/** null without dependencies. @throws Refusal 409 base_unknown when control has to be sent the tree */
async function vendorTree(house: House, app: string, { vendor, vendorManifest }: DeployRequest): Promise<NewTree | null> {
	if (vendor === null) return null;
	const known = await house.manifests.find(app, vendor);
	if (known) return { ...known, newNodes: [], newBlobs: new Map() };
	if (!vendorManifest) throw baseUnknown(vendor);
	return house.manifests.apply(app, vendorManifest, vendor);
}

/** Stores what is new, after checking that nothing is missing; returns the new files' blobs that came along. */
export async function takeBlobs(
	house: House,
	app: string,
	trees: readonly NewTree[],
	sent: ReadonlyMap<Digest, Buffer>,
): Promise<Map<Digest, Buffer>> {
	const wanted = new Map(trees.flatMap((tree) => [...tree.newBlobs]));
	const fresh = new Map<Digest, Buffer>();
	for (const [digest, size] of wanted) {
		const blob = sent.get(digest);
		if (!blob) continue;
		if (blob.length !== size)
			throw new Refusal('size_mismatch', 422, `the manifest says ${digest} has ${size} bytes, and it has ${blob.length}`);
		fresh.set(digest, blob);
	}
	const elsewhere = [...wanted.keys()].filter((digest) => !fresh.has(digest));
	if (elsewhere.length > 0) {
		const missing = await house.state.blobs.missing(app, elsewhere, house.store);
		if (missing.length > 0) throw missingBlobs(missing);
	}
	const nodes = trees.flatMap((tree) => tree.newNodes);
	if (nodes.length + fresh.size > 0) refuseWhenSpent(house);
	const stored = nodes.length + fresh.size === 0 ? [] : await house.store.write([...nodes, ...fresh.values()]);
	// Side by side: a tree that is known but not owned can be a base, and a release of it is refused by the database.
	await Promise.all([house.state.blobs.own(app, stored), ...trees.map((tree: KnownTree) => house.manifests.accepted(app, tree))]);
	return fresh;
}

/** What room is left is for the way back. @throws StoreFull */
export function refuseWhenSpent({ reserve }: House): void {
	if (reserve?.spent) throw new StoreFull('the disk of the data directory is full, but for what a rollback may need');
}

/** A look into memory. A store that lost something (a damaged disk, a restored backup) gets it again before anything relies on it. */
async function checkStored(house: House, app: string, trees: readonly KnownTree[], digests: readonly Digest[]): Promise<void> {
	const stored = await house.store.has(digests);
	if (stored.size === digests.length) return;
	// Directory nodes are made of the manifest, which is at hand; files' blobs only their sender has.
	const nodes = trees.flatMap(({ manifest }) => [...treeOf(manifest).nodes].filter(([digest]) => !stored.has(digest)));
	await house.store.write(nodes.map(([, node]) => node));
	if (stored.size + new Map(nodes).size === digests.length) return;
	house.manifests.forget();
	throw missingBlobs(await house.state.blobs.missing(app, digests, house.store));
}

function missingBlobs(missing: Digest[]): Refusal {
	return new Refusal('blobs_missing', 409, `${missing.length} blobs of this artifact are not here`, 'send them along', { missing });
}

function inputOf(request: DeployRequest, app: string, caller: Caller): Omit<DeployInput, 'release' | 'gift'> {
	const { environment, git, reason: why, force, now, stages, modules, testing = false, checking = false } = request;
	return { app, environment, git, by: caller.by, why, force, now, stages, modules, testing, checking };
}

/** What the regions lack of it, when that is little: then nobody has to fetch. */
function giftOf({ manifest }: DeployRequest, fresh: ReadonlyMap<Digest, Buffer>): Omit<Gift, 'artifact'> | null {
	let bytes = 0;
	for (const blob of fresh.values()) bytes += blob.length;
	if (bytes * (4 / 3) > MAX_GIFT_BYTES) return null;
	const blobs = Object.fromEntries([...fresh].map(([digest, blob]) => [digest, blob.toString('base64')]));
	const gift = { base: manifest.base, set: manifest.set, delete: manifest.delete, blobs };
	return JSON.stringify(gift).length > MAX_GIFT_BYTES ? null : gift;
}
