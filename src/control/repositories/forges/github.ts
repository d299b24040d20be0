import { z } from 'zod';
import { hmac, one, same, short, type ForgeDialect, type Told } from './forge.ts';

const repo = z.object({ full_name: z.string().max(500) });
export const pushPayload = z.object({ ref: z.string().max(300), repository: repo.optional() });

/** Gitea and Forgejo send the same. */
export const pullPayload = z.object({
	number: z.int().positive(),
	repository: repo.optional(),
	pull_request: z.object({
		title: z.string().transform((text) => text.slice(0, 300)),
		state: z.enum(['open', 'closed']),
		user: z.object({ login: z.string().max(200) }),
		head: z.object({ sha: z.string().regex(/^[0-9a-f]{40,64}$/), ref: z.string().max(300), repo: repo.nullish() }),
		base: z.object({ repo }),
	}),
});
const anything = z.object({ repository: repo.optional() });

export const github: ForgeDialect = {
	signed: (headers, body, secret) => same(headers['x-hub-signature-256'], `sha256=${hmac(secret, body)}`),
	delivery: (headers) => one(headers['x-github-delivery']),
	read: (headers, body) => readPayload(one(headers['x-github-event']) ?? '', body),
	status: ({ api, path, token, status }) => ({
		method: 'POST',
		url: `${api}/repos/${path.split('/').map(encodeURIComponent).join('/')}/statuses/${status.commit}`,
		headers: { authorization: `Bearer ${token}`, accept: 'application/vnd.github+json', 'content-type': 'application/json', 'x-github-api-version': '2022-11-28' }, // prettier-ignore
		body: JSON.stringify({ state: status.state, target_url: status.url, description: short(status.description), context: status.context }),
	}),
};

export function readPayload(event: string, body: unknown): Told {
	if (event === 'push') {
		const { ref, repository } = pushPayload.parse(body);
		return { type: 'push', ref, of: repository?.full_name ?? null };
	}
	if (event === 'pull_request') {
		const { number, pull_request: pull, repository } = pullPayload.parse(body);
		const { head, base, title, state, user } = pull;
		const from = head.repo?.full_name ?? null;
		return {
			type: 'pull',
			of: repository?.full_name ?? null,
			pull: { number, ref: `refs/pull/${number}/head`, commit: head.sha, branch: head.ref, from, fork: from !== base.repo.full_name, title, author: user.login, state }, // prettier-ignore
		};
	}
	return { type: 'other', event, of: anything.parse(body).repository?.full_name ?? null };
}
