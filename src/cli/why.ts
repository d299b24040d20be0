import { systemClock } from '#clock/clock.ts';
import type { WhyAnswer } from '#wire/steps.ts';
import { EXIT, type Exit } from './failure.ts';
import { ago } from './output.ts';
import { deploymentId, needApp } from './project.ts';
import { ask, findServer, type Server } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** What made a step run again, or would have: which part of its key is not what it was the time before. */
export const verb: Verb = {
	syntax: { options: {}, positionals: ['STEP', 'APP'], optional: 1 },
	async run({ args, out, environment, data }: Invocation): Promise<Exit> {
		const [step, word] = args.positionals;
		const build = word?.startsWith('dpl_') ? deploymentId(word) : null;
		const server = findServer(data);
		const of = build === null ? { app: await needApp(word), environment } : await whatWasBuilt(server, build);
		const query = new URLSearchParams({ environment: of.environment, ...(build === null ? {} : { deployment: build }) });
		const path = `/api/v1/apps/${encodeURIComponent(of.app)}/steps/${encodeURIComponent(step!)}/why?${query.toString()}`;
		const answer = (await ask(server, { path })) as WhyAnswer;
		out.result(answer, lines(answer));
		return EXIT.done;
	},
};

async function whatWasBuilt(server: Server, id: string): Promise<{ app: string; environment: string }> {
	const { build } = (await ask(server, { path: `/api/v1/builds/${id}` })) as { build: { app: string; environment: string } };
	return build;
}

const SHOWN_CHANGES = 30;

function lines({ step, run, before, changes, more }: WhyAnswer): string[] {
	const now = systemClock.now();
	const head = `${step} ${run.cached ? 'came from the cache' : 'ran'} in ${run.deployment}, ${ago(now - run.at)}`;
	if (before === null) return [head, 'it never ran here before: there is nothing to compare with'];
	const since = `since ${before.deployment}, ${ago(now - before.at)}`;
	if (changes.length === 0) {
		const why = run.cached ? '' : ': what it made then was not kept, or it failed';
		return [head, `nothing it depends on is different ${since}${why}`];
	}
	const left = changes.length + more - Math.min(changes.length, SHOWN_CHANGES);
	return [
		head,
		`different ${since}:`,
		...changes.slice(0, SHOWN_CHANGES).map((change) => `  ${words(change)}`),
		...(left > 0 ? [`  and ${left} more`] : []),
	];
}

type Change = WhyAnswer['changes'][number];

const PARTS: Readonly<Record<string, string>> = {
	run: 'its command',
	env: 'the variable',
	secrets: 'the secrets it names',
	network: 'whether it may use the network',
	outputs: 'what it says it makes',
	strip: 'whether it is stripped',
	directory: "the app's directory",
	epoch: "the commit's time",
	platform: 'the platform',
	toolchain: "the tools of the builder's machine",
	sandbox: 'whether it runs isolated',
	dependencies: 'the installed dependencies',
};

function words({ part, name, before, now }: Change): string {
	if (part === 'inputs') return name === null ? 'its files' : `${name} ${verbOf(before, now, 'changed')}`;
	if (part === 'needs') return `what ${name} made ${verbOf(before, now, 'is different')}`;
	const what = `${PARTS[part] ?? part}${name === null ? '' : ` ${name}`}`;
	if (before === null || now === null) return `${what}: ${before === null ? `now ${short(now)}` : `was ${short(before)}, now unset`}`;
	return now.startsWith('sha256:') ? what : `${what}: ${short(before)} → ${short(now)}`;
}

function verbOf(before: string | null, now: string | null, both: string): string {
	return before === null ? 'is new' : now === null ? 'is gone' : both;
}

const MAX_SHOWN_CHARS = 120;

function short(text: string | null): string {
	const line = (text ?? 'nothing').replaceAll(/\s+/g, ' ');
	return line.length > MAX_SHOWN_CHARS ? `${line.slice(0, MAX_SHOWN_CHARS)}…` : line;
}
