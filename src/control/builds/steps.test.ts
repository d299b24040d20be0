import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { keyOf } from '#build/steps/key.ts';
import { sha256 } from '#digest/digest.ts';
import type { BuildJob, NewBuild } from '#wire/builds.ts';
import type { StepEntry, StepParts, WhyAnswer } from '#wire/steps.ts';
import { UPLOAD_TYPE, encodeUpload } from '#wire/upload.ts';
import { issueCredential } from '#wire/credential.ts';
import { newBuild } from '../../../test/fixtures/build.ts';
import { fakeBuilder } from '../../../test/fixtures/builder.ts';
import { askHttp, startControl, type TestControl } from '../../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../../test/fixtures/database.ts';
import { enqueue } from './builds.ts';

let cluster: TestCluster;
before(async () => (cluster = await startCluster()));
after(() => cluster.stop());

const ARCHIVE = Buffer.from('archive');
const LOG = Buffer.from('log');
const LIST = Buffer.from('"a.txt" sha256:0\n');
const PARTS: StepParts = {
	format: 1, run: 'make', env: {}, secrets: [], network: false, outputs: null, strip: false, directory: '', epoch: 0, platform: 'linux-x64-glibc',
	toolchain: 't', sandbox: 'isolated', dependencies: null, needs: {}, inputs: sha256(LIST),
}; // prettier-ignore
const KEY = keyOf(PARTS);

function entryOf(change: Partial<StepEntry> = {}): StepEntry {
	return {
		key: KEY, exitCode: 0, outputs: sha256('tar'), outputBytes: 3, archive: sha256(ARCHIVE), log: sha256(LOG), ms: 1, summary: null, savedBytes: 0,
		builder: 'b', at: 1, ...change,
	}; // prettier-ignore
}

/** What a builder may ask about steps, under a job that it has. */
class Desk {
	readonly #house: TestControl;
	readonly #builder: ReturnType<typeof fakeBuilder>;
	readonly job: BuildJob;

	static async open(house: TestControl, change: Partial<NewBuild>): Promise<Desk> {
		const builder = fakeBuilder(house);
		const commit = sha256(JSON.stringify([change, count++])).slice(7, 47);
		await enqueue(house.control.house, newBuild({ commit, ...change }));
		return new Desk(house, builder, (await builder.claim())!);
	}

	private constructor(house: TestControl, builder: ReturnType<typeof fakeBuilder>, job: BuildJob) {
		this.#house = house;
		this.#builder = builder;
		this.job = job;
	}

	find(change: object = {}) {
		return this.#builder.say(this.job, 'steps/find' as 'beat', { name: 'make', key: KEY, parts: PARTS, ...change });
	}

	async known(): Promise<boolean> {
		return (await this.find()).json<{ entry: StepEntry | null }>().entry !== null;
	}

	read(what: 'archive' | 'log') {
		const { worker } = this.#builder;
		return this.#builder.ask('GET', `/${this.job.id}/steps/${KEY}/${what}?worker=${worker}&attempt=${this.job.attempt}`);
	}

