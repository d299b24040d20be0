import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporary } from '../fixture.ts';
import { verifyUnit } from './service.ts';
import { environmentLine, plistText, unitText, type Service } from './unit.ts';

const service: Service = {
	what: 'all',
	command: '/bin/true',
	data: '/var/lib/jibe',
	words: [],
	user: null,
	environmentFile: '/etc/jibe/environment',
};
const daemon = { name: 'daemon', uid: 1 };
const noSystemd = spawnSync('systemd-analyze', ['--version']).error ? 'needs systemd-analyze (systemd)' : false;

for (const [name, one] of [
	['whole', service],
	['control', { ...service, what: 'control', user: daemon, words: ['--regions', 'none', '--listen', '[::]:7443'] }],
	['agent', { ...service, what: 'agent', data: '/srv/a b/100% $HOME "x"' }],
	['at home', { ...service, data: '/home/ann/jibe' }],
] as const satisfies readonly [string, Service][]) {
	test(`systemd has nothing against the unit: ${name}`, { skip: noSystemd }, (t) => {
		const file = join(temporary(t, 'jibe-unit-'), 'jibe.service');
		writeFileSync(file, unitText(one));
		assert.deepEqual(verifyUnit(file), []);
		writeFileSync(file, unitText(one).replace('KillMode=process', 'KillMode=nothing-like-it'));
		assert.match(verifyUnit(file).join(), /kill mode/, 'the check sees what is wrong');
	});
}

test('a unit leaves what runs to the next supervisor, and gives no more than is needed', () => {
	const [control, agent] = [unitText({ ...service, what: 'control', user: daemon }), unitText(service)].map((text) => text.split('\n'));
	for (const line of ['KillMode=process', 'KillSignal=SIGUSR2', 'Restart=always', 'NoNewPrivileges=yes', 'ProtectSystem=strict']) {
		assert.ok(control!.includes(line) && agent!.includes(line), line);
	}
	assert.ok(control!.includes('User=daemon'));
	assert.ok(control!.includes('CapabilityBoundingSet=CAP_NET_BIND_SERVICE'));
	assert.ok(control!.includes('AmbientCapabilities=CAP_NET_BIND_SERVICE'));
	assert.ok(!agent!.some((line) => line.startsWith('User=')));
	const bound = agent!.find((line) => line.startsWith('CapabilityBoundingSet='))!;
	for (const never of ['CAP_SYS_MODULE', 'CAP_SYS_BOOT', 'CAP_SYS_TIME', 'CAP_NET_ADMIN', 'CAP_SYS_RAWIO'])
		assert.ok(!bound.includes(never), never);
	assert.ok(agent!.includes('ProtectHome=yes'));
	assert.ok(!unitText({ ...service, data: '/home/ann/jibe' }).includes('ProtectHome'));
});

test('what an environment file holds comes out as it went in', { skip: noSystemd }, () => {
	assert.equal(environmentLine('A', 'postgres://u:p%40"x\\$y`@h/d'), 'A="postgres://u:p%40\\"x\\\\\\$y\\`@h/d"');
});

test('the daemon of a Mac', (t) => {
	const text = plistText({ ...service, data: '/Users/ann & bob/jibe', words: ['--regions', '2'] }, 'dev.jibe', {
		DATABASE_URL: 'postgres://a<b',
	});
	assert.match(text, /<string>\/Users\/ann &amp; bob\/jibe<\/string>\n\t\t<string>--regions<\/string>/);
	assert.match(text, /<key>KeepAlive<\/key>\n\t<true\/>/);
	assert.match(text, /postgres:\/\/a&lt;b/);
	const file = join(temporary(t, 'jibe-plist-'), 'dev.jibe.plist');
	writeFileSync(file, text);
	const { error, status, stdout } = spawnSync('plutil', ['-lint', file], { encoding: 'utf8' });
	if (!error) assert.equal(status, 0, stdout);
});
