import { spawnSync } from 'node:child_process';
import { globSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SOURCES = ['src/**/*.ts', 'scripts/bundle.ts', 'dashboard/**/*', 'package.json'];

/** `bin/jibe` runs the bundles in `dist/`: builds them when they are missing, or older than what they are made of. */
export function buildWhenStale(): void {
	const built = oldest(['dist/**/*.js']);
	if (built !== null && built >= newest(SOURCES)) return;
	const { status } = spawnSync(process.execPath, ['scripts/bundle.ts'], { cwd: ROOT, stdio: 'inherit' });
	if (status === 0) return;
	console.error('The bundles in dist/ could not be built: node scripts/bundle.ts');
	process.exit(1);
}

function newest(patterns: string[]): number {
	return Math.max(0, ...changeTimes(patterns));
}

function oldest(patterns: string[]): number | null {
	const times = changeTimes(patterns);
	return times.length === 0 ? null : Math.min(...times);
}

function changeTimes(patterns: string[]): number[] {
	const files = globSync(patterns, { cwd: ROOT }).filter((file) => !file.endsWith('.test.ts'));
	return files.map((file) => statSync(`${ROOT}${file}`).mtimeMs);
}
