import assert from 'node:assert/strict';
import { test } from 'node:test';
import { detectApp } from './detect.ts';
import { testApp, type Files } from './testbed.ts';

function detect(files: Files) {
	using app = testApp({ 'package.json': '{"name":"@acme/My Notes"}', ...files });
	const found = detectApp(app.dir);
	return found && { ...found, assumptions: found.assumptions.length };
}

test('an entry that exports a default is a fetch app, the declared one first', () => {
	const fetchApp = { app: 'my-notes', runtime: 'fetch', assumptions: 2 };
	assert.deepEqual(detect({ 'src/server.ts': 'export default app;' }), { ...fetchApp, entry: 'src/server.ts' });
	assert.deepEqual(detect({ 'index.js': 'export { app as default };', 'src/index.ts': '// export default x' }), {
		...fetchApp,
		entry: 'index.js',
	});
	const declared = {
		'package.json': '{"name":"my-notes","main":"./lib/api.js"}',
		'lib/api.js': 'export default 1',
		'src/index.ts': 'export default 1',
	};
	assert.deepEqual(detect(declared), { ...fetchApp, entry: 'lib/api.js' });
	const exported = { 'package.json': '{"name":"my-notes","exports":{".":{"import":"./a.mjs"}}}', 'a.mjs': 'export default 1' };
	assert.deepEqual(detect(exported), { ...fetchApp, entry: 'a.mjs' });
});

test('a program that starts by itself is a process, files with an index.html are static, else nothing is assumed', () => {
	const start = { 'package.json': '{"name":"web","scripts":{"start":"node server.js"}}', 'server.js': 'listen(3000)' };
	assert.deepEqual(detect(start), { app: 'web', runtime: 'process', start: 'npm start', assumptions: 2 });
	assert.deepEqual(detect({ 'server.js': 'listen(3000)' }), {
		app: 'my-notes',
		runtime: 'process',
		start: 'node server.js',
		assumptions: 2,
	});
	assert.deepEqual(detect({ Procfile: 'web: ./run --port $PORT\n' }), {
		app: 'my-notes',
		runtime: 'process',
		start: './run --port $PORT',
		assumptions: 2,
	});
	assert.deepEqual(detect({ 'dist/index.html': '<p>' }), { app: 'my-notes', runtime: 'static', dir: 'dist', assumptions: 2 });
	assert.equal(detect({ 'readme.txt': '' }), null);
});
