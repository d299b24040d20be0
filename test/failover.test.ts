import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { AppStatus, Deployment } from '#wire/api.ts';
import { compareVersions, type Want } from '#wire/region.ts';
import { FILES, obey, type FakeDepot } from './fixtures/control.ts';
import { Address, Failover, noStandby } from './fixtures/failover.ts';
import { eventually } from './fixtures/jibe.ts';
import { startReplicas, type Replica } from './fixtures/replicas.ts';

/** A team's database that goes over to a standby which is behind, is set back to a backup, or is cut off: what serves goes on, and nobody writes over it unasked. */

const QUICK = { strategy: { type: 'walk', watch: '1s' } } as const;
const edited = (n: number) => ({ ...FILES, 'modules/src/server.ts': `export default ${n}` });

let failover: Failover;
before(async () => {
	if (noStandby === false) failover = await Failover.start();
});
after(() => (noStandby === false ? failover?.stop() : undefined));

async function deploy(replica: Replica, n: number): Promise<Deployment> {
	const answer = await replica.deploy('notes', { files: edited(n), config: QUICK });
	const result = answer.text.startsWith('{"error"') ? undefined : answer.lines<{ result?: Deployment }>().at(-1)?.result;
	assert.equal(result?.state, 'Deployed', answer.text);
	return result;
}

const status = async (replica: Replica) => (await replica.ask('GET', '/api/v1/apps/notes/status')).json<AppStatus>();

const becomesReadOnly = (replicas: readonly Replica[]) =>
	eventually(async () => ((await Promise.all(replicas.map(status))).every(({ readOnly }) => readOnly !== null) ? true : null), 'read-only');

/** What a region's depot holds: the newest that it was told. */
function held({ told }: FakeDepot, region = 'fra'): Want {
	const wants = told.flatMap((message) => (message.type === 'wants' ? message.wants : [])).filter((want) => want.region === region);
	return wants.toSorted(compareVersions).at(-1)!;
}

/** Also by those who are connected with another replica than the one that wrote it. */
const heardBy = (depots: readonly FakeDepot[], { release }: Deployment) =>
	eventually(() => (depots.every((depot) => held(depot).pointer.primary === release) ? true : null), `word of v${release} everywhere`);

async function assertRefused(replica: Replica): Promise<void> {
	const refused = (await replica.deploy('notes', { files: edited(9), config: QUICK })).json();
	assert.equal(refused.error.code, 'read_only');
	assert.match(refused.error.message, /seen version|does not know/);
	assert.match(refused.error.hint ?? '', /jibe control recover notes/);
	const back = { environment: 'production', to: null, undo: null, again: false, reason: null };
	assert.equal((await replica.ask('POST', '/api/v1/apps/notes/rollbacks', { json: back })).json().error.code, 'read_only');
}

test('failed over to a standby that is behind, then set back to a backup, twice', { skip: noStandby }, async (t) => {
	const { all, depots, state } = await startReplicas(t, failover.url, { times: { beatMs: 500, leaseMs: 5_000, lookMs: 250 } });
	const [a, b] = all as [Replica, Replica];
	const made = await depots();
	for (const depot of made) obey(depot);
	const first = await deploy(a, 1);
	failover.copy('one', 'two', true);
	await failover.begin('two');
	await failover.caughtUp('two', 'one');
	await failover.kill('two');
	failover.copy('one', 'backup', false);
	const second = await deploy(b, 2);
	await heardBy(made, second);

	await failover.kill('one');
	await failover.begin('two');
	failover.promote('two');
	failover.lead('two');
	await becomesReadOnly(all);
	assert.equal((await state.installation()).epoch, 2, 'a timeline that nobody knew raises the epoch, once');
	for (const replica of all) await assertRefused(replica);
	for (const depot of made) assert.equal(held(depot).pointer.primary, second.release, 'nothing was written over what serves');

	const { epoch } = (await b.ask('POST', '/api/v1/apps/notes/recoveries')).json<{ epoch: number }>();
	assert.ok(epoch > 2);
	await eventually(async () => ((await status(a)).readOnly === null ? true : null), 'the other one to hear of it');
	for (const replica of all) assert.equal((await status(replica)).serving, second.release, 'what the regions serve holds');
	const third = await deploy(a, 3);
	await heardBy(made, third);
	assert.ok(third.release > second.release + 1, 'no number of a release is used twice');
	assert.equal((await status(b)).rollbackTo?.release, first.release);

	// A backup in its place, without a new timeline: only what is missing tells of it. And the same once more.
	let above = epoch;
	for (const name of ['backup', 'again']) {
		if (name === 'again') failover.duplicate('backup-before', 'again');
		else failover.duplicate('backup', 'backup-before');
		await failover.kill(name === 'again' ? 'backup' : 'two');
		await failover.begin(name);
		failover.lead(name);
		await becomesReadOnly(all);
		await assertRefused(a);
		const serving = held(made[0]!).pointer.primary;
		const raised = (await a.ask('POST', '/api/v1/apps/notes/recoveries')).json<{ epoch: number }>().epoch;
		assert.ok(raised > above, `${raised} is above all that a region has seen (${above})`);
		above = raised;
		await eventually(async () => ((await status(b)).readOnly === null ? true : null), 'the other one to hear of it');
		assert.equal((await status(b)).serving, serving);
		const next = await deploy(b, 4);
		assert.ok(next.release > third.release);
		await heardBy(made, next);
	}
});

test('a replica that its database hears, and that hears nothing: another one takes over', { skip: noStandby }, async (t) => {
	await failover.fresh('lone');
	failover.lead('lone');
	const cut = await Address.open();
	cut.lead(failover.socket('lone'));
	t.after(() => cut.close());
	const { all, depots } = await startReplicas(t, failover.url, { urls: [failover.url.replace(String(failover.address.port), String(cut.port)), failover.url] }); // prettier-ignore
	const [a, b] = all as [Replica, Replica];
	const made = await depots();
	void a.follow('notes', { files: edited(1), config: QUICK });
	await Promise.all(made.map((depot) => depot.next('wants')));
	cut.loseAnswers();
	for (const depot of made) obey(depot, depot.told);
	const newest = async () => (await b.ask('GET', '/api/v1/deployments?app=notes')).json<{ deployments: Deployment[] }>().deployments;
	const [end] = await eventually(async () => ((await newest())[0]?.state === 'Deployed' ? await newest() : null), 'an end elsewhere');
	assert.equal((await a.ask('GET', '/readyz', { token: null })).status, 503, 'it says that it is cut off');
	cut.heal();
	await eventually(async () => ((await a.ask('GET', '/readyz', { token: null })).status === 200 ? true : null), 'its return');
	assert.equal((await newest()).length, 1);
	assert.ok((await deploy(a, 2)).release > end!.release);
});
