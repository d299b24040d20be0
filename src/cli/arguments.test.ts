import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseArguments, type Syntax } from './arguments.ts';

const SYNTAX: Syntax = { options: { regions: 'list', force: 'flag', port: 'value' }, positionals: ['DIR'], optional: 0 };

test('options in both spellings, flags, lists, and what stands alone', () => {
	const args = parseArguments(['src', '--regions', 'fra,ams', '--regions=lhr', '--force', '--port=7070', '--json'], SYNTAX);
	assert.deepEqual(args.positionals, ['src']);
	assert.deepEqual(args.list('regions'), ['fra', 'ams', 'lhr']);
	assert.equal(args.flag('force'), true);
	assert.equal(args.flag('json'), true);
	assert.equal(args.flag('verbose'), false);
	assert.equal(args.value('port'), '7070');
	assert.equal(args.value('env'), null);
	assert.deepEqual(parseArguments(['--', '--force'], SYNTAX).positionals, ['--force']);
	assert.equal(parseArguments(['-f'], { ...SYNTAX, options: { follow: 'flag' } }).flag('follow'), true);
});

test('what is wrong is named, with the nearest known option', () => {
	const says = (words: string[], message: RegExp, syntax = SYNTAX) =>
		assert.throws(() => parseArguments(words, syntax), { message, exit: 2 });
	assert.throws(() => parseArguments(['--region', 'fra'], SYNTAX), { message: 'unknown option --region', hint: 'did you mean --regions?' });
	assert.throws(() => parseArguments(['--xyzzy-plugh'], SYNTAX), { hint: 'jibe help VERB lists the options of a verb' });
	says(['--port'], /^--port needs a value$/);
	says(['--force=yes'], /^--force takes no value$/);
	says(['a', 'b'], /^unexpected argument "b"$/);
	says([], /^DIR is missing$/, { ...SYNTAX, optional: 1 });
});
