import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Detection } from './detect.ts';

/** Go, Rust and Python by the files that their own tools look for. */
export function detectLanguage(dir: string, app: string): Detection | null {
	return detectGo(dir, app) ?? detectRust(dir) ?? detectPython(dir);
}

function detectGo(dir: string, app: string): Detection | null {
	if (!existsSync(join(dir, 'go.mod'))) return null;
	const program = goProgram(dir, app);
	if (program === null) return null;
	const binary = `bin/${app}`;
	return {
		runtime: 'process',
		start: `./${binary}`,
		// Without what is of the machine or the moment: the same source gives the same program.
		build: { go: { run: `CGO_ENABLED=0 go build -trimpath -buildvcs=false -o ${binary} ${program}`, outputs: [binary], strip: true } },
		...(hasFile(dir, /_test\.go$/) ? { test: 'go test ./...' } : {}),
		assumptions: [`There is a go.mod with the program ${program}, so it is built with Go, without cgo, and started as ${binary}.`],
	};
}

/** The package to build: the root, or one of cmd/. */
function goProgram(dir: string, app: string): string | null {
	if (isGoProgram(dir)) return '.';
	const named = namesIn(join(dir, 'cmd')).filter((name) => isGoProgram(join(dir, 'cmd', name)));
	const chosen = named.find((name) => name === app) ?? named.find((name) => name === 'server') ?? named[0];
	return chosen === undefined ? null : `./cmd/${chosen}`;
}

function isGoProgram(dir: string): boolean {
	const sources = namesIn(dir).filter((name) => name.endsWith('.go') && !name.endsWith('_test.go'));
	return sources.some((name) => /^package main\b/m.test(readFileSync(join(dir, name), 'utf8')));
}

function detectRust(dir: string): Detection | null {
	const manifest = textOf(dir, 'Cargo.toml');
	const name = /^\[package\][^[]*?^name\s*=\s*"([^"]+)"/m.exec(manifest)?.[1];
	const binary = /^\[\[bin\]\][^[]*?^name\s*=\s*"([^"]+)"/m.exec(manifest)?.[1] ?? name;
	if (binary === undefined || !(existsSync(join(dir, 'src/main.rs')) || existsSync(join(dir, 'src/bin')) || /^\[\[bin\]\]/m.test(manifest)))
		return null;
	const made = `target/release/${binary}`;
	return {
		runtime: 'process',
		start: `./${made}`,
		build: { cargo: { run: 'cargo build --release --locked', outputs: [made], strip: true } },
		test: 'cargo test --locked',
		assumptions: [`There is a Cargo.toml of the program ${binary}, so it is built with cargo, and started as ${made}.`],
	};
}

const PYTHON_FILES = ['requirements.txt', 'pyproject.toml', 'Pipfile', 'setup.py', 'uv.lock', 'poetry.lock'];

function detectPython(dir: string): Detection | null {
	const file = PYTHON_FILES.find((name) => existsSync(join(dir, name)));
	const modules = [...namesIn(dir), ...namesIn(join(dir, 'src')).map((name) => `src/${name}`)].filter((name) => name.endsWith('.py'));
	if (file === undefined && modules.length === 0) return null;
	const dependencies = PYTHON_FILES.map((name) => textOf(dir, name)).join('\n').toLowerCase(); // prettier-ignore
	const found = pythonStart(dir, modules, dependencies);
	if (found === null) return null;
	const tested = /\bpytest\b/.test(dependencies) || existsSync(join(dir, 'tests')) || hasFile(dir, /^test_.*\.py$/);
	const because = file === undefined ? `There is ${modules[0]}` : `There is ${file}`;
	return {
		runtime: 'process',
		start: found.start,
		...(tested ? { test: 'python -m pytest' } : {}),
		assumptions: [`${because}, so it is Python; ${found.why}.`],
	};
}

function pythonStart(dir: string, modules: readonly string[], dependencies: string): { start: string; why: string } | null {
	const defining = (pattern: RegExp) => modules.find((name) => pattern.test(readFileSync(join(dir, name), 'utf8')));
	const dotted = (file: string) => file.replace(/\.py$/, '').replaceAll('/', '.');
	if (modules.includes('manage.py')) {
		const project = /["']DJANGO_SETTINGS_MODULE["'],\s*["'](\w+)\./.exec(textOf(dir, 'manage.py'))?.[1];
		const served = /\bgunicorn\b/.test(dependencies) && project !== undefined;
		const start = served ? `gunicorn ${project}.wsgi --bind 127.0.0.1:$PORT` : 'python manage.py runserver 127.0.0.1:$PORT --noreload';
		return { start, why: `manage.py is Django's, started with \`${start}\`` };
	}
	const asgi = defining(/^\w+\s*=\s*(?:FastAPI|Starlette|Litestar|Quart)\(/m);
	const wsgi = defining(/^\w+\s*=\s*Flask\(/m);
	const framework = asgi ?? wsgi;
	if (framework !== undefined) {
		const name = /^(\w+)\s*=\s*(?:FastAPI|Starlette|Litestar|Quart|Flask)\(/m.exec(textOf(dir, framework))![1]!;
		const target = `${dotted(framework)}:${name}`;
		const gunicorn = /\bgunicorn\b/.test(dependencies);
		const flask = gunicorn ? `gunicorn ${target} --bind 127.0.0.1:$PORT` : `flask --app ${target} run --port $PORT`;
		const start = asgi !== undefined ? `uvicorn ${target} --port $PORT` : flask;
		return { start, why: `${framework} makes the app, started with \`${start}\`` };
	}
	const script = ['main.py', 'app.py', 'server.py', 'src/main.py', 'src/app.py'].find((name) => modules.includes(name));
	return script === undefined ? null : { start: `python ${script}`, why: `${script} is taken to listen on $PORT by itself` };
}

function textOf(dir: string, name: string): string {
	return existsSync(join(dir, name)) ? readFileSync(join(dir, name), 'utf8') : '';
}

function namesIn(dir: string): string[] {
	return existsSync(dir) ? readdirSync(dir).sort() : [];
}

const MAX_FOLDERS = 200;
const NEVER = new Set(['node_modules', '.git', 'vendor', 'target', '.venv', 'venv']);

function hasFile(root: string, pattern: RegExp): boolean {
	const folders = [root];
	for (let looked = 0; folders.length > 0 && looked < MAX_FOLDERS; looked++) {
		const folder = folders.shift()!;
		for (const entry of readdirSync(folder, { withFileTypes: true })) {
			if (entry.isDirectory()) {
				if (!NEVER.has(entry.name)) folders.push(join(folder, entry.name));
			} else if (pattern.test(entry.name)) return true;
		}
	}
	return false;
}
