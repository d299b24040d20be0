import type { IncomingMessage } from 'node:http';
import { createGunzip } from 'node:zlib';
import { targetOf, type BranchTarget } from '#pipeline/branches.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import type { BuildNews } from '#wire/builds.ts';
import { PRODUCTION } from '#wire/names.ts';
import { branchRules } from '#wire/repositories.ts';
import { authorise, type Caller } from '../access.ts';
import { follow } from '../builds/builds.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import type { Queued } from '../repositories/look.ts';
import { previewOf } from '../repositories/previews.ts';
import { appsIn, BY_PUSH } from './apps-in.ts';
import { branchOf, isTag, readCommands, type Command, type Commands } from './commands.ts';
import { FLUSH, PktError, pktLine, PktReader } from './pkt-line.ts';
import { PushAnswer, type Outcome } from './sideband.ts';
import { swallow, take, type Push } from './take.ts';
import { endingOf, wordsOf } from './words.ts';

/** `git push`: what is sent is taken, what its branches deploy is built, and the push shows it until it is live. */

const MAX_COMMAND_BYTES = 256 * 1024;

export async function receivePush(push: Push): Promise<void> {
	const { house, name, request, response } = push;
	const row = await house.state.repositories.get(name);
	const reader = new PktReader(unzipped(request), MAX_COMMAND_BYTES);
	const lines = await sectionOf(reader);
	// git tries with nothing whether it may, before it sends what is large.
	if (lines === null || lines.length === 0) return void response.writeHead(200, { 'content-type': RESULT }).end();
	const asked = commandsOf(lines);
	const answer = new PushAnswer(response, asked.capabilities.has('side-band-64k'), house.clock);
	try {
		answer.report(await outcome(push, row, asked, answer, again(lines, reader)));
	} catch (error) {
		const problem = problemIn(push, error);
		answer.report(asked.commands.map(({ ref }) => ({ ref, problem })));
	}
	answer.end();
	tidy(push).catch((error: unknown) => house.log.warn('repository.untidy', { repository: name, error }));
}

/** What becomes of each branch and tag: as git ends then, so does whoever waits for it. */
async function outcome(
	push: Push,
	row: RepositoryRow | null,
	asked: Commands,
	answer: PushAnswer,
	pieces: AsyncGenerator<Buffer>,
): Promise<Outcome[]> {
	const refused = await whyNot(push, row, asked);
	if (refused.length > 0) {
		await swallow(pieces);
		return refused;
	}
	const { taken, problem, said } = await take(push, asked, pieces);
	for (const line of said) answer.say(line);
	if (taken === null) return asked.commands.map(({ ref }) => ({ ref, problem }));
	const failed = await deployAll(push, row, answer, { commands: asked.commands, taken });
	return asked.commands.map(({ ref }) => ({ ref, problem: failed.get(ref) ?? null }));
}

async function tidy({ house, name }: Push): Promise<void> {
	await house.git.tidy(name);
	await house.kept.consolidate(name);
}

const RESULT = 'application/x-git-receive-pack-result';

/** All of it, or nothing: a person who has no right to one branch thinks again about the others. */
async function whyNot(push: Push, row: RepositoryRow | null, { commands }: Commands): Promise<Outcome[]> {
	const problems = await Promise.all(commands.map(async ({ ref }) => ({ ref, problem: await problemOf(push, row, ref) })));
	if (problems.every(({ problem }) => problem === null)) return [];
	return problems.map(({ ref, problem }) => ({ ref, problem: problem ?? 'another branch of this push was refused' }));
}

async function problemOf({ house, name, caller }: Push, row: RepositoryRow | null, ref: string): Promise<string | null> {
	const branch = branchOf(ref);
	if (branch === null) return isTag(ref) ? null : 'only branches and tags are kept here';
	const target = targetOf(branch, row?.rules ?? branchRules.parse({}));
	if (target === null) return null;
	try {
		for (const { app } of row?.apps ?? [{ app: name }]) await mayDeploy(house, caller, app, branch, target);
		return null;
	} catch (error) {
		if (error instanceof Refusal) return error.message;
		throw error;
	}
}

/** @throws Refusal 403 */
async function mayDeploy(house: House, caller: Caller, app: string, branch: string, target: BranchTarget): Promise<void> {
	authorise(caller, 'deployer', { app, environment: target === 'preview' ? await previewOf(house, app, branch) : PRODUCTION });
}