	put(entry: StepEntry, blobs: Buffer[], of: { parts?: StepParts; worker?: string } = {}) {
		const { installation } = this.#house.control.house;
		const claims = { installation: installation.id, role: 'builder' as const, server: 'local', regions: [], expires: 4_000_000_000 };
		const { worker = this.#builder.worker, parts = PARTS } = of;
		const body = Buffer.from(encodeUpload({ worker, attempt: this.job.attempt, name: 'make', entry, parts }, blobs));
		const credential = issueCredential(claims, installation.privatePem);
		const path = `/api/v1/builds/${this.job.id}/steps`;
		return askHttp(this.#house.control.url, credential, 'PUT', path, { body, type: UPLOAD_TYPE });
	}

	corrupt() {
		return this.#builder.say(this.job, 'steps/corrupt' as 'beat', { key: KEY });
	}

	end() {
		return this.#builder.say(this.job, 'end', { state: 'Cancelled', reason: null, detail: null, at: 1 });
	}
}
let count = 0;

test('results of steps, as builders and people ask for them', async (t) => {
	const house = await startControl(t, cluster);

	await t.test('what was stored is found and read, and not written over', async () => {
		const desk = await Desk.open(house, { lane: 'one' });
		assert.deepEqual((await desk.find()).json(), { entry: null, inputs: true, blobs: {} });
		assert.equal((await desk.read('archive')).status, 404);
		assert.deepEqual((await desk.put(entryOf(), [ARCHIVE, LOG, LIST])).json(), { stored: true });
		assert.deepEqual((await desk.find()).json(), {
			entry: entryOf(),
			inputs: false,
			blobs: { [sha256(ARCHIVE)]: ARCHIVE.toString('base64'), [sha256(LOG)]: LOG.toString('base64') },
		});
		assert.deepEqual([(await desk.read('archive')).text, (await desk.read('log')).text], ['archive', 'log']);
		const other = Buffer.from('other');
		assert.deepEqual((await desk.put(entryOf({ archive: sha256(other) }), [other, LOG])).json(), { stored: false });
		assert.equal((await desk.read('archive')).text, 'archive');
		await desk.end();
	});

	await t.test('what does not fit together is refused', async () => {
		const desk = await Desk.open(house, { lane: 'two' });
		const refused = async (answer: ReturnType<Desk['put']>) => [(await answer).status, (await answer).json().error.code];
		assert.deepEqual(await refused(desk.put(entryOf({ key: sha256('x') }), [ARCHIVE, LOG])), [400, 'bad_key']);
		assert.deepEqual(await refused(desk.find({ key: sha256('x') })), [400, 'bad_key']);
		assert.deepEqual(await refused(desk.put(entryOf(), [ARCHIVE, LOG], { parts: { ...PARTS, run: 'rm' } })), [400, 'bad_key']);
		assert.deepEqual(await refused(desk.put(entryOf(), [ARCHIVE])), [400, 'bad_upload']);
		assert.deepEqual(await refused(desk.put(entryOf(), [ARCHIVE, LOG, Buffer.from('more')])), [400, 'bad_upload']);
		assert.deepEqual(await refused(desk.put({ ...entryOf(), ms: 'long' } as unknown as StepEntry, [ARCHIVE, LOG])), [400, 'bad_upload']);
		assert.deepEqual(await refused(desk.put(entryOf(), [ARCHIVE, LOG], { worker: 'another' })), [409, 'fenced']);
		assert.equal(await desk.known(), false);
		await desk.end();
		assert.deepEqual(await refused(desk.find()), [409, 'fenced'], 'it has ended');
	});

	await t.test('circles of trust', async () => {
		const preview = { trust: 'preview', environment: 'feature', lane: 'three' } as const;
		const poisoning = await Desk.open(house, preview);
		assert.deepEqual((await poisoning.put(entryOf(), [ARCHIVE, LOG])).json(), { stored: true });
		assert.equal(await poisoning.known(), true);
		await poisoning.end();
		const fork = await Desk.open(house, { trust: 'fork', environment: 'pr-1', lane: 'three' });
		assert.deepEqual((await fork.put(entryOf(), [ARCHIVE, LOG])).json(), { stored: false });
		assert.equal(await fork.known(), false);
		await fork.end();
		const production = await Desk.open(house, { lane: 'three' });
		assert.equal(await production.known(), false);
		assert.equal((await production.read('archive')).status, 404);
		await production.put(entryOf(), [ARCHIVE, LOG]);
		await production.end();
		const later = await Desk.open(house, { trust: 'fork', environment: 'pr-1', lane: 'three' });
		assert.equal(await later.known(), true);
		await later.corrupt();
		assert.equal(await later.known(), true, 'a fork can not have what is whole thrown away');
		await house.store.delete([sha256(LOG)]);
		assert.deepEqual([(await later.read('log')).status, await later.known()], [410, false], 'what is damaged is gone for all');
		await later.end();
	});

	await t.test('why is for those who may see the app', async () => {
		const of = '/api/v1/apps/notes/steps/make/why?environment=production';
		assert.equal((await house.ask('GET', of)).json<WhyAnswer>().step, 'make');
		const viewer = { name: 'v', role: 'viewer' as const, apps: ['other'], environments: null, expiresAt: null, by: 'test' };
		const { secret } = await house.state.tokens.create(viewer);
		assert.equal((await house.ask('GET', of, { token: secret })).status, 403);
		assert.equal((await house.ask('GET', of, { token: null })).status, 401);
	});
});
