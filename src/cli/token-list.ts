import { systemClock } from '#clock/clock.ts';
import type { Token } from '#wire/api.ts';
import { EXIT, type Exit } from './failure.ts';
import { ago, table } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const { tokens } = (await ask(findServer(data), { path: '/api/v1/tokens' })) as { tokens: Token[] };
		const now = systemClock.now();
		const rows = tokens.map((token) => [
			token.id,
			token.name,
			token.role,
			token.apps?.join(',') ?? 'all',
			token.environments?.join(',') ?? 'all',
			token.lastUsedAt === null ? 'never' : ago(now - token.lastUsedAt),
			state(token, now),
		]);
		out.result({ tokens }, table(['id', 'name', 'role', 'apps', 'environments', 'used', 'state'], rows));
		return EXIT.done;
	},
};

function state({ revokedAt, expiresAt }: Token, now: number): string {
	if (revokedAt !== null) return 'revoked';
	return expiresAt !== null && expiresAt <= now ? 'expired' : 'valid';
}
