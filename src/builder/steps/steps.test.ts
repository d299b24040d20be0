import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { randomId, sha256 } from '#digest/digest.ts';
import type { BuildJob, BuildLogLine, NewBuild, StepReport } from '#wire/builds.ts';
import { configFor, parseConfigFile } from '#wire/config-file.ts';
import { issueCredential } from '#wire/credential.ts';
import { planSteps, type WhyAnswer } from '#wire/steps.ts';
import { newBuild } from '../../../test/fixtures/build.ts';
import { startControl, type TestControl } from '../../../test/fixtures/control.ts';
import { startCluster, testLog, type TestCluster } from '../../../test/fixtures/database.ts';
import { Attempt, Stopped } from '../attempt.ts';
import { connectControl } from '../control.ts';
import { BuildFault } from '../fault.ts';
import type { Ground, Ran } from '../ground.ts';
import { reachOf } from '../reach.ts';
import { openSandboxes } from '../sandbox/open.ts';
import type { Sandboxes } from '../sandbox/sandbox.ts';
import { whyNot } from '../sandbox/testbed.ts';
import { openSteps } from './open.ts';

const PLATFORM = 'linux-x64-glibc';
const shared = mkdtempSync(join(tmpdir(), 'jibe-steps-'));
let cluster: TestCluster;
let sandboxes: Sandboxes | null = null;
before(async () => {
	cluster = await startCluster();
	if (whyNot() === false) sandboxes = await openSandboxes({ directory: join(shared, 'sandboxes'), log: testLog });
});
after(async () => {
	await sandboxes?.close();
	await cluster.stop();
	rmSync(shared, { recursive: true, force: true });
});

/** One build after the other of the same source, as a builder makes them. */
class Bench {
	readonly house: TestControl;
	readonly checkout: string;
	/** An app and a repository of its own. */
	readonly app = `notes-${randomId()}`;
	readonly #root = mkdtempSync(join(shared, 'bench-'));

