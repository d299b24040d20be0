import { hmac, one, same, short, type ForgeDialect } from './forge.ts';
import { readPayload } from './github.ts';

/** Gitea, and Forgejo, which came of it. */
export const gitea: ForgeDialect = {
	signed: (headers, body, secret) => same(headers['x-forgejo-signature'] ?? headers['x-gitea-signature'], hmac(secret, body)),
	delivery: (headers) => one(headers['x-forgejo-delivery']) ?? one(headers['x-gitea-delivery']),
	read: (headers, body) => readPayload(one(headers['x-forgejo-event']) ?? one(headers['x-gitea-event']) ?? '', body),
	status: ({ api, path, token, status }) => ({
		method: 'POST',
		url: `${api}/repos/${path.split('/').map(encodeURIComponent).join('/')}/statuses/${status.commit}`,
		headers: { authorization: `token ${token}`, 'content-type': 'application/json' },
		body: JSON.stringify({ state: status.state, target_url: status.url, description: short(status.description), context: status.context }),
	}),
};
