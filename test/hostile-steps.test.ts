import assert from 'node:assert/strict';
import { test } from 'node:test';
import { whyNot } from '#builder/sandbox/testbed.ts';
import { cgroupAbilities } from '#process/cgroup.ts';
import { builds, leftovers, small } from './fixtures/builds.ts';
import { startJibe } from './fixtures/jibe.ts';

const HOST = 'hostile.localhost';

/** Each ends well only if it could do what it is not to. */
const hostileSteps = (jibe: { data: string; url: string }) => ({
	forks: { run: 'f() { f | f & }; f; sleep 300', says: /more processes than a step may have/ },
	prints: { run: 'yes', says: /printed more than a step may print/ },
	sleeps: { run: 'sleep 300', timeout: '1s', says: /longer than its timeout of 1 s/ },
	reads: { run: `cat ${jibe.data}/admin.token || ls ${jibe.data}`, says: /exit code 2/ },
	writes: { run: 'touch /usr/evil || touch /etc/evil || touch /evil', says: /exit code 1/ },
	dials: { run: `node -e "fetch('${jibe.url}/healthz').then(() => 0, () => process.exit(9))"`, says: /exit code 9/ },
});

test('steps that mean harm are ended, say why, and harm nobody', { skip: whyNot() || noLimits() }, async (t) => {
	await using jibe = await startJibe({ regions: 1 });
	using app = small('hostile');
	await jibe.expect(0, ['deploy', '--json', app.dir]);
	const steps = hostileSteps(jibe);
	for (const [name, { says, ...step }] of Object.entries(steps)) {
		await t.test(`it ${name}`, async () => {
			app.write('jibe.json', JSON.stringify({ app: 'hostile', entry: 'src/server.ts', test: { [name]: step } }));
			const { json, stderr } = await jibe.expect(1, ['deploy', '--remote', '--json', app.dir]);
			assert.equal(json?.['state'], 'TestFailed', stderr);
			assert.match(stderr, says);
			const [build] = await builds(jibe, 'hostile');
			assert.equal(build?.steps.find((one) => one.name === name)?.state, 'failed');
			assert.equal((await jibe.request(0, HOST, '/')).body, 'one');
		});
	}
	assert.deepEqual(leftovers(jibe), []);
});

function noLimits(): string | false {
	return cgroupAbilities().limits.includes('pids') ? false : 'needs cgroups';
}
