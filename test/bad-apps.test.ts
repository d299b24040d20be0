import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { isolation } from '#process/isolation.ts';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, startJibe, type Jibe } from './fixtures/jibe.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** Apps that fail in every way they can: each is stopped before a user sees it, or swung back, and says why. */

const good = (text: string) => `export default { fetch: () => new Response(${JSON.stringify(text)}) };\n`;

let jibe: Jibe;
before(async () => {
	jibe = await startJibe({ regions: 2 });
});
after(() => jibe.stop());

/** Of the users of each app: many apps wait side by side for the 30 s that one of them has. */
const PAUSE_MS = 100;

/** Deploys a good release, then `bad`, which must fail with nothing moved. Returns what the command said. */
async function stopped(name: string, bad: string, reason: RegExp, config: Record<string, unknown> = {}): Promise<string> {
	using app = tinyApp(name, good('first'), config);
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	await using traffic = startTraffic(jibe, `${name}.localhost`, '/', [0, 1], PAUSE_MS);
	app.write('server.ts', bad);
	const result = await jibe.expect(1, ['deploy', '--json'], { cwd: app.dir });
	await traffic.stop();
	assert.equal(result.json?.['state'], 'DeployFailed');
	assert.match(String(result.json['reason']), reason);
	assert.deepEqual(traffic.failures, []);
	assert.ok(traffic.answers.length > 0);
	assert.ok(
		traffic.answers.every(({ body }) => body === 'first'),
		'no user saw the bad release',
	);
	return result.stderr;
}

// Side by side: one of them takes the 30 s that an app has to start, and the others wait for less than that.
describe('each bad app is stopped or swung back', { concurrency: true }, () => {
	test('an app that throws on import shows its own words and the place in its source', async () => {
		const said = await stopped(
			'throws',
			`type A = { a: string };\nconst a: A = { a: 'no database here' };\nthrow new Error(a.a);\nexport default { fetch: () => new Response('never') };\n`,
			/start|app_throws/,
		);
		assert.match(said, /no database here/);
		assert.match(said, /server\.ts:3/);
	});

	test('an app that answers 500 is unhealthy', async () => {
		const said = await stopped('fivehundred', `export default { fetch: () => new Response('broken', { status: 500 }) };\n`, /unhealthy/);
		assert.match(said, /500/);
	});

	test('an app that never answers is unhealthy', async () => {
		await stopped('silent', `export default { fetch: () => new Promise(() => {}) };\n`, /unhealthy/, {
			health: { path: '/', timeout: '500ms' },
		});
	});

	test('an app that loops for ever on import is ended', async () => {
		await stopped('loops', `for (;;);\nexport default { fetch: () => new Response('never') };\n`, /start/, { cpu: 0.1 });
	});

	test('an app that listens instead of exporting is told what to export', async () => {
		const said = await stopped(
			'listens',
			`import { createServer } from 'node:http';\ncreateServer((_, response) => response.end('hi')).listen(0);\nconst app: object = JSON.parse('{}');\nexport default app;\n`,
			/app_listens/,
		);
		assert.match(said, /Export default \{ fetch \}/);
	});

	test('an app that exits on import is reported with its exit', async () => {
		await stopped('exits', `process.exit(7);\nexport default { fetch: () => new Response('never') };\n`, /start|exited/);
	});

	const noLimits = isolation().cgroup ? false : 'needs cgroups';
	test('an app that leaks until it is killed is restarted, and others do not notice', { skip: noLimits }, async () => {
		using neighbour = tinyApp('neighbour', good('undisturbed'));
		await jibe.expect(0, ['deploy', '--json'], { cwd: neighbour.dir });
		using app = tinyApp('leaks', leak(), { memory: 128, strategy: { type: 'walk', watch: '1s' } });
		await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		await using traffic = startTraffic(jibe, 'neighbour.localhost', '/', [0, 1]);
		const first = await pidIn('fra', app);
		await jibe.request(0, 'leaks.localhost', '/leak').catch(() => null);
		await eventually(async () => {
			const now = await pidIn('fra', app);
			return now !== null && now !== first && (await jibe.request(0, 'leaks.localhost', '/')).status === 200 ? true : null;
		}, 'a new process of the app that leaked');
		await traffic.stop();
		assert.deepEqual(traffic.failures, []);
	});

	test('an app that kills itself again and again in its watch is swung back', async () => {
		using app = tinyApp('dies', good('first'));
		await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		app.write('server.ts', doomed());
		const result = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		assert.equal(result.json?.['state'], 'Deployed');
		for (const region of [0, 1]) assert.equal((await jibe.request(region, 'dies.localhost', '/doom')).body, 'second');
		// An edge asks the one before already while there is no healthy instance: what counts is the way back.
		const back = await eventually(async () => {
			const newest = await jibe.newest('dies');
			return newest?.kind === 'rollback' ? newest : null;
		}, 'swing back of the app that dies');
		assert.equal(back.cause, result.json['deployment']);
		await eventually(async () => ((await jibe.request(0, 'dies.localhost', '/')).body === 'first' ? true : null), 'the first again');
	});

	test('an app that passes its probes and then fails is swung back everywhere by the watch', async () => {
		using app = tinyApp('later', good('first'), { health: { path: '/healthz' } });
		app.write('server.ts', lateFailure('first', false));
		await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		app.write('server.ts', lateFailure('second', true));
		const result = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		await using traffic = startTraffic(jibe, 'later.localhost', '/', [0, 1]);
		await eventually(async () => {
			const bodies = await Promise.all([0, 1].map(async (region) => (await jibe.request(region, 'later.localhost', '/')).body));
			return bodies.every((body) => body === 'first') ? true : null;
		}, 'swing back after errors');
		await traffic.stop();
		const shown = await jibe.expect(0, ['history', 'later', '--json']);
		assert.match(shown.stdout, new RegExp(String(result.json?.['deployment'])));
	});
});

function leak(): string {
	return `const held: Buffer[] = [];
export default {
	fetch(request: Request) {
		if (new URL(request.url).pathname === '/leak') for (;;) held.push(Buffer.alloc(8 * 1024 * 1024, 1));
		return new Response('fine');
	},
};
`;
}

/** Once it was asked to, it kills itself after each start, soon after it was healthy. */
function doomed(): string {
	return `import { existsSync, writeFileSync } from 'node:fs';
const doom = process.env.JIBE_DATA_DIR + '/doom';
const die = () => setTimeout(() => process.exit(1), 300);
if (existsSync(doom)) die();
export default {
	fetch(request: Request) {
		if (new URL(request.url).pathname === '/doom') {
			writeFileSync(doom, '');
			die();
		}
		return new Response('second');
	},
};
`;
}

function lateFailure(text: string, fails: boolean): string {
	return `export default {
	fetch(request: Request) {
		if (new URL(request.url).pathname === '/healthz') return new Response('ok');
		return ${fails} ? new Response('late', { status: 500 }) : new Response('${text}');
	},
};
`;
}

/** The process that serves the app in a region. */
async function pidIn(region: string, app: App): Promise<number | null> {
	const name = app.dir.split('/').at(-1);
	const status = JSON.parse((await jibe.api(`/api/v1/apps/${name}/status?environment=production`)).body) as {
		regions: { region: string; instances: { state: string; pid: number | null; healthy: boolean }[] }[];
	};
	const instances = status.regions.find((of) => of.region === region)?.instances ?? [];
	return instances.find(({ state, healthy }) => state === 'serving' && healthy)?.pid ?? null;
}
