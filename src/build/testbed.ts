import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { buildApp, type BuildInput } from './build.ts';
import type { AppIndex } from '#store/app-index.ts';
import { BuildError } from './build-error.ts';
import type { BuildResult } from './result.ts';

/** Apps for tests, written out as maps of files. */

export type Files = Record<string, string>;

export interface TestApp {
	dir: string;
	cacheDir: string;
	write(files: Files): void;
	remove(...paths: string[]): void;
	build(config?: Partial<BuildInput['config']>, more?: Partial<BuildInput>): Promise<BuildResult>;
	/** The error of a build that must fail. */
	fault(config?: Partial<BuildInput['config']>): Promise<BuildError>;
	[Symbol.dispose](): void;
}

export const SERVER = `export default { fetch: () => new Response('ok') };\n`;

export function testApp(files: Files, below = ''): TestApp {
	const base = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-build-')));
	const root = join(base, 'app');
	const dir = join(root, below);
	const cacheDir = join(base, 'cache');
	const app: TestApp = {
		dir,
		cacheDir,
		write: (more) => writeFiles(root, more),
		remove: (...paths) => paths.forEach((path) => rmSync(join(root, path), { recursive: true })),
		build: (config, more) =>
			buildApp({ dir, cacheDir, nodeVersion: '24.21.0', config: { entry: 'src/server.ts', ...config }, target: 'test', ...more }),
		async fault(config) {
			try {
				await app.build(config);
			} catch (error) {
				if (error instanceof BuildError) return error;
				throw error;
			}
			throw new Error('the build did not fail');
		},
		[Symbol.dispose]: () => rmSync(base, { recursive: true, force: true }),
	};
	writeFiles(root, { 'package.json': '{"name":"app","type":"module"}', ...files });
	return app;
}

function writeFiles(root: string, files: Files): void {
	for (const [path, text] of Object.entries(files)) {
		mkdirSync(dirname(join(root, path)), { recursive: true });
		writeFileSync(join(root, path), text);
	}
}

/** A file of the artifact, as text. */
export function textOf(result: BuildResult, path: string): string {
	const entry = result.manifest.get(path);
	if (!entry || 'link' in entry) throw new Error(`${path} is not in the artifact: ${[...result.manifest.keys()].join(' ')}`);
	return result.blob(entry[0]).toString();
}

export function indexOf(result: BuildResult) {
	return JSON.parse(textOf(result, 'index.json')) as AppIndex;
}
