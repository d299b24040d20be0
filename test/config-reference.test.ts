import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ConfigError, configFor, parseConfigFile } from '#wire/config-file.ts';
import { appConfig, configFile } from '#wire/config.ts';

/** docs/config.md runs: what it shows is loaded, what it says is wrong is refused in the words it prints. */

const text = readFileSync(new URL('../docs/config.md', import.meta.url), 'utf8');
const blocks = [...text.matchAll(/^```(\w+)( error)?\n([\s\S]*?)^```$/gm)].map(([, language, error, body]) => ({
	language: language!,
	error: error !== undefined,
	body: body!,
}));

test('every example is a configuration', () => {
	const examples = blocks.filter(({ language, error }) => language === 'jsonc' && !error);
	assert.ok(examples.length >= 4);
	for (const { body } of examples) {
		const result = parseConfigFile(body, 'jibe.json');
		for (const environment of ['production', ...result.environments]) appConfig.parse(configFor(result, environment));
	}
});

test('the example with everything shows every key, and the table has a row for it', () => {
	const whole = blocks.find(({ language, body }) => language === 'jsonc' && body.includes('"environments"'))!.body;
	const ofOtherRuntimes = ['start', 'image', 'dir'];
	const keys = Object.keys(configFile.shape).filter((key) => key !== '$schema');
	assert.deepEqual(keys.filter((key) => !whole.includes(`\t"${key}":`)), ofOtherRuntimes); // prettier-ignore
	assert.deepEqual(keys.filter((key) => !new RegExp(`^\\| [^|]*\`${key}\``, 'm').test(text)), []); // prettier-ignore
});

test('what is shown as a default is the default', () => {
	const { app: _app, ...defaults } = appConfig.parse({ app: 'notes', entry: 'a.ts' });
	for (const [key, value] of Object.entries(defaults)) {
		if (typeof value === 'object' || key === 'entry') continue;
		const row = new RegExp(`^\\| [^|]*\`${key}\`.*\\| \`"?${String(value)}"?\` \\|$`, 'm');
		assert.match(text, row, `${key} is ${String(value)} by default`);
	}
});

test('every error is the one that is printed', () => {
	for (const [i, { error, body }] of blocks.entries()) {
		if (!error) continue;
		const expected = blocks[i + 1]!;
		assert.equal(expected.language, 'text');
		assert.throws(
			() => parseConfigFile(body, 'jibe.json'),
			(thrown) => {
				assert(thrown instanceof ConfigError);
				assert.equal(`${thrown.message}\n`, expected.body);
				return true;
			},
		);
	}
});
