import { z } from 'zod';
import { attemptQuery } from '#wire/builds.ts';
import { stepName } from '#wire/config.ts';
import { appName, deploymentId, digest } from '#wire/names.ts';
import { stepAnswer, stepCorrupt, stepQuery, stepStored, stepUpload, whyAnswer, whyQuery } from '#wire/steps.ts';
import { MAX_UPLOAD_BYTES, UPLOAD_TYPE, decodeUpload } from '#wire/upload.ts';
import { findStep, forgetStep, readStep, storeStep, why } from '../builds/steps.ts';
import { refuseWhenSpent } from '../deploy.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { Raw, route, type Route } from '../route.ts';

/** Results of steps, for builders; and what changed, for people. */

const ofBuild = z.object({ id: deploymentId });

export function stepRoutes(house: House): Route[] {
	return [...builderRoutes(house), whyRoute(house)];
}

function builderRoutes(house: House): Route[] {
	return [
		route({
			method: 'POST',
			path: '/api/v1/builds/:id/steps/find',
			summary: 'Notes what a step is run with, and answers what is known of it.',
			role: 'builder',
			params: ofBuild,
			body: stepQuery,
			answer: stepAnswer,
			handle: ({ params, body: { worker, attempt, ...step } }) => findStep(house, { ...params, worker, attempt }, step),
		}),
		route({
			method: 'PUT',
			path: '/api/v1/builds/:id/steps',
			summary: 'Keeps what a step made.',
			role: 'builder',
			params: ofBuild,
			uploadBytes: MAX_UPLOAD_BYTES,
			answer: stepStored,
			async handle({ params, request, upload }) {
				const type = (request.headers['content-type'] ?? '').split(';', 1)[0];
				if (type !== UPLOAD_TYPE) throw new Refusal('unsupported_type', 415, `the body must be ${UPLOAD_TYPE}`);
				const { header, blobs } = decodeUpload(upload);
				const parsed = stepUpload.safeParse(header);
				if (!parsed.success) throw new Refusal('bad_upload', 400, `the header of the upload is not as it must be: ${parsed.error.message}`);
				const { worker, attempt, ...step } = parsed.data;
				refuseWhenSpent(house);
				return { stored: await storeStep(house, { ...params, worker, attempt }, { ...step, blobs }) };
			},
		}),
		...(['archive', 'log'] as const).map((what) =>
			route({
				method: 'GET',
				path: `/api/v1/builds/:id/steps/:key/${what}`,
				summary: what === 'archive' ? 'What a step made, as .tar.zst.' : 'What a step printed, zstd.',
				role: 'builder',
				params: ofBuild.extend({ key: digest }),
				query: attemptQuery,
				answer: 'application/zstd',
				async handle({ params: { id, key }, query }) {
					const bytes = await readStep(house, { id, ...query }, key, what);
					return new Raw(new Uint8Array(bytes), 'application/zstd');
				},
			}),
		),
		route({
			method: 'POST',
			path: '/api/v1/builds/:id/steps/corrupt',
			summary: 'What was read is not what was stored: it is looked at, and forgotten.',
			role: 'builder',
			params: ofBuild,
			body: stepCorrupt,
			answer: z.object({}),
			async handle({ params, body: { worker, attempt, key } }) {
				await forgetStep(house, { ...params, worker, attempt }, key);
				return {};
			},
		}),
	];
}

function whyRoute(house: House): Route {
	return route({
		method: 'GET',
		path: '/api/v1/apps/:app/steps/:step/why',
		summary: 'What is different since the step was run before.',
		role: 'viewer',
		params: z.object({ app: appName, step: stepName }),
		query: whyQuery,
		answer: whyAnswer,
		handle: ({ params, query: { environment, deployment } }) => why(house, { ...params, environment, deployment: deployment ?? null }),
	});
}
