import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { JsoncError, parseJsonc } from './jsonc.ts';

function failure(text: string): string {
	try {
		parseJsonc(text);
	} catch (error) {
		assert(error instanceof JsoncError);
		return `${error.position.line}:${error.position.column} ${error.message}`;
	}
	return 'no error';
}

test('reads whatever JSON.stringify writes', () => {
	const noProto = fc.jsonValue({ maxDepth: 5 }).filter((value) => !JSON.stringify(value).includes('__proto__'));
	fc.assert(
		fc.property(noProto, (value) => assert.deepEqual(parseJsonc(JSON.stringify(value, null, 2)).value, JSON.parse(JSON.stringify(value)))),
	);
});

test('allows comments and trailing commas', () => {
	const text = `\uFEFF// head
	{
		"app": "notes", /* inside */ "regions": ["fra", "ams",], // tail
		"env": { "URL": "http://x//y", },
	}
	// end`;
	assert.deepEqual(parseJsonc(text).value, { app: 'notes', regions: ['fra', 'ams'], env: { URL: 'http://x//y' } });
});

test('knows where each member and item stands', () => {
	const { locate } = parseJsonc('{\n  "a": 1,\n  "b": { "c": [10,\n    20] }\n}');
	assert.deepEqual(locate([]), { line: 1, column: 1 });
	assert.deepEqual(locate(['b']), { line: 3, column: 3 });
	assert.deepEqual(locate(['b', 'c']), { line: 3, column: 10 });
	assert.deepEqual(locate(['b', 'c', 1]), { line: 4, column: 5 });
	assert.equal(locate(['d']), null);
});

test('says what is wrong, and where', () => {
	assert.equal(failure('{\n  "app": notes\n}'), '2:10 expected a value, found notes: text needs double quotes');
	assert.equal(failure('{\n  app: "notes"\n}'), '2:3 expected a key in double quotes, found "a"');
	assert.equal(failure('{ "a": 1\n  "b": 2 }'), '2:3 expected "," or "}", found "\\""');
	assert.equal(failure('{ "a" 1 }'), '1:7 expected ":" after the key "a", found "1"');
	assert.equal(failure('{ "a": 1, "a": 2 }'), '1:11 the key "a" stands here a second time');
	assert.equal(failure('{ "a": "x\n" }'), '1:8 a string that does not end on its line, or holds a bad escape');
	assert.equal(failure('{ "a": 1'), '1:9 expected "," or "}", found the end of the text');
	assert.equal(failure('{ "a": 1,'), '1:10 the text ends before "}"');
	assert.equal(failure('{} x'), '1:4 unexpected "x" after the end of the document');
	assert.equal(failure('/* '), '1:1 a comment that does not end');
	assert.equal(failure(''), '1:1 expected a value, found the end of the text');
	assert.equal(failure('{ "__proto__": {} }'), '1:3 "__proto__" is not allowed as a key');
	assert.match(failure('['.repeat(100)), /nested deeper than 32 levels/);
	assert.match(failure(' '.repeat(2 ** 21)), /longer than/);
});
