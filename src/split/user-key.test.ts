import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cookieValue, parseKeySource, userKeyOf, type UserRequest } from './user-key.ts';

function request(of: { headers?: Record<string, string>; cookie?: string; navigates?: boolean }): UserRequest {
	return {
		header: (name) => of.headers?.[name] ?? null,
		cookie: (name) => cookieValue(of.cookie ?? '', name),
		address: () => '192.0.2.7',
		navigates: () => of.navigates ?? false,
	};
}
const mint = () => 'minted-1';

test('the configured header or cookie comes first', () => {
	const both = request({ headers: { 'x-user': 'ann' }, cookie: 'session=s1; jibe-user=j1' });
	assert.deepEqual(userKeyOf(both, parseKeySource('header:X-User'), mint), { key: 'ann', from: 'header' });
	assert.deepEqual(userKeyOf(both, parseKeySource('cookie:session'), mint), { key: 's1', from: 'cookie' });
});

test('without it the first-party cookie, else the address', () => {
	assert.deepEqual(userKeyOf(request({ cookie: 'a=b; jibe-user=j1' }), parseKeySource('header:x-user'), mint), {
		key: 'j1',
		from: 'first-party',
	});
	assert.deepEqual(userKeyOf(request({}), null, mint), { key: '192.0.2.7', from: 'address' });
	assert.deepEqual(userKeyOf(request({ cookie: 'jibe-user=' }), null, mint), { key: '192.0.2.7', from: 'address' });
});

test('only a page load during a split is minted a cookie', () => {
	assert.deepEqual(userKeyOf(request({ navigates: true }), null, mint), { key: 'minted-1', from: 'minted' });
	assert.deepEqual(userKeyOf(request({ navigates: true }), null, null), { key: '192.0.2.7', from: 'address' });
	assert.deepEqual(userKeyOf(request({ navigates: true, cookie: 'jibe-user=j1' }), null, mint), { key: 'j1', from: 'first-party' });
});

test('a long key is cut', () => {
	const long = request({ headers: { 'x-user': 'x'.repeat(10_000) } });
	assert.equal(userKeyOf(long, parseKeySource('header:x-user'), null).key.length, 256);
});

test('key sources', () => {
	assert.deepEqual(parseKeySource('header:X-User-Id'), { from: 'header', name: 'x-user-id' });
	assert.deepEqual(parseKeySource('cookie:Session_Id'), { from: 'cookie', name: 'Session_Id' });
	for (const text of [null, '', 'header:', 'query:x', 'header:a b', 'x-user']) assert.equal(parseKeySource(text), null);
});

test('cookies are found whole', () => {
	assert.equal(cookieValue('a=1; bb=2;c="3"', 'a'), '1');
	assert.equal(cookieValue('a=1; bb=2;c="3"', 'bb'), '2');
	assert.equal(cookieValue('a=1; bb=2;c="3"', 'c'), '3');
	assert.equal(cookieValue('xa=1; a=2; a=3', 'a'), '2');
	assert.equal(cookieValue('b=a=1', 'a'), null);
	assert.equal(cookieValue('', 'a'), null);
	assert.equal(cookieValue(';;a', 'a'), null);
});
