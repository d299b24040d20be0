import type { z } from 'zod';
import { bad, ok, warn, type Finding } from '#process/checkup.ts';
import { doctorAnswer } from '#wire/api.ts';
import { localFindings } from './checkup/here.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { ApiFailure, ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

const MARK = { ok: '✓', warn: '!', bad: '✗' } as const;

/** `jibe doctor`: looks at this machine, at what control stands on, and at every server, and says what to do. */
export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const here = localFindings(data);
		const { findings: there, servers } = await elsewhere(data);
		const findings = [...here, ...there];
		const healthy = [findings, ...servers.map((server) => server.findings)].flat().every(({ state }) => state !== 'bad');
		out.result({ healthy, findings, servers }, [
			...findings.flatMap(linesOf),
			...servers.flatMap(({ name, region, findings: theirs }) => [
				`${name} (${region})`,
				...brief(theirs)
					.flatMap(linesOf)
					.map((line) => `  ${line}`),
			]),
		]);
		return healthy ? EXIT.done : EXIT.jibe;
	},
};

type Elsewhere = z.infer<typeof doctorAnswer>;

/** On a joined server, its connections; else what control says. */
async function elsewhere(data: string): Promise<Elsewhere> {
	const { readIdentity } = await import('./up/check-in.ts');
	const identity = readIdentity(data);
	if (identity !== null) {
		const { joinedFindings } = await import('./checkup/joined.ts');
		return { findings: await joinedFindings(data, identity), servers: [] };
	}
	try {
		return doctorAnswer.parse(await ask(findServer(data), { path: '/api/v1/doctor' }));
	} catch (error) {
		if (!(error instanceof Failure)) throw error;
		return { findings: [unanswered(error)], servers: [] };
	}
}

function unanswered(error: Failure): Finding {
	if (error instanceof ApiFailure && error.status === 404) {
		return warn('control', 'answers, but is of an older version that can not say more', 'jibe upgrade');
	}
	if (error instanceof ApiFailure && error.status === 403)
		return warn('control', 'answers', 'with the token of an administrator it says more');
	return bad('control', error.message, error.hint ?? 'jibe up starts what is missing');
}

/** A server that is well takes one line. */
function brief(findings: readonly Finding[]): Finding[] {
	const notable = findings.filter(({ state }) => state !== 'ok');
	return notable.length > 0 ? notable : [ok('server', 'is well')];
}

function linesOf({ check, state, detail, hint }: Finding): string[] {
	return [`${MARK[state]} ${check}: ${detail}`, ...(hint === null ? [] : hint.split('\n').map((line) => `  ${line}`))];
}
