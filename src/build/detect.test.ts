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
	assert.deepEqual(detect({ 'worker.mjs': 'export default 1' }), { ...fetchApp, entry: 'worker.mjs' });
	assert.deepEqual(detect({ 'index.js': 'module.exports = { fetch }' }), { ...fetchApp, entry: 'index.js' });
	assert.equal(detect({ 'index.js': 'module.exports = app; app.listen(3000)' })?.runtime, 'process');
	assert.equal(detect({ 'package.json': '{"main":"../outside.js"}', 'readme.md': '' }), null);
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

function told(files: Files) {
	using app = testApp({ 'package.json': '{}', ...files });
	const { app: name, runtime, start, dir, build, test: tests, assumptions = [] } = detectApp(app.dir) ?? {};
	return { name, runtime, start, dir, build, test: tests, why: assumptions.slice(1).join(' ') };
}

test('Go: the program at the root or below cmd, built without what is of the machine', () => {
	const root = told({
		'go.mod': 'module example.com/acme/Notes/v2\n\ngo 1.22\n',
		'main.go': '// x\npackage main\n',
		'a_test.go': 'package main\n',
	});
	assert.deepEqual(root, {
		name: 'notes',
		runtime: 'process',
		start: './bin/notes',
		dir: undefined,
		build: { go: { run: 'CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/notes .', outputs: ['bin/notes'], strip: true } },
		test: 'go test ./...',
		why: 'There is a go.mod with the program ., so it is built with Go, without cgo, and started as bin/notes.',
	});
	const commands = told({
		'go.mod': 'module notes',
		'lib.go': 'package lib',
		'cmd/admin/a.go': 'package main',
		'cmd/notes/n.go': 'package main',
	});
	assert.match(commands.build!['go']!.run, / \.\/cmd\/notes$/);
	assert.equal(commands.test, undefined);
	assert.equal(told({ 'go.mod': 'module lib', 'lib.go': 'package lib' }).runtime, undefined);
});

test('Rust: a package with a program', () => {
	const {
		name,
		start,
		build,
		test: tests,
	} = told({ 'Cargo.toml': '[package]\nversion = "1.0.0"\nname = "Notes_API"\n', 'src/main.rs': 'fn main() {}' });
	assert.deepEqual([name, start, tests], ['notes-api', './target/release/Notes_API', 'cargo test --locked']);
	assert.deepEqual(build, { cargo: { run: 'cargo build --release --locked', outputs: ['target/release/Notes_API'], strip: true } });
	const named = told({ 'Cargo.toml': '[package]\nname = "lib"\n[[bin]]\nname = "tool"\npath = "a.rs"\n' });
	assert.equal(named.start, './target/release/tool');
	assert.equal(told({ 'Cargo.toml': '[package]\nname = "lib"\n', 'src/lib.rs': '' }).runtime, undefined);
});

test('Python: by its framework, or a script', () => {
	const start = (files: Files) => told(files).start;
	assert.equal(
		start({ 'requirements.txt': 'fastapi\nuvicorn\n', 'main.py': 'from fastapi import FastAPI\napi = FastAPI()\n' }),
		'uvicorn main:api --port $PORT',
	);
	assert.equal(
		start({ 'pyproject.toml': '[project]\nname = "x"\n', 'src/web.py': 'app = Flask(__name__)' }),
		'flask --app src.web:app run --port $PORT',
	);
	assert.equal(
		start({ 'requirements.txt': 'Flask\ngunicorn==22\n', 'app.py': 'app = Flask(__name__)' }),
		'gunicorn app:app --bind 127.0.0.1:$PORT',
	);
	const django = {
		'requirements.txt': 'django\ngunicorn',
		'manage.py': "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')",
	};
	assert.equal(start(django), 'gunicorn shop.wsgi --bind 127.0.0.1:$PORT');
	assert.equal(start({ 'app.py': 'print(1)' }), 'python app.py');
	assert.equal(start({ 'requirements.txt': '', 'helper.py': '' }), undefined);
	const tested = told({ 'pyproject.toml': '[project]\nname = "My.App"\n', 'main.py': '', 'tests/test_a.py': '' });
	assert.deepEqual([tested.name, tested.test], ['my-app', 'python -m pytest']);
	assert.equal(start({ 'requirements.txt': '', 'main.py': '', Procfile: 'web: hypercorn main:app\n' }), 'hypercorn main:app');
});

test('sites that are made by a generator', () => {
	const of = (files: Files) => {
		const { runtime, dir, build } = told(files);
		return [runtime, dir, build?.['site']?.run, build?.['site']?.outputs?.[0]];
	};
	const vite = {
		'package.json': '{"scripts":{"build":"vite build"},"devDependencies":{"vite":"6"}}',
		'index.html': '',
		'pnpm-lock.yaml': '',
	};
	assert.deepEqual(of(vite), ['static', 'dist', 'pnpm run build', 'dist/**']);
	assert.deepEqual(of({ 'package.json': '{"dependencies":{"astro":"5","vite":"6"}}' }), ['static', 'dist', 'astro build', 'dist/**']);
	assert.deepEqual(of({ 'hugo.toml': '' }), ['static', 'public', 'hugo --minify', 'public/**']);
	const served = told({ 'package.json': '{"scripts":{"start":"node s.js","build":"vite build"},"dependencies":{"vite":"6"}}' });
	assert.deepEqual([served.runtime, served.start, served.build], ['process', 'npm start', { build: { run: 'npm run build' } }]);
});

test('a Dockerfile is a container, unless a module answers requests', () => {
	const found = told({ Dockerfile: 'FROM scratch', 'go.mod': 'module x', 'main.go': 'package main' });
	assert.deepEqual([found.runtime, found.why], ['container', 'There is a Dockerfile, so the runtime is "container".']);
	assert.equal(told({ Dockerfile: 'FROM node', 'src/server.ts': 'export default app' }).runtime, 'fetch');
});
