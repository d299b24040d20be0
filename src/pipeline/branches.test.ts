import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { environmentName } from '#wire/names.ts';
import { previewNames, targetOf } from './branches.ts';

const RULES = { production: 'main', hotfix: 'hotfix/', others: 'preview' } as const;

test('the production branch and hotfixes go to production, every other branch to a place of its own', () => {
	assert.equal(targetOf('main', RULES), 'production');
	assert.equal(targetOf('hotfix/login', RULES), 'hotfix');
	assert.equal(targetOf('hotfix/', RULES), 'preview');
	assert.equal(targetOf('hotfixes', RULES), 'preview');
	assert.equal(targetOf('Main', RULES), 'preview');
	assert.equal(targetOf('main', { ...RULES, production: null }), 'preview');
	assert.equal(targetOf('hotfix/login', { ...RULES, hotfix: null, others: 'ignore' }), null);
	assert.equal(targetOf('feature', { ...RULES, hotfix: '', others: 'ignore' }), null);
});

test('an environment is called as its branch is', () => {
	const names = (branch: string, app = 'notes') => previewNames(app, branch, '3f9a1c77');
	assert.deepEqual(names('login'), { plain: 'login', own: 'login-3f9a1c' });
	assert.equal(names('Feature/New_Login').plain, 'feature-new-login');
	assert.equal(names('--a--b--').plain, 'a-b');
	assert.equal(names('production').plain, 'production-3f9a1c');
	assert.equal(names('preview').plain, 'preview-3f9a1c');
	assert.equal(names('変更').plain, 'branch-3f9a1c');
	assert.equal(names('x'.repeat(60)).plain, `${'x'.repeat(33)}-3f9a1c`);
	// The host name has 63 characters for both.
	assert.equal(names('feature/a-name-of-some-length', 'a'.repeat(40)).plain, 'feature-a-name-3f9a1c');
});

test('whatever a branch and an app are called, the name is one of an environment and of a host', () => {
	const app = fc.stringMatching(/^[a-z0-9]{1,40}$/);
	const branch = fc.string({ minLength: 1, maxLength: 200, unit: 'grapheme' });
	fc.assert(
		fc.property(app, branch, (of, name) => {
			const hash = createHash('sha256').update(name).digest('hex');
			for (const environment of Object.values(previewNames(of, name, hash))) {
				assert.equal(environmentName.safeParse(environment).success, true, environment);
				assert.equal(environment === 'production', false);
				assert.equal(`${environment}--${of}`.length <= 63, true, `${environment}--${of}`);
			}
		}),
	);
});
