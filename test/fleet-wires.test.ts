import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { noHosts, openHosts, type Host, type Hosts } from './fixtures/hosts.ts';

/** The machines that other stories of a fleet rest on do what they say. */

const skip = noHosts();
const ECHO = `require('net').createServer((s) => s.on('error', () => {}).on('data', (d) => s.write(s.remoteAddress.replace('::ffff:', '') + ' ' + d))).listen(8080, () => console.log('on'))`;
/** Says a line each time one comes on its stdin, and tells the answers. */
const TALK = `const s = require('net').connect(8080, process.argv[1]).on('data', (d) => process.stdout.write(d)).on('error', (e) => console.log(e.code)); process.stdin.pipe(s)`;

let hosts: Hosts;

before(async () => {
	if (skip === false) hosts = await openHosts(['one', 'two']);
});
after(async () => {
	if (skip === false) await hosts.close();
});

async function start(host: Host, script: string, ...words: string[]): Promise<ChildProcess> {
	const [command, ...rest] = host.words([process.execPath, '-e', script, ...words]);
	return spawn(command, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
}

async function said(child: ChildProcess, line: string): Promise<{ answer: string; ms: number }> {
	const before = performance.now();
	child.stdin!.write(line);
	const [answer] = (await once(child.stdout!, 'data')) as [Buffer];
	return { answer: answer.toString(), ms: performance.now() - before };
}

test('hosts see one another at their own addresses, after the time that the way takes', { skip }, async () => {
	const echo = await start(hosts.get('two'), ECHO);
	await once(echo.stdout!, 'data');
	const talk = await start(hosts.get('one'), TALK, hosts.get('two').address);
	const quick = await said(talk, 'a\n');
	assert.equal(quick.answer, `${hosts.get('one').address} a\n`);
	await hosts.roundTrip('one', 'two', 300);
	const slow = await said(talk, 'b\n');
	assert.equal(slow.answer, `${hosts.get('one').address} b\n`);
	assert.ok(slow.ms >= 299, `${slow.ms} ms`);
	await hosts.roundTrip('one', 'two', 0);
});

test('what is cut is silent in that direction, and is said when it heals', { skip }, async () => {
	const talk = await start(hosts.get('one'), TALK, hosts.get('two').address);
	assert.match((await said(talk, 'a\n')).answer, /a\n$/);
	hosts.cut('two', 'one');
	talk.stdin!.write('b\n');
	const late = once(talk.stdout!, 'data') as Promise<[Buffer]>;
	assert.equal(await Promise.race([late, new Promise((resolve) => setTimeout(resolve, 400, 'silence'))]), 'silence');
	hosts.heal('two', 'one');
	assert.match((await late)[0].toString(), /b\n$/);
});

test('nothing is left of them', { skip }, async () => {
	const here = await openHosts(['three']);
	await start(here.get('three'), 'setInterval(() => {}, 1000)');
	const { namespace } = here.get('three');
	assert.ok(readdirSync('/run/netns').includes(namespace));
	await here.close();
	assert.ok(!readdirSync('/run/netns').includes(namespace));
	assert.ok(!existsSync(here.root));
});
