import { z } from 'zod';
import {
	approval,
	outboundAnswer,
	outboundChange,
	pullRequest,
	pullRequestsAnswer,
	repositoriesAnswer,
	repositoryAnswer,
	repositoryChange,
	repositoryName,
} from '#wire/repositories.ts';
import { authorise, type Caller } from '../access.ts';
import type { House } from '../house.ts';
import { isAllowedLine } from '#wire/addresses.ts';
import { Refusal } from '../ports.ts';
import { approve } from '../repositories/approve.ts';
import { changeRepository, seesRepository, viewsOf } from '../repositories/change.ts';
import { removeRepository } from '../repositories/remove.ts';
import { route, type Route } from '../route.ts';

const ofRepository = z.object({ repository: repositoryName });

export function repositoryRoutes(house: House, hurry: () => void): Route[] {
	return [...repositories(house), ...pullRequests(house, hurry), ...outbound(house)];
}

function repositories(house: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/repositories',
			summary: 'Repositories that pushes come from, with the last that was heard of each.',
			role: 'viewer',
			answer: repositoriesAnswer,
			async handle({ caller }) {
				const rows = await house.state.repositories.list();
				return { repositories: await viewsOf(house, rows.filter((row) => seesRepository(caller, row))) }; // prettier-ignore
			},
		}),
		route({
			method: 'PUT',
			path: '/api/v1/repositories/:repository',
			summary: 'Makes a repository, or changes it: what is absent stays as it is. What was made for it is shown once.',
			role: 'admin',
			params: ofRepository,
			body: repositoryChange,
			answer: repositoryAnswer,
			handle({ params, body, caller }) {
				return changeRepository(house, params.repository, body, caller);
			},
		}),
		route({
			method: 'DELETE',
			path: '/api/v1/repositories/:repository',
			summary: 'Forgets a repository, its secrets and its mirror. What it deployed stays.',
			role: 'admin',
			params: ofRepository,
			answer: null,
			handle: ({ params, caller }) => removeRepository(house, params.repository, caller.by),
		}),
	];
}

function pullRequests(house: House, hurry: () => void): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/pull-requests',
			summary: 'Pull requests from forks, newest first.',
			role: 'viewer',
			query: z.object({ repository: repositoryName.optional() }),
			answer: pullRequestsAnswer,
			async handle({ query, caller }) {
				const seen = new Map((await house.state.repositories.list()).map((row) => [row.name, seesRepository(caller, row)]));
				const found = await house.state.repositories.pullRequests(query.repository ?? null);
				return { pullRequests: found.filter(({ repository }) => seen.get(repository)) };
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/repositories/:repository/pull-requests/:number/approvals',
			summary: 'Lets one commit of a pull request from a fork be built, without secrets.',
			role: 'deployer',
			params: ofRepository.extend({ number: z.coerce.number().int().positive() }),
			body: approval,
			answer: z.object({ pullRequest }),
			async handle({ params, body, caller }) {
				await mayDeploy(house, caller, params.repository);
				const approved = await approve(house, { ...params, commit: body.commit, by: caller.by });
				hurry();
				return { pullRequest: approved };
			},
		}),
	];
}

/** All of what a pull request would deploy. */
async function mayDeploy(house: House, caller: Caller, repository: string): Promise<void> {
	const row = await house.state.repositories.get(repository);
	if (!row) throw new Refusal('repository_unknown', 404, `there is no repository ${repository}`, '"jibe repo list" shows them');
	for (const { app } of row.apps) authorise(caller, 'deployer', { app });
}

function outbound(house: House): Route[] {
	const answer = async () => ({ allowed: await house.state.repositories.allowed() });
	return [
		route({
			method: 'GET',
			path: '/api/v1/outbound',
			summary: 'Private addresses that control may connect to on behalf of whoever names them.',
			role: 'admin',
			answer: outboundAnswer,
			handle: answer,
		}),
		route({
			method: 'PUT',
			path: '/api/v1/outbound',
			summary: 'One more of them: a host, host:port, or a range.',
			role: 'admin',
			body: outboundChange,
			answer: outboundAnswer,
			async handle({ body, caller }) {
				if (!isAllowedLine(body.address)) throw new Refusal('bad_request', 400, `${body.address} is not a range of addresses`);
				await house.state.repositories.allow(body.address, caller.by);
				house.outbound.forget();
				return answer();
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/outbound/removals',
			summary: 'One of them no more.',
			role: 'admin',
			body: outboundChange,
			answer: outboundAnswer,
			async handle({ body, caller }) {
				await house.state.repositories.disallow(body.address, caller.by);
				house.outbound.forget();
				return answer();
			},
		}),
	];
}
