import type { z } from 'zod';
import type { Digest } from '#digest/digest.ts';
import { differences, keyOf } from '#build/steps/key.ts';
import type { Fence } from '#state/builds.ts';
import type { StepRun } from '#state/steps.ts';
import { BlobCorrupt, BlobMissing } from '#store/blob-store.ts';
import type { NewBuild } from '#wire/builds.ts';
import type { StepEntry, StepParts, WhyAnswer, stepAnswer } from '#wire/steps.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { GRANTED_MS } from './desk.ts';

/**
 * What steps were run with and what they made. Whose results a build may read, and where its own go, follows from what control
 * knows of the build, never from what its builder says: production reads what production wrote, a preview that and its own, a
 * fork what production wrote; what a fork writes is kept for nobody.
 */
export function domainsRead({ trust, environment }: Pick<NewBuild, 'trust' | 'environment'>): string[] {
	return trust === 'preview' ? ['production', `preview/${environment}`] : ['production'];
}

function domainWritten({ trust, environment }: Pick<NewBuild, 'trust' | 'environment'>): string | null {
	return trust === 'production' ? 'production' : trust === 'preview' ? `preview/${environment}` : null;
}

/** Notes that the step is run, and answers what is known of it. */
export async function findStep(
	house: House,
	fence: Fence,
	{ name, key, parts }: { name: string; key: Digest; parts: StepParts },
): Promise<z.infer<typeof stepAnswer>> {
	const job = await jobOf(house, fence);
	checkKey(key, parts);
	const { entry, corrupt } = await house.state.steps.find({ scope: job.lane, key, domains: domainsRead(job) });
	if (corrupt) house.log.warn('step.entry_corrupt', { build: fence.id, step: name, key });
	const noted = house.state.steps.ran({
		app: job.app,
		environment: job.environment,
		name,
		deployment: fence.id,
		scope: job.lane,
		domain: domainWritten(job) ?? 'fork',
		key,
		parts,
		cached: entry !== null,
		at: house.clock.now(),
	});
	const [stored, blobs] = await Promise.all([house.store.has([parts.inputs]), smallBlobs(house, entry), noted]);
	return { entry, inputs: domainWritten(job) !== null && stored.size === 0, blobs };
}

const MAX_INLINE_BYTES = 64 * 1024;
/** Archives are zstd of so much at least: larger ones are not looked at. */
const MAX_INLINE_OUTPUT_BYTES = 1024 * 1024;

/** What is damaged is left out: whoever asks for it by itself will have it forgotten. */
async function smallBlobs({ store }: House, entry: StepEntry | null): Promise<Record<string, string>> {
	if (entry === null) return {};
	const blobs: Record<string, string> = {};
	const archive = entry.outputBytes > MAX_INLINE_OUTPUT_BYTES ? null : entry.archive;
	for (const digest of [entry.log, archive]) {
		if (digest === null) continue;
		try {
			const bytes = await store.read(digest);
			if (bytes.length <= MAX_INLINE_BYTES) blobs[digest] = bytes.toString('base64');
		} catch (error) {
			if (!(error instanceof BlobMissing || error instanceof BlobCorrupt)) throw error;
		}
	}
	return blobs;
}

/** false: it is kept for nobody, or was there before. @throws Refusal where something is missing, or is not what it says */
export async function storeStep(
	house: House,
	fence: Fence,
	of: { entry: StepEntry; parts: StepParts; blobs: ReadonlyMap<Digest, Buffer> },
): Promise<boolean> {
	const job = await jobOf(house, fence);
	const domain = domainWritten(job);
	if (domain === null || job.kind === 'verify') return false;
	const { entry, parts, blobs } = of;
	checkKey(entry.key, parts);
	const wanted = [entry.archive, entry.log].filter((digest) => digest !== null);
	for (const digest of wanted) if (!blobs.has(digest)) throw new Refusal('bad_upload', 400, `the upload has no blob ${digest}`);
	const known = new Set<Digest>([...wanted, parts.inputs]);
	for (const digest of blobs.keys()) {
		if (!known.has(digest)) throw new Refusal('bad_upload', 400, `nothing of the step names the blob ${digest}`);
	}
	await house.store.write(blobs.values());
	return house.state.steps.store({ scope: job.lane, key: entry.key, domain, entry, parts });
}

