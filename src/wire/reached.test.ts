import assert from 'node:assert/strict';
import { test } from 'node:test';
import { reached } from './reached.ts';

test('a name is a link; an address needs the header that says which app is meant', () => {
	assert.equal(reached({ url: 'http://notes.localhost:8080' }), 'http://notes.localhost:8080');
	assert.equal(reached({ url: 'http://10.0.0.2', host: 'notes.localhost' }), "curl -H 'Host: notes.localhost' http://10.0.0.2");
});
