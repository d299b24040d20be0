import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, realpathSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { temporary } from '../fixture.ts';
import { choosePackage, chosenPackage, removeOthers } from './chosen.ts';
import { copyPackage, isWhole, ownPackage, packageId, readPackage, unpackPackage, type Package } from './package.ts';

/** As small as a package can be, with what it needs of npm beside it. */
function smallPackage(t: TestContext, version = '1.2.3'): Package {
	const root = join(realpathSync(temporary(t, 'jibe-package-')), 'node_modules', 'jibe');
	const dependencies = { node: '24.0.0', 'oxc-parser': '1.0.0' };
	const files: Record<string, string> = {
		'package.json': JSON.stringify({ name: 'jibe', version, dependencies }),
		'bin/jibe': '#!/bin/sh\n',
		'dist/jibe.js': '1',
		'dist/up.js': '2',
		'sql/0001_one.sql': 'select 1',
		'../node/package.json': JSON.stringify({ name: 'node', version: '24.0.0' }),
		'../node/bin/node': 'a Node',
		'../oxc-parser/package.json': JSON.stringify({
			name: 'oxc-parser',
			version: '1.0.0',
			optionalDependencies: { '@oxc/here': '1', '@oxc/elsewhere': '1' },
		}),
		'../@oxc/here/package.json': JSON.stringify({ name: '@oxc/here', version: '1.0.0' }),
	};
	for (const [name, text] of Object.entries(files)) {
		mkdirSync(join(root, name, '..'), { recursive: true });
		writeFileSync(join(root, name), text);
	}
	symlinkSync('node', join(root, '../node/bin/nodejs'));
	return readPackage(root);
}

test('a package is copied with what it needs of npm, whole or not at all', (t) => {
	const from = smallPackage(t);
	assert.deepEqual([from.version, from.schema, isWhole(from)], ['1.2.3', 1, true]);
	const place = temporary(t, 'jibe-place-');
	const copy = copyPackage(from, place, packageId(from));
	assert.ok(copy.root.startsWith(realpathSync(place)));
	assert.ok(isWhole(copy));
	for (const name of ['node/bin/node', 'node/bin/nodejs', 'oxc-parser/package.json', '@oxc/here/package.json']) {
		assert.ok(existsSync(join(copy.root, '..', name)), name);
	}
	assert.equal(
		statSync(join(copy.root, '../node/bin/node')).ino,
		statSync(join(from.root, '../node/bin/node')).ino,
		'large files are linked',
	);
	assert.notEqual(statSync(join(copy.root, 'dist/up.js')).ino, statSync(join(from.root, 'dist/up.js')).ino, 'its own are copied');
	// Again: what is there is taken as it is.
	writeFileSync(join(copy.root, 'mark'), '');
	assert.ok(existsSync(join(copyPackage(from, place, packageId(from)).root, 'mark')));
	writeFileSync(join(from.root, 'dist/up.js'), 'another build');
	assert.notEqual(packageId(readPackage(from.root)), packageId(copy));
});

test('what is no package is refused', (t) => {
	const from = smallPackage(t);
	for (const bad of [temporary(t, 'jibe-none-'), '/nowhere']) assert.throws(() => readPackage(bad), { code: 'not_a_package', exit: 2 });
	writeFileSync(join(from.root, 'package.json'), '{"name":"another"}');
	assert.throws(() => readPackage(from.root), { code: 'not_a_package' });
	const place = temporary(t, 'jibe-place-');
	writeFileSync(join(place, 'a.tgz'), 'no tarball');
	assert.throws(() => unpackPackage(join(place, 'a.tgz'), place, 'id'), { code: 'not_a_package', message: /a\.tgz can't be unpacked/ });
	assert.ok(!existsSync(join(place, 'id')));
	assert.ok(!existsSync(join(place, '.draft-id')));
	assert.match(ownPackage().version, /^\d+\.\d+\.\d+/);
});

test('the choice is one link; others but the one before are removed', (t) => {
	const place = realpathSync(temporary(t, 'jibe-place-'));
	const [one, two, three] = ['1.0.0', '2.0.0', '3.0.0'].map((version) => copyPackage(smallPackage(t, version), place, version));
	for (const each of [one, two, three]) {
		choosePackage(place, each!);
		assert.equal(readPackage(join(place, 'current')).root, each!.root);
	}
	mkdirSync(join(place, '.draft-interrupted'));
	assert.deepEqual(removeOthers(place, [two!.root]).toSorted(), ['.draft-interrupted', '1.0.0']);
	assert.ok(existsSync(two!.root));
	// A data directory's own place.
	const data = temporary(t, 'jibe-data-');
	assert.equal(chosenPackage(data), null);
	choosePackage(join(data, 'programs'), three!);
	assert.equal(chosenPackage(data)?.version, '3.0.0');
	assert.match(readFileSync(join(data, 'programs/current/package.json'), 'utf8'), /3\.0\.0/);
});