/** A part of what was found, as it is stored. What is not there as it was stored is forgotten. @throws Refusal 404, 410 */
export async function readStep(house: House, fence: Fence, key: Digest, what: 'archive' | 'log'): Promise<Buffer> {
	const job = await jobOf(house, fence);
	const domains = domainsRead(job);
	const { entry } = await house.state.steps.find({ scope: job.lane, key, domains });
	const digest = entry?.[what] ?? null;
	if (digest === null) throw new Refusal('step_unknown', 404, `nothing is known of a step with the key ${key}`);
	try {
		return await house.store.read(digest);
	} catch (error) {
		if (!(error instanceof BlobMissing || error instanceof BlobCorrupt)) throw error;
		house.log.warn('step.blob_damaged', { build: fence.id, key, what, error });
		// Out of the way, so that whoever makes it again can store it.
		await house.store.delete([digest]);
		await house.state.steps.forget({ scope: job.lane, key, domains });
		throw new Refusal('step_damaged', 410, `the ${what} of this step is damaged: ${error.message}`);
	}
}

/** A builder found that what it read is not what was stored. */
export async function forgetStep(house: House, fence: Fence, key: Digest): Promise<void> {
	const job = await jobOf(house, fence);
	// What it may only read is not its to throw away, unless it was looked at here too.
	const domains = domainsRead(job);
	const own = domainWritten(job);
	const { entry } = await house.state.steps.find({ scope: job.lane, key, domains });
	if (entry === null) return;
	const damaged = await isDamaged(house, entry);
	if (damaged || own !== null) await house.state.steps.forget({ scope: job.lane, key, domains: damaged ? domains : [own!] });
}

async function isDamaged({ store }: House, { archive, log }: StepEntry): Promise<boolean> {
	for (const digest of [archive, log]) {
		if (digest === null) continue;
		try {
			await store.read(digest);
		} catch (error) {
			if (!(error instanceof BlobMissing || error instanceof BlobCorrupt)) throw error;
			await store.delete([digest]);
			return true;
		}
	}
	return false;
}

const MAX_CHANGES = 100;
const MAX_SHOWN_CHARS = 2_000;

/** What was different the last time that this step was run, or that of one build. */
export async function why(
	house: House,
	of: { app: string; environment: string; step: string; deployment: string | null },
): Promise<WhyAnswer> {
	const { app, environment, step: name, deployment } = of;
	const [run, before = null] = await house.state.steps.runs({ app, environment, name, deployment, limit: 2 });
	if (run === undefined) {
		const names = await house.state.steps.names(app, environment);
		const known = names.length === 0 ? 'no step of it has run on a builder yet' : `those that ran are ${names.join(', ')}`;
		throw new Refusal(
			'step_unknown',
			404,
			`no step "${name}" of ${app} ran in ${environment}${deployment ? ` in ${deployment}` : ''}`,
			known,
		);
	}
	const changes = before === null ? [] : differences(await told(house, before), await told(house, run));
	return {
		step: name,
		run: { deployment: run.deployment, at: run.at, cached: run.cached, key: run.key },
		before: before && { deployment: before.deployment, at: before.at, key: before.key },
		changes: changes.slice(0, MAX_CHANGES).map((change) => ({ ...change, before: cut(change.before), now: cut(change.now) })),
		more: Math.max(0, changes.length - MAX_CHANGES),
	};
}

async function told({ store }: House, { parts }: StepRun): Promise<{ parts: StepParts; inputs: Buffer | null }> {
	try {
		return { parts, inputs: await store.read(parts.inputs) };
	} catch (error) {
		if (!(error instanceof BlobMissing || error instanceof BlobCorrupt)) throw error;
		return { parts, inputs: null };
	}
}

function cut(text: string | null): string | null {
	return text !== null && text.length > MAX_SHOWN_CHARS ? `${text.slice(0, MAX_SHOWN_CHARS)}…` : text;
}

function checkKey(key: Digest, parts: StepParts): void {
	if (keyOf(parts) === key) return;
	throw new Refusal('bad_key', 400, `the key ${key} is not that of what the step depends on`);
}

/** Of the build that is this builder's now. @throws StateError fenced */
async function jobOf({ state }: House, fence: Fence): Promise<NewBuild> {
	const [, job] = await Promise.all([state.builds.beat(fence, GRANTED_MS), state.builds.job(fence.id)]);
	if (job) return job;
	throw new Refusal('build_unknown', 404, `there is no build ${fence.id}`);
}
