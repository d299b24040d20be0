import assert from 'node:assert/strict';
import { test } from 'node:test';
import { concerns } from './affected.ts';

test('which changed files concern an app of a repository that holds several', () => {
	const shop = { directory: 'services/shop', watch: null, others: ['services/web'] };
	for (const path of ['services/shop/a.ts', 'packages/shared/b.ts', 'package-lock.json', 'services/web.ts', 'services/webshop/a.ts'])
		assert.ok(concerns(path, shop), path);
	for (const path of ['services/web/a.ts', 'services/web/deep/b.ts']) assert.ok(!concerns(path, shop), path);

	const watching = { ...shop, watch: ['packages/shared/**', '*.lock'] };
	for (const path of ['services/shop/a.ts', 'packages/shared/deep/b.ts', 'yarn.lock']) assert.ok(concerns(path, watching), path);
	for (const path of ['services/web/a.ts', 'packages/other/b.ts', 'README.md', 'services/shopping/a.ts'])
		assert.ok(!concerns(path, watching), path);

	const root = { directory: '', watch: null, others: ['services/web'] };
	assert.ok(concerns('services/web/a.ts', root), 'it may import what lies there');
	assert.ok(concerns('src/a.ts', { ...root, watch: ['src/**'] }));
	assert.ok(!concerns('docs/a.md', { ...root, watch: ['src/**'] }));
});