	constructor(house: TestControl) {
		this.house = house;
		this.checkout = join(this.#root, 'checkouts', 'one');
	}

	write(files: Record<string, string | null>): void {
		for (const [path, text] of Object.entries(files)) {
			mkdirSync(dirname(join(this.checkout, path)), { recursive: true });
			if (text === null) rmSync(join(this.checkout, path));
			else writeFileSync(join(this.checkout, path), text);
		}
	}

	async build(config: object, of: Partial<NewBuild> & Circumstances = {}): Promise<Built> {
		const { secrets = {}, ground: other = {}, stopAt = null, ...change } = of;
		const { house } = this.house.control;
		const commit = sha256(randomId()).slice(7, 47);
		await house.state.builds.enqueue(newBuild({ commit, platform: PLATFORM, app: this.app, lane: this.app, ...change }));
		const claimed = await house.state.builds.claim({ worker: `b-${randomId()}`, platform: PLATFORM, leaseMs: 60_000, limitMs: 60_000 });
		assert(claimed);
		const job: BuildJob = { ...claimed, secrets, env: {}, reach: { allowed: [], own: [] } };
		const worker = (await house.state.builds.build(job.id))!.worker!;
		const claims = { installation: house.installation.id, role: 'builder' as const, server: 'local', regions: [], expires: 4_000_000_000 };
		const credential = issueCredential(claims, house.installation.privatePem);
		const control = connectControl({ addresses: () => [this.house.control.url], credential: () => credential });
		const attempt = new Attempt(job, { worker, control, log: testLog });
		if (stopAt !== null) stopAtLine(attempt, stopAt);
		const temporary = join(this.#root, 'temporary', job.id);
		mkdirSync(temporary, { recursive: true });
		const parsed = configFor(parseConfigFile(JSON.stringify({ app: this.app, entry: 'a.ts', ...config }), 'jibe.json'));
		const ground: Ground = {
			attempt,
			job,
			config: parsed,
			checkout: this.checkout,
			directory: job.directory,
			layers: [],
			mounts: [],
			caches: [],
			env: {},
			path: [],
			dependencies: null,
			sandboxes: async () => sandboxes!,
			reach: () => reachOf(job),
			toolchain: sha256('toolchain'),
			commitTimeS: 1_700_000_000,
			temporary,
			log: testLog,
			...other,
		};
		const steps = await openSteps(ground);
		const built: Built = { id: job.id, files: {}, reports: {}, fault: null, log: [], ran: null, stopped: null };
		try {
			const plan = planSteps(parsed);
			for (const kind of ['build', 'test'] as const) {
				const ran = await steps.run(plan.filter((step) => step.kind === kind));
				for (const file of ran.outputs) built.files[file.path] = file.target ?? readFileSync(file.at, 'utf8');
				built.ran ??= ran;
			}
		} catch (error) {
			if (error instanceof Stopped) built.stopped = error.why;
			else if (error instanceof BuildFault) built.fault = error;
			else throw error;
		} finally {
			await steps.close();
		}
		await attempt.end(built.fault?.state ?? 'Cancelled', null, null);
		attempt.close();
		control.close();
		const view = (await house.state.builds.build(job.id))!;
		built.reports = Object.fromEntries(view.steps.map((report) => [report.name, report]));
		const log = await this.house.ask('GET', `/api/v1/builds/${job.id}/log`);
		const lines = log.text === '' ? [] : log.lines<BuildLogLine>();
		built.log = lines.map(({ step, stream, text }) => `${step} ${stream} ${text}`);
		return built;
	}

	/** `css passed cached, test failed`: in the order of their names. */
	async states(...of: Parameters<Bench['build']>): Promise<string> {
		return statesOf(await this.build(...of));
	}
}

interface Circumstances {
	secrets?: Record<string, string>;
	ground?: Partial<Ground>;
	/** Somebody cancels it once a step prints this. */
	stopAt?: string;
}

function stopAtLine(attempt: Attempt, line: string): void {
	const tell = attempt.line.bind(attempt);
	attempt.line = (step, stream, text) => {
		tell(step, stream, text);
		if (text === line) attempt.stop(new Stopped('cancelled'));
	};
}

interface Built {
	id: string;
	files: Record<string, string>;
	reports: Record<string, StepReport>;
	fault: BuildFault | null;
	log: string[];
	ran: Ran | null;
	stopped: string | null;
}

function statesOf({ reports }: Built): string {
	const named = Object.values(reports).toSorted((a, b) => (a.name < b.name ? -1 : 1));
	return named.map(({ name, state, cached }) => `${name} ${state}${cached ? ' cached' : ''}`).join(', ');
}

const stories: { name: string; run: (b: Bench) => Promise<void> }[] = [];
function story(name: string, run: (b: Bench) => Promise<void>): void {
	stories.push({ name, run });
}

test('steps', { skip: whyNot() }, async (t) => {
	const house = await startControl(t, cluster);
	for (const { name, run } of stories) await t.test(name, () => run(new Bench(house)));
});

story('see their inputs and what those before them made, and nothing else; the same again comes from the cache', async (b) => {
	b.write({ 'words.txt': 'one two\n', 'other.txt': 'x\n', 'package.json': '{}' });
	const config = {
		build: {
			upper: { run: 'ls; tr a-z A-Z < words.txt > upper.txt; echo done >&2', inputs: ['words.txt'], outputs: ['upper.txt'] },
			count: { run: 'wc -w < upper.txt > made/count.txt', inputs: ['nothing'], outputs: ['made/**'], needs: ['upper'] },
			list: {
				run: 'ls > list.txt; mkdir -p deep/er && ln -s ../../list.txt deep/er/link && chmod +x list.txt',
				outputs: ['list.txt', 'deep'],
			},
		},
		test: { check: { run: 'cat upper.txt made/count.txt deep/er/link && test -x list.txt' } },
	};
	const first = await b.build(config);
	assert.equal(first.fault, null, first.fault?.detail());
	assert.equal(statesOf(first), 'check passed, count passed, list passed, upper passed');
	assert.deepEqual(first.files, {
			'upper.txt': 'ONE TWO\n', 'made/count.txt': '2\n', 'list.txt': 'list.txt\nother.txt\npackage.json\nwords.txt\n',
			'deep/er/link': '../../list.txt',
		}); // prettier-ignore
	assert.deepEqual(first.log.filter((line) => line.startsWith('upper')), ['upper out package.json', 'upper out words.txt', 'upper err done']); // prettier-ignore
	const again = await b.build(config);
	assert.equal(statesOf(again), 'check passed cached, count passed cached, list passed cached, upper passed cached');
	assert.deepEqual(again.files, first.files);
	assert.match(again.log.find((line) => line.startsWith('upper jibe')) ?? '', /taken from the cache/);
	assert.deepEqual(again.log.filter((line) => line.startsWith('upper ') && !line.includes(' jibe ')), ['upper out package.json', 'upper out words.txt', 'upper err done']); // prettier-ignore
	assert.equal(again.reports['upper']!.exitCode, 0);
	assert.equal(again.reports['upper']!.key, first.reports['upper']!.key);
});

story('a change runs what it concerns, and stops where the outcome is the same; why tells what it was', async (b) => {
	b.write({ 'words.txt': 'one two\n', 'other.txt': 'x\n' });
	const config = {
		build: {
			upper: { run: 'tr a-z A-Z < words.txt > upper.txt', inputs: ['words.txt'], outputs: ['upper.txt'] },
			count: { run: 'wc -w < upper.txt > count.txt', inputs: ['nothing'], outputs: ['count.txt'], needs: ['upper'] },
		},
	};
	await b.build(config);
	b.write({ 'other.txt': 'y\n' });
	assert.equal(await b.states(config), 'count passed cached, upper passed cached');
	b.write({ 'words.txt': 'ONE two\n' });
	const rebuilt = await b.build(config);
	assert.equal(statesOf(rebuilt), 'count passed cached, upper passed', 'upper.txt is the same as before');
	const why = async (step: string, query = '') =>
		(await b.house.ask('GET', `/api/v1/apps/${b.app}/steps/${step}/why?environment=production${query}`)).json<WhyAnswer>();
	const { changes, run, before: last } = await why('upper');
	assert.deepEqual(changes.map(({ part, name }) => [part, name]), [['inputs', 'words.txt']]); // prettier-ignore
	assert.deepEqual([run.deployment, run.cached, last !== null], [rebuilt.id, false, true]);
	assert.deepEqual((await why('count')).changes, []);
	const other = { build: { ...config.build, upper: { ...config.build.upper, env: { MODE: 'x' } } } };
	assert.equal(await b.states(other), 'count passed cached, upper passed');
	assert.deepEqual((await why('upper')).changes, [{ part: 'env', name: 'MODE', before: null, now: 'x' }]);
	assert.deepEqual((await why('upper', `&deployment=${rebuilt.id}`)).changes.map(({ name }) => name), ['words.txt']); // prettier-ignore
	const unknown = await b.house.ask('GET', `/api/v1/apps/${b.app}/steps/lower/why?environment=production`);
	assert.equal(unknown.status, 404);
	assert.match(unknown.json().error.hint ?? '', /count, upper/);
});

story('a command alone sees everything, and what it wrote counts; what is installed or was there does not', async (b) => {
	b.write({ 'a.txt': 'a\n', 'b.txt': 'b\n', 'app/c.txt': 'c\n' });
	const { files } = await b.build({
		build: 'echo more >> a.txt; touch -d 2001-01-01 b.txt; mkdir -p node_modules/x out; echo 1 > node_modules/x/y; echo 2 > out/z',
	});
	assert.deepEqual(files, { 'a.txt': 'a\nmore\n', 'out/z': '2\n' });
	assert.equal(readFileSync(join(b.checkout, 'a.txt'), 'utf8'), 'a\n', 'the source itself stays as it was');
	const inFolder = await b.build({ build: 'pwd; ls .. > seen.txt' }, { directory: 'app' });
	assert.deepEqual([inFolder.files, inFolder.fault], [{ 'app/seen.txt': 'app\n' }, null], 'of the others only what was asked for');
	const watching = await b.build({ build: 'ls .. > seen.txt', watch: ['a.*'] }, { directory: 'app' });
	assert.deepEqual(watching.files, { 'app/seen.txt': 'a.txt\napp\n' });
});

story("the commit's time is seen by those that ask for it; PATH starts with the app's own tools", async (b) => {
	b.write({ 'node_modules/.bin/mine': '#!/bin/sh\necho mine\n' });
	const config = {
		build: {
			plain: { run: 'echo $SOURCE_DATE_EPOCH $MODE > plain.txt', outputs: ['*.txt'], env: { MODE: 'x y' } },
			dated: { run: 'echo $SOURCE_DATE_EPOCH > dated.txt; echo $PATH > path.txt', outputs: ['*.txt', '!plain*'], commitTime: true },
		},
	};
	const { files } = await b.build(config, { ground: { path: ["/opt/it's"] } });
	assert.equal(files['plain.txt'], '0 x y\n');
	assert.equal(files['dated.txt'], '1700000000\n');
	assert.match(files['path.txt']!, /^[^:]+\/node_modules\/\.bin:\/opt\/it's:.*\/usr\/bin/);
	assert.equal(await b.states(config, { ground: { commitTimeS: 1_700_000_001 } }), 'dated passed, plain passed cached');
});

story('a step that fails ends the build with its last lines; tests are all run, and told by what their runner says', async (b) => {
	b.write({ 'a.txt': 'a\n' });
	const build = {
		good: { run: 'cp a.txt good.txt', outputs: ['good.txt'] },
		bad: { run: 'echo first; echo broken >&2; exit 3' },
		after: { run: 'true', needs: ['bad'] },
	};
	const failed = await b.build({ build, test: { t: { run: 'true' } } });
	assert.deepEqual([failed.fault?.state, failed.fault?.reason], ['BuildFailed', 'build_step']);
	assert.equal(failed.fault?.detail(), 'The step bad failed: exit code 3\nfirst\nbroken');
	assert.match(statesOf(failed), /^after skipped, bad failed, good (passed|skipped)$/);
	assert.equal(failed.reports['bad']!.exitCode, 3);
	const test = {
		one: { run: "printf '✖ failing tests:\\n\\ntest at a.js:1\\n✖ adds (1.2ms)\\n'; printf 'ℹ tests 2\\nℹ pass 1\\nℹ fail 1\\n'; exit 1" },
		two: { run: 'echo ok; sleep 0.2' },
		three: { run: 'kill -9 $$' },
	};
	const tested = await b.build({ test });
	assert.deepEqual([tested.fault?.state, tested.fault?.reason], ['TestFailed', 'tests']);
	assert.equal(statesOf(tested), 'one failed, three failed, two passed');
	assert.equal(tested.reports['one']!.summary, 'node:test: 1 of 2 failed: adds (exit code 1)');
	assert.match(
		tested.fault!.detail(),
		/^The step one failed: node:test: 1 of 2 failed: adds.*\n✖ failing tests:[^]*The step three failed: (ended by SIGKILL|exit code 137)(\nKilled)?$/,
	);
	assert.equal(await b.states({ test }), 'one failed, three failed, two passed cached', 'what failed is run again');
});

story('a step that takes too long is ended, and what it would have made is not there', async (b) => {
	b.write({ 'a.txt': 'a\n' });
	const { fault, reports } = await b.build({ build: { slow: { run: 'echo x > x; sleep 100', outputs: ['x'], timeout: '300ms' } } });
	assert.equal(fault?.detail(), 'The step slow failed: it took longer than its timeout of 0.3 s');
	assert.equal(reports['slow']!.exitCode, null);
});

story('steps that do not need each other run at once', async (b) => {
	b.write({ 'a.txt': 'a\n' });
	const { reports } = await b.build({ build: { one: { run: 'sleep 0.3', outputs: [] }, two: { run: 'sleep 0.3', outputs: [] } } });
	const { one, two } = reports as Record<'one' | 'two', StepReport>;
	assert(one.startedAt < two.endedAt! && two.startedAt < one.endedAt!);
});

story('secrets are files for those that name them, and nowhere in what is kept', async (b) => {
	b.write({ 'a.txt': 'a\n' });
	const value = 'hunter2hunter2-hunter2';
	const build = {
		uses: {
			run: 'printf "%s\\n" "$(cat /run/secrets/TOKEN)"; base64 < /run/secrets/TOKEN; printf hunter2; sleep 0.2; echo hunter2-hunter2; env | grep -c hunter || true',
			secrets: ['TOKEN'],
			outputs: [],
		},
		blind: { run: 'ls -A /run/secrets | wc -l', outputs: [] },
	};
	const { fault, log } = await b.build({ build }, { secrets: { TOKEN: value, OTHER: 'other-value' } });
	assert.equal(fault, null, fault?.detail());
	assert.deepEqual(log.filter((line) => line.startsWith('uses out')), ['uses out [secret TOKEN]', 'uses out [secret TOKEN]', 'uses out [secret TOKEN]', 'uses out 0']); // prettier-ignore
	assert(log.includes('blind out 0'));
	const again = await b.build({ build }, { secrets: { TOKEN: value } });
	assert.equal(statesOf(again), 'blind passed cached, uses passed cached');
	assert(!again.log.some((line) => line.includes('hunter2')), 'what is kept was cleaned before');
	const fork = await b.build({ build: { uses: { ...build.uses, run: 'true' } } }, { trust: 'fork', environment: 'pr-7' });
	assert.match(fork.fault!.detail(), /it needs the secret TOKEN, which has no value here: builds of forks get none$/);
});

story('nobody reads what somebody less trusted wrote', async (b) => {
	b.write({ 'a.txt': 'a\n' });
	const build = { make: { run: 'cat a.txt > made.txt', outputs: ['made.txt'] } };
	const preview = { trust: 'preview', environment: 'feature' } as const;
	assert.equal(await b.states({ build }, { trust: 'fork', environment: 'pr-1' }), 'make passed');
	assert.equal(await b.states({ build }, { trust: 'fork', environment: 'pr-1' }), 'make passed', 'not even its own');
	assert.equal(await b.states({ build }, preview), 'make passed');
	assert.equal(await b.states({ build }, preview), 'make passed cached');
	assert.equal(await b.states({ build }, { ...preview, environment: 'other' }), 'make passed');
	assert.equal(await b.states({ build }, { lane: `${b.app}-2` }), 'make passed', 'nor another repository');
	assert.equal(await b.states({ build }), 'make passed', 'production');
	for (const reader of [preview, { ...preview, environment: 'third' }, { trust: 'fork', environment: 'pr-1' }, {}] as const) {
		assert.equal(await b.states({ build }, reader), 'make passed cached');
	}
	assert.equal(
		await b.states({ build }, { kind: 'verify', artifact: sha256('x'), verifies: 'dpl_00000000' }),
		'make passed',
		'what is compared is made anew',
	);
});

story('what the cache has and is damaged is made again', async (b) => {
	b.write({ 'a.txt': 'a\n' });
	const build = { make: { run: 'cat a.txt > made.txt; echo said', outputs: ['made.txt'] } };
	const { reports, files } = await b.build({ build });
	const { state, store } = b.house;
	const find = async () => (await state.steps.find({ scope: b.app, key: reports['make']!.key!, domains: ['production'] })).entry;
	for (const what of ['archive', 'log'] as const) {
		const { [what]: digest } = (await find())!;
		await store.delete([digest!]);
		const again = await b.build({ build });
		assert.equal(statesOf(again), 'make passed', `${what} is gone`);
		assert.deepEqual(again.files, files);
		assert.match(again.log.join('\n'), /what the cache has of this step is damaged .* it is run again/);
		assert.equal(await b.states({ build }), 'make passed cached');
	}
	// A builder that lies about what it made: what it sent has another digest than it says.
	const entry = (await find())!;
	await state.steps.forget({ scope: b.app, key: entry.key, domains: ['production'] });
	const parts = (await state.steps.runs({ app: b.app, environment: 'production', name: 'make', deployment: null, limit: 1 }))[0]!.parts;
	await state.steps.store({ scope: b.app, key: entry.key, domain: 'production', entry: { ...entry, outputs: sha256('other') }, parts });
	const healed = await b.build({ build });
	assert.deepEqual([statesOf(healed), healed.files], ['make passed', files]);
	assert.equal(await b.states({ build }), 'make passed cached');
});

story('programs are stripped where that is asked for, and what it saved is said', async (b) => {
	b.write({ 'a.c': 'int main(void) { return 0; }\n' });
	const run = 'command -v cc > /dev/null || { echo no compiler; exit 0; }; cc -g -o tool a.c';
	const plain = await b.build({ build: { tool: { run, outputs: ['tool'] } } });
	if (plain.log.some((line) => line.includes('no compiler'))) return; // nothing here to strip
	const stripped = await b.build({ build: { tool: { run, outputs: ['tool'], strip: true } } });
	assert.match(stripped.reports['tool']!.summary ?? '', /^tool, .* KiB, .* KiB as sent; .* KiB stripped$/);
	assert(stripped.files['tool']!.length < plain.files['tool']!.length);
	assert(stripped.ran!.savedBytes > 0);
});

story('a build that is stopped ends its steps at once, and what comes after them does not begin', async (b) => {
	b.write({ 'a.txt': 'a\n' });
	const build = { slow: { run: 'echo begun; sleep 1000', outputs: [] }, next: { run: 'true', needs: ['slow'], outputs: [] } };
	const { stopped, log } = await b.build({ build }, { stopAt: 'begun' });
	assert.deepEqual([stopped, log], ['cancelled', ['slow out begun']]);
	assert.equal(
		(await b.house.state.steps.runs({ app: b.app, environment: 'production', name: 'next', deployment: null, limit: 1 })).length,
		0,
	);
});
