import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAllowedLine, isPublic } from './addresses.ts';

test('addresses of the public internet, and all others', () => {
	for (const address of ['140.82.121.3', '1.1.1.1', '172.32.0.1', '2606:50c0:8000::64', '2a00:1450:4001:830::200e'])
		assert.ok(isPublic(address), address);
	const others = [
		'127.0.0.1', '127.8.8.8', '0.0.0.0', '10.1.2.3', '172.16.0.1', '172.31.255.255', '192.168.1.1', '169.254.169.254', '100.64.0.1',
		'100.100.100.200', '168.63.129.16', '192.0.0.192', '224.0.0.1', '255.255.255.255', '240.0.0.1', '::1', '::', '::ffff:127.0.0.1', '::ffff:8.8.8.8', '::7f00:1',
		'fe80::1', 'fd00:ec2::254', 'fc00::1', 'ff02::1', '64:ff9b::7f00:1', '2002:7f00:1::', '2001:0:53aa:64c:0:7fff:ffff:fffe', '2001:db8::1', 'localhost', '',
	]; // prettier-ignore
	for (const address of others) assert.ok(!isPublic(address), address);
});

test('what an admin may list', () => {
	for (const line of ['forge.lan', 'forge.lan:8443', '10.0.0.0/8', 'fd00::/8', '10.1.1.1']) assert.ok(isAllowedLine(line), line);
	for (const line of ['10.0.0.0/33', 'fd00::/129', 'forge.lan/8']) assert.ok(!isAllowedLine(line), line);
});
