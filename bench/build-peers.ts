import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Other tools' command lines on the same project: each builds the same sources to something that Node can run. */
export interface Peer {
	name: string;
	/** Runs the tool once in the project, from a cold shell. @throws when it fails */
	build(): void;
	/** Throws away what it remembers. */
	forget(): void;
}

const VERSIONS = ['turbo@2.11.11', '@rspack/core@2.3.2', '@rspack/cli@2.2.8'];
const INSTALL_LIMIT_MS = 180_000;
const REPOSITORY = join(import.meta.dirname, '..');
const ESBUILD = join(REPOSITORY, 'node_modules', '@esbuild', `${process.platform}-${process.arch}`, 'bin', 'esbuild');
const ESBUILD_ARGUMENTS = ['src/server.ts', '--bundle', '--platform=node', '--format=esm', '--log-level=error', '--outfile=dist/server.js'];

const RSPACK_CONFIG = `export default {
	mode: 'production',
	target: 'node24',
	entry: './src/server.ts',
	experiments: { outputModule: true },
	output: { module: true, library: { type: 'module' }, filename: 'server.mjs', path: import.meta.dirname + '/dist-rspack' },
	module: { rules: [{ test: /\\.ts$/, loader: 'builtin:swc-loader', options: { jsc: { parser: { syntax: 'typescript' }, target: 'es2024' } }, type: 'javascript/auto' }] },
	stats: 'errors-only',
};
`;

const TURBO_CONFIG = JSON.stringify({
	tasks: { bundle: { inputs: ['src/**', 'package-lock.json', 'tsconfig.json'], outputs: ['dist/**'] } },
});

/** Peers that are there: esbuild always, turbo and rspack where npm can install them into `place`. */
export function findPeers(project: string, place: string): Peer[] {
	const peers = [esbuild(project)];
	try {
		mkdirSync(place, { recursive: true });
		writeFileSync(join(place, 'package.json'), '{"private":true}');
		execFileSync('npm', ['install', '--no-audit', '--no-fund', '--silent', ...VERSIONS], {
			cwd: place,
			timeout: INSTALL_LIMIT_MS,
			stdio: 'pipe',
		});
		peers.push(turbo(project, place), rspack(project, place));
	} catch (error) {
		process.stderr.write(`no turbo and rspack to compare with: npm could not install them (${(error as Error).message.split('\n')[0]})\n`);
	}
	return peers;
}

function esbuild(project: string): Peer {
	return {
		name: 'esbuild',
		build: () => run(ESBUILD, ESBUILD_ARGUMENTS, project),
		forget: () => rmSync(join(project, 'dist'), { recursive: true, force: true }),
	};
}

/** Turbo runs esbuild, or gives back what it did before. */
function turbo(project: string, place: string): Peer {
	writeFileSync(join(project, 'turbo.json'), TURBO_CONFIG);
	const manifest = {
		name: 'api',
		version: '1.0.0',
		type: 'module',
		packageManager: 'npm@10.9.0',
		dependencies: {},
		scripts: { bundle: `${ESBUILD} ${ESBUILD_ARGUMENTS.join(' ')}` },
	};
	writeFileSync(join(project, 'package.json'), JSON.stringify(manifest));
	const binary = join(
		place,
		'node_modules',
		'@turbo',
		`${process.platform}-${process.arch === 'x64' ? '64' : process.arch}`,
		'bin',
		'turbo',
	);
	return {
		name: 'turbo',
		build: () => run(binary, ['run', 'bundle', '--ui=stream', '--output-logs=errors-only', '--no-update-notifier'], project),
		forget: () =>
			['.turbo', 'node_modules/.cache', 'dist'].forEach((folder) => rmSync(join(project, folder), { recursive: true, force: true })),
	};
}

function rspack(project: string, place: string): Peer {
	writeFileSync(join(project, 'rspack.config.mjs'), RSPACK_CONFIG);
	const script = join(place, 'node_modules', '@rspack', 'cli', 'bin', 'rspack.js');
	return {
		name: 'rspack',
		build: () => run(process.execPath, [script, 'build'], project),
		forget: () => rmSync(join(project, 'dist-rspack'), { recursive: true, force: true }),
	};
}

export function run(program: string, words: readonly string[], cwd: string, env: NodeJS.ProcessEnv = process.env): string {
	const ran = spawnSync(program, words, { cwd, encoding: 'utf8', env: { ...env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1' } });
	if (ran.status !== 0)
		throw new Error(`${program} ${words.join(' ')} ended with ${ran.status ?? ran.signal}:\n${ran.stderr}${ran.stdout}`);
	return ran.stdout;
}
