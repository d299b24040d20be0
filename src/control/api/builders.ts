import type { ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { missingAnswer } from '#wire/api.ts';
import {
	artifactAnswer,
	attemptQuery,
	beatAnswer,
	beatRequest,
	buildMissingRequest,
	claimAnswer,
	claimRequest,
	endAnswer,
	endRequest,
	logAnswer,
	logRequest,
	stagesRequest,
} from '#wire/builds.ts';
import { deploymentId } from '#wire/names.ts';
import { MAX_UPLOAD_BYTES, UPLOAD_TYPE, decodeUpload } from '#wire/upload.ts';
import { takeArtifact } from '../builds/artifact.ts';
import { claim, end } from '../builds/builds.ts';
import { GRANTED_MS } from '../builds/desk.ts';
import { refuseWhenSpent } from '../deploy.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { sourceOf } from '../repositories/source.ts';
import { ANSWERED, route, type Route } from '../route.ts';

/** What builders ask: a job, then everything about it under the attempt that they were given. */

const ofBuild = z.object({ id: deploymentId });

export function builderRoutes(house: House): Route[] {
	return [...jobRoutes(house), ...reportRoutes(house), ...bytesRoutes(house)];
}

function jobRoutes(house: House): Route[] {
	const { builds } = house;
	return [
		route({
			method: 'POST',
			path: '/api/v1/builds/claim',
			summary: 'Waits for a job; 204 where there was none for a while. The same worker gets the same job until that has ended.',
			role: 'builder',
			body: claimRequest,
			answer: claimAnswer,
			async handle({ body, response }) {
				const job = await claim(house, body, leaving(response));
				if (job) return { job };
				if (!response.destroyed) response.writeHead(204).end();
				return ANSWERED;
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/builds/:id/beat',
			summary: 'The builder lives. With `hold` the answer comes when it must stop, or after a while.',
			role: 'builder',
			params: ofBuild,
			body: beatRequest,
			answer: beatAnswer,
			handle: ({ params, body: { hold = false, ...of }, response }) => builds.beat({ ...params, ...of }, hold, leaving(response)),
		}),
		route({
			method: 'POST',
			path: '/api/v1/builds/:id/end',
			summary:
				'It ended without an artifact, was compared, or the steps that went on after its artifact have ended. With `next` the answer has the next job, if there is one.',
			role: 'builder',
			params: ofBuild,
			body: endRequest,
			answer: endAnswer,
			async handle({ params, body: { worker, attempt, next, ...told }, response }) {
				const job = await end(house, { ...params, worker, attempt }, told, next, leaving(response));
				return job === null ? {} : { job };
			},
		}),
	];
}

function reportRoutes({ state, builds, buildLogs }: House): Route[] {
	return [
		route({
			method: 'POST',
			path: '/api/v1/builds/:id/stages',
			summary: 'The states and steps that it goes through.',
			role: 'builder',
			params: ofBuild,
			body: stagesRequest,
			answer: beatAnswer,
			async handle({ params, body: { worker, attempt, ...report } }) {
				const answer = await state.builds.report({ ...params, worker, attempt }, { ...report, leaseMs: GRANTED_MS });
				builds.told(params.id);
				return answer;
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/builds/:id/log',
			summary: 'Lines of its log, numbered: those that were sent before are not stored again.',
			role: 'builder',
			params: ofBuild,
			body: logRequest,
			answer: logAnswer,
			async handle({ params, body: { worker, attempt, from, lines } }) {
				const { next, stop } = await buildLogs.add({ ...params, worker, attempt }, from, lines);
				builds.told(params.id);
				return { next, stop };
			},
		}),
	];
}

function bytesRoutes(house: House): Route[] {
	const { state, store } = house;
	const own = async (of: { id: string; worker: string; attempt: number }) => {
		await state.builds.beat(of, GRANTED_MS);
		const job = await state.builds.job(of.id);
		if (job) return job;
		throw new Refusal('build_unknown', 404, `there is no build ${of.id}`);
	};
	return [
		route({
			method: 'GET',
			path: '/api/v1/builds/:id/source',
			summary: 'What it is made of, as .tar.zst.',
			role: 'builder',
			params: ofBuild,
			query: attemptQuery,
			answer: 'application/zstd',
			async handle({ params, query, response }) {
				const { source } = await own({ ...params, ...query });
				const bytes = await sourceOf(house, source);
				response.writeHead(200, { 'content-type': 'application/zstd', 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
				// Cut off in the middle, the connection breaks: the builder does not take half of it for the whole.
				await pipeline(bytes, response).catch((error: unknown) => house.log.warn('build.source_cut', { build: params.id, error }));
				return ANSWERED;
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/builds/:id/missing',
			summary: 'Which of these blobs must be sent.',
			role: 'builder',
			params: ofBuild,
			body: buildMissingRequest,
			answer: missingAnswer,
			async handle({ params, body: { worker, attempt, digests } }) {
				const { app } = await own({ ...params, worker, attempt });
				return { missing: await state.blobs.missing(app, digests, store) };
			},
		}),
		route({
			method: 'PUT',
			path: '/api/v1/builds/:id/blobs',
			summary: 'Stores a batch of blobs for the app that is built.',
			role: 'builder',
			params: ofBuild,
			query: attemptQuery,
			uploadBytes: MAX_UPLOAD_BYTES,
			answer: z.object({ stored: z.int() }),
			async handle({ params, query, request, upload }) {
				checkType(request.headers['content-type']);
				const { app } = await own({ ...params, ...query });
				const { blobs } = decodeUpload(upload);
				refuseWhenSpent(house);
				await state.blobs.own(app, await store.write(blobs.values()));
				return { stored: blobs.size };
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/builds/:id/artifact',
			summary: 'The artifact: from here on it is a deployment.',
			role: 'builder',
			params: ofBuild,
			uploadBytes: MAX_UPLOAD_BYTES,
			answer: artifactAnswer,
			handle({ params, request, upload }) {
				checkType(request.headers['content-type']);
				return takeArtifact(house, params.id, upload);
			},
		}),
	];
}

/** Aborted once nobody waits for the answer any more. */
function leaving(response: ServerResponse): AbortSignal {
	const left = new AbortController();
	response.on('close', () => left.abort());
	return left.signal;
}

function checkType(header: string | undefined): void {
	const type = (header ?? '').split(';', 1)[0];
	if (type !== UPLOAD_TYPE) throw new Refusal('unsupported_type', 415, `the body must be ${UPLOAD_TYPE}, not ${type || 'of no type'}`);
}