/** Answers the branches of which not all is live, and why: they have moved all the same. */
async function deployAll(
	push: Push,
	known: RepositoryRow | null,
	answer: PushAnswer,
	{ commands, taken }: { commands: readonly Command[]; taken: string },
): Promise<Map<string, string>> {
	const { house, name, pushes, caller } = push;
	const builds: (Queued & { ref: string })[] = [];
	const failed = new Map<string, string>();
	for (const { ref, from, to } of commands) {
		const branch = branchOf(ref);
		if (branch === null) continue;
		try {
			const row = to === null ? known : await rowOf(push, known, branch, to);
			if (row === null) continue;
			const of = { row, branch, by: caller.by };
			const queued = (one: Queued) => builds.push({ ...one, ref });
			answer.say(to === null ? await pushes.gone(of) : await pushes.moved({ ...of, before: from, after: to, queued }));
		} catch (error) {
			failed.set(ref, problemIn(push, error));
		}
	}
	house.state.repositories.pushed
		.told(name, taken)
		.catch((error: unknown) => house.log.warn('push.told_again', { repository: name, error }));
	const alone = builds.length === 1;
	const lived = await Promise.all(builds.map(({ id, app }) => show(push, answer, id, alone ? '' : `${app}: `)));
	builds.forEach(({ ref }, at) => {
		if (!lived[at]) failed.set(ref, 'it is here, and not live; what served goes on');
	});
	return failed;
}

/** For whoever pushed. */
function problemIn({ house, name }: Push, error: unknown): string {
	if (error instanceof Refusal) return `${error.message}${error.hint === null ? '' : ` (${error.hint})`}`;
	house.log.error('push.failed', { repository: name, error });
	return 'control failed; its log says why';
}

/** Until it has ended, or nobody looks any more. `before`: goes before each line. */
function show({ house, response }: Push, answer: PushAnswer, id: string, before: string): Promise<boolean> {
	return new Promise((resolve) => {
		const told = new Set<string>();
		const leave = () => {
			stop();
			resolve(true);
		};
		const stop = follow(house, id, (news: BuildNews) => {
			if (news.type === 'end') {
				const { live, lines } = endingOf(news.end);
				for (const line of lines) answer.say(`${before}${line}`);
				response.off('close', leave);
				return resolve(live);
			}
			const words = wordsOf(news);
			if (words === null || told.has(words)) return;
			told.add(words);
			answer.say(`${before}${words}`);
		});
		response.once('close', leave);
	});
}

/** What the repository holds by now; whoever made its row with `jibe repo add` has said it. */
async function rowOf({ house, name, caller }: Push, known: RepositoryRow | null, branch: string, commit: string): Promise<RepositoryRow> {
	const apps = (await appsIn({ directory: house.git.directory(name) }, commit, name, known)).map(({ app, directory }) => ({
		app,
		directory,
	}));
	const target = targetOf(branch, known?.rules ?? branchRules.parse({}));
	for (const { app } of apps) {
		authorise(caller, 'deployer', { app });
		if (target !== null) await mayDeploy(house, caller, app, branch, target);
	}
	if (known && JSON.stringify(known.apps) === JSON.stringify(apps)) return known;
	if (known && !known.by.startsWith(BY_PUSH)) return known;
	for (const other of await house.state.repositories.list()) {
		const shared = other.name === name ? undefined : other.apps.find(({ app }) => apps.some((mine) => mine.app === app));
		if (shared)
			throw new Refusal(
				'app_elsewhere',
				409,
				`${shared.app} is deployed from the repository ${other.name}`,
				`jibe repo remove ${other.name}`,
			);
	}
	const rules = known?.rules ?? branchRules.parse({});
	return house.state.repositories.put({ name, forge: 'push', url: null, api: null, apps, rules, by: `${BY_PUSH}${caller.by}` });
}

async function sectionOf(reader: PktReader): Promise<Buffer[] | null> {
	try {
		return await reader.section();
	} catch (error) {
		throw malformed(error);
	}
}

function commandsOf(lines: readonly Buffer[]): Commands {
	try {
		return readCommands(lines);
	} catch (error) {
		throw malformed(error);
	}
}

function malformed(error: unknown): unknown {
	return error instanceof PktError ? new Refusal('bad_push', 400, error.message, 'push with git itself') : error;
}

/** What was read of it to judge it, and the rest. */
async function* again(lines: readonly Buffer[], reader: PktReader): AsyncGenerator<Buffer> {
	const first = lines.findIndex((line) => line.includes(0));
	yield Buffer.concat([...lines.map((line, at) => pktLine(at === first ? atomic(line) : line)), Buffer.from(FLUSH)]);
	yield* reader.rest();
}

/** Said or not: branches move together, so that control is asked once. */
function atomic(line: Buffer): Buffer {
	return Buffer.concat([Buffer.from(line.toString('latin1').replace(/\n$/, ''), 'latin1'), Buffer.from(' atomic')]);
}

function unzipped(request: IncomingMessage): AsyncIterable<Buffer> {
	if (!/^(x-)?gzip$/i.test(request.headers['content-encoding'] ?? '')) return request;
	const gunzip = createGunzip();
	request.on('error', (error) => gunzip.destroy(error)).pipe(gunzip);
	return gunzip;
}
