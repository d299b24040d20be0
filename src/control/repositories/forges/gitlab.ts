import { z } from 'zod';
import { one, same, short, type ForgeDialect } from './forge.ts';

const project = z.object({ path_with_namespace: z.string().max(500) });
const push = z.object({ ref: z.string().max(300), project });
const pull = z.object({
	project,
	user: z.object({ username: z.string().max(200) }),
	object_attributes: z.object({
		iid: z.int().positive(),
		title: z.string().transform((text) => text.slice(0, 300)),
		state: z.string(),
		source_branch: z.string().max(300),
		source_project_id: z.int().nullable(),
		target_project_id: z.int(),
		last_commit: z.object({ id: z.string().regex(/^[0-9a-f]{40,64}$/) }),
		source: project.nullish(),
	}),
});
const anything = z.object({ project: project.optional() });

const STATES = { pending: 'running', success: 'success', failure: 'failed', error: 'failed' } as const;

/** It shows the secret itself instead of signing. */
export const gitlab: ForgeDialect = {
	signed: (headers, _body, secret) => same(headers['x-gitlab-token'], secret),
	delivery: (headers) => one(headers['idempotency-key']) ?? one(headers['x-gitlab-event-uuid']),
	read(headers, body) {
		const event = one(headers['x-gitlab-event']) ?? '';
		if (event === 'Push Hook') {
			const { ref, project: of } = push.parse(body);
			return { type: 'push', ref, of: of.path_with_namespace };
		}
		if (event !== 'Merge Request Hook') return { type: 'other', event, of: anything.parse(body).project?.path_with_namespace ?? null };
		const { project: of, user, object_attributes: asked } = pull.parse(body);
		return {
			type: 'pull',
			of: of.path_with_namespace,
			pull: {
				number: asked.iid,
				ref: `refs/merge-requests/${asked.iid}/head`,
				commit: asked.last_commit.id,
				branch: asked.source_branch,
				from: asked.source?.path_with_namespace ?? null,
				fork: asked.source_project_id !== asked.target_project_id,
				title: asked.title,
				author: user.username,
				state: asked.state === 'opened' ? 'open' : 'closed',
			},
		};
	},
	status: ({ api, path, token, status }) => ({
		method: 'POST',
		url: `${api}/projects/${encodeURIComponent(path)}/statuses/${status.commit}`,
		headers: { 'private-token': token, 'content-type': 'application/json' },
		body: JSON.stringify({
			state: STATES[status.state],
			target_url: status.url,
			description: short(status.description),
			name: status.context,
		}),
	}),
};
