import assert from 'node:assert/strict';
import { test } from 'node:test';
import { concerns } from './affected.ts';

test('which changed files concern an app of a repository that holds several', () => {
	const shop = { directory: 'services/shop', watch: null, others: ['services/web'], packages: null };
	for (const path of ['services/shop/a.ts', 'packages/shared/b.ts', 'package-lock.json', 'services/web.ts', 'services/webshop/a.ts'])
		assert.ok(concerns(path, shop), path);
	for (const path of ['services/web/a.ts', 'services/web/deep/b.ts']) assert.ok(!concerns(path, shop), path);

	const watching = { ...shop, watch: ['packages/shared/**', '*.lock'] };
	for (const path of ['services/shop/a.ts', 'packages/shared/deep/b.ts', 'yarn.lock']) assert.ok(concerns(path, watching), path);
	for (const path of ['services/web/a.ts', 'packages/other/b.ts', 'README.md', 'services/shopping/a.ts'])
		assert.ok(!concerns(path, watching), path);

	const root = { directory: '', watch: null, others: ['services/web'], packages: null };
	assert.ok(concerns('services/web/a.ts', root), 'it may import what lies there');
	assert.ok(concerns('src/a.ts', { ...root, watch: ['src/**'] }));
	assert.ok(!concerns('docs/a.md', { ...root, watch: ['src/**'] }));
});

test('of packages beside it, those concern an app that it is made of', () => {
	const packages = { all: ['packages/money', 'packages/chat', 'services/web'], used: ['packages/money'] };
	const shop = { directory: 'services/shop', watch: null, others: ['services/web'], packages };
	for (const path of ['packages/money/src/a.ts', 'packages/money/package.json', 'package-lock.json', 'tsconfig.json', 'packages/README.md'])
		assert.ok(concerns(path, shop), path);
	for (const path of ['packages/chat/src/a.ts', 'services/web/a.ts']) assert.ok(!concerns(path, shop), path);
	const inWeb = { ...shop, packages: { ...packages, used: ['services/web/lib'] } };
	assert.ok(concerns('services/web/lib/a.ts', inWeb), 'also where another app has it in its directory');
});
