import { spawn } from 'node:child_process';
import { cpSync, globSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { buildWhenStale } from './built.ts';
import { Traffic, get, post } from './demo-traffic.ts';

/**
 * `npm run demo`: Jibe with 24 regions on this machine, and what happens to a good, an unhealthy and a harmful release.
 * Ends with Jibe running and its URLs, or with `--once` by stopping everything. Any step that does not do what it says fails the demo.
 */

const REGIONS = 24;
const HOST = 'notes.localhost';
const NOTE = 'Written before the second deploy';
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const BIN = join(ROOT, 'bin/jibe');
const COMMAND_LIMIT_MS = 120_000;
const EDITING_MS = 5000;
const LOG_LINES_SHOWN = 15;
/** The watch's own work takes a few seconds: the harm has to be counted first. */
const SWING_BACK_LIMIT_MS = 60_000;

interface Region {
	name: string;
	url: string;
}

interface DeployResult {
	deployment: string | null;
	release: number | string;
	state: string;
	reason: string | null;
	modules?: { compiled: number; cached: number };
	uploadedBytes?: number;
	regions?: { name: string; state: string }[];
}

const once = process.argv.includes('--once');
const place = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-demo-')));
const data = join(place, 'data');
const app = join(place, 'notes');
const times: [string, number][] = [];
let regions: Region[] = [];
let traffic: Traffic | null = null;

process.once('SIGINT', () => void fail(new Error('interrupted')));
process.once('SIGTERM', () => void fail(new Error('interrupted')));
try {
	await demo();
} catch (error) {
	await fail(error);
}

async function demo(): Promise<void> {
	buildWhenStale();
	copyNotes();
	await start();
	await deployNotes();
	const note = await showAnswers();
	traffic = new Traffic(regions, HOST, '/notes');
	const second = await editThreeModules();
	await unhealthyRelease(second);
	await harmfulRelease(second);
	await fixedRelease();
	await rollBack(second, note);
	await traffic.stop();
	printTimes();
	if (once) await stop();
	else printPlaces();
}

async function start(): Promise<void> {
	title(`Start Jibe with ${REGIONS} regions on this machine`);
	await timed('jibe up, 24 regions', () => jibe(0, 'up', '--regions', String(REGIONS), '--detach'));
	const endpoint = JSON.parse(readFileSync(join(data, 'endpoint.json'), 'utf8')) as { regions: Region[] };
	regions = endpoint.regions;
	demand(regions.length === REGIONS, `${REGIONS} regions`, regions.length);
}

async function deployNotes(): Promise<void> {
	title('Deploy examples/notes');
	const result = await timed('first deploy', () => deploy(0));
	demand(result.state === 'Deployed', 'Deployed', result.state);
}

async function showAnswers(): Promise<string> {
	title('Ask it in several regions');
	const shown = [0, 7, 23].map((i) => regions[i]!);
	for (const region of shown) {
		const { status, json, headers } = await get(region.url, HOST, '/');
		demand(status === 200 && json['region'] === region.name, `200 from ${region.name}`, `${status} ${JSON.stringify(json)}`);
		say(`curl -H 'Host: ${HOST}' ${region.url}/  →  200, ${String(json['region'])}, release ${String(headers['x-jibe-release'])}`);
	}
	const made = await post(regions[0]!.url, HOST, '/notes', { title: NOTE });
	demand(made.status === 201, '201 for a new note', made.status);
	return `/notes/${Number(made.json['id'])}`;
}

async function editThreeModules(): Promise<DeployResult> {
	title('Edit three modules, and deploy again');
	await editingTime();
	edit('src/routes/home.ts', 'Notes, kept well.', 'Notes, kept even better.');
	edit('src/routes/status.ts', 'node: process.version', 'node: process.version, edited: true');
	edit('src/routes/search.ts', 'c.json({ q, notes:', 'c.json({ q, from: settings.region, notes:');
	const result = await timed('deploy of three edited modules', () => deploy(0));
	demand(result.state === 'Deployed', 'Deployed', result.state);
	demand(result.modules?.compiled === 3, '3 modules compiled', result.modules?.compiled);
	await everywhere('Notes, kept even better.');
	nothingFailed('while all regions moved to the new release');
	return result;
}

/** Nobody edits three modules in no time: meanwhile idle processes are made ready for the next release. */
async function editingTime(): Promise<void> {
	say(`(${EDITING_MS / 1000} s pass, as they do when somebody edits)`);
	await delay(EDITING_MS);
}

async function unhealthyRelease(good: DeployResult): Promise<void> {
	title('Deploy a release that fails its health check');
	// Its own tests pass: the warehouse is missing where it runs.
	const healthy = 'c.json({ ok: true, notes: store.count() })';
	const unhealthy = `settings.region === 'local' ? ${healthy} : c.json({ ok: false, why: 'no connection to the warehouse' }, 503)`;
	edit('src/routes/status.ts', healthy, unhealthy);
	const result = await timed('unhealthy release refused', () => deploy(1));
	demand(result.state === 'DeployFailed', 'DeployFailed', result.state);
	await everywhere('Notes, kept even better.', good);
	nothingFailed('and no user saw it');
	edit('src/routes/status.ts', unhealthy, healthy);
}

async function harmfulRelease(good: DeployResult): Promise<void> {
	title('Deploy a release that passes the probes and then returns errors');
	const list = "app.get('/', (c) => {";
	const leaking = `let served = 0;\n\t${list}\n\t\tif (++served > 10) throw new Error('the pool of connections is used up');`;
	edit('src/routes/notes.ts', list, leaking);
	edit('src/routes/home.ts', 'Notes, kept even better.', 'Notes, kept badly.');
	traffic!.rate = 8;
	const result = await timed('harmful release deployed', () => deploy(0));
	demand(result.state === 'Deployed', 'Deployed', result.state);
	await timed('from there until the watch had swung all pointers back', async () => {
		const limit = performance.now() + SWING_BACK_LIMIT_MS;
		while (!(await serveEverywhere('Notes, kept even better.'))) {
			demand(performance.now() < limit, `every pointer swung back within ${SWING_BACK_LIMIT_MS / 1000} s`, 'errors go on');
			await delay(50);
		}
	});
	const { asked, failed } = traffic!.take();
	demand(failed > 0, 'errors that users saw', failed);
	say(`users saw ${failed} errors in ${asked} requests; nobody had to do anything`);
	traffic!.rate = 2;
	await everywhere('Notes, kept even better.', good);
	edit('src/routes/notes.ts', leaking, list);
}

async function fixedRelease(): Promise<void> {
	title('Mend it, and deploy');
	await editingTime();
	edit('src/routes/home.ts', 'Notes, kept badly.', 'Notes, kept best.');
	traffic!.take();
	const result = await timed('mended release deployed', () => deploy(0));
	demand(result.state === 'Deployed', 'Deployed', result.state);
	await everywhere('Notes, kept best.', result);
	nothingFailed('while all regions moved');
}

async function rollBack(to: DeployResult, note: string): Promise<void> {
	title('Roll back');
	traffic!.take();
	const result = (await timed('rollback', () => jibe(0, 'rollback', 'notes', '--json'))) as unknown as DeployResult;
	demand(result.release === to.release, `release ${to.release}`, result.release);
	await everywhere('Notes, kept even better.', to);
	nothingFailed('while all regions moved back');
	const kept = await get(regions[0]!.url, HOST, note);
	demand(kept.json['title'] === NOTE, 'the note written at the start', JSON.stringify(kept.json));
	say(`the note written before all this: “${String(kept.json['title'])}”`);
}

/** Every region answers with this greeting, from this release when one is given. */
async function everywhere(greeting: string, release?: DeployResult): Promise<void> {
	const answers = await Promise.all(regions.map((region) => get(region.url, HOST, '/')));
	for (const [i, { status, json, headers }] of answers.entries()) {
		const name = regions[i]!.name;
		demand(status === 200 && json['greeting'] === greeting, `“${greeting}” in ${name}`, `${status} ${JSON.stringify(json)}`);
		if (release)
			demand(sameRelease(headers['x-jibe-release'], release.release), `release ${release.release} in ${name}`, headers['x-jibe-release']);
	}
	say(`all ${regions.length} regions answer “${greeting}”`);
}

async function serveEverywhere(greeting: string): Promise<boolean> {
	const answers = await Promise.all(regions.map((region) => get(region.url, HOST, '/')));
	return answers.every(({ json }) => json['greeting'] === greeting);
}

function sameRelease(header: unknown, release: number | string): boolean {
	return String(header).replace(/^v/, '') === String(release).replace(/^v/, '');
}

function nothingFailed(when: string): void {
	const { asked, failed } = traffic!.take();
	demand(failed === 0, `no failed request ${when}`, `${failed} of ${asked}`);
	say(`${asked} requests meanwhile, none failed ${when}`);
}

async function deploy(exit: number): Promise<DeployResult> {
	return (await jibe(exit, 'deploy', '--json')) as unknown as DeployResult;
}

/** Runs the real command, shows what it says, and returns the object that `--json` prints. */
function jibe(exit: number, ...words: string[]): Promise<Record<string, unknown>> {
	console.log(dim(`  $ jibe ${words.join(' ')}`));
	return new Promise((resolve, reject) => {
		const { JIBE_SERVER: _server, JIBE_TOKEN: _token, ...own } = process.env;
		// A cache of its own: what is compiled here is compiled before your eyes.
		const env = { ...own, JIBE_DATA: data, XDG_CACHE_HOME: join(place, 'cache') };
		const child = spawn(BIN, words, {
			cwd: words[0] === 'up' ? place : app,
			env,
			stdio: ['ignore', 'pipe', 'pipe'],
			timeout: COMMAND_LIMIT_MS,
		});
		let stdout = '';
		child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
		child.stderr.setEncoding('utf8').on('data', (text: string) => process.stdout.write(text.replaceAll(/^(?=.)/gm, '    ')));
		child.once('error', reject);
		child.once('exit', (code) => {
			setImmediate(() => {
				if (code !== exit) return reject(new Error(`jibe ${words.join(' ')} ended with exit ${code}, expected ${exit}\n${stdout}`));
				const last = stdout.trimEnd().split('\n').at(-1) ?? '';
				resolve(last.startsWith('{') ? (JSON.parse(last) as Record<string, unknown>) : {});
			});
		});
	});
}

/** The example with its dependencies, which are among Jibe's own in the same versions: `npm ci` without a network. */
function copyNotes(): void {
	cpSync(join(ROOT, 'examples/notes'), app, { recursive: true, filter: (file) => !/\/(node_modules|data)$/.test(file) });
	const { packages } = JSON.parse(readFileSync(join(app, 'package-lock.json'), 'utf8')) as {
		packages: Record<string, { version: string }>;
	};
	for (const path of Object.keys(packages).filter((name) => name !== '')) {
		const installed = JSON.parse(readFileSync(join(ROOT, path, 'package.json'), 'utf8')) as { version: string };
		demand(installed.version === packages[path]!.version, `${path} ${packages[path]!.version}`, installed.version);
		cpSync(join(ROOT, path), join(app, path), { recursive: true });
	}
}

function edit(path: string, from: string, to: string): void {
	const file = join(app, path);
	const text = readFileSync(file, 'utf8');
	demand(text.includes(from), `${path} holds ${from}`, 'it does not');
	writeFileSync(
		file,
		text.replace(from, () => to),
	);
}

async function timed<T>(what: string, work: () => Promise<T>): Promise<T> {
	const before = performance.now();
	const result = await work();
	times.push([what, performance.now() - before]);
	return result;
}

function demand(condition: boolean, expected: string, found: unknown): void {
	if (!condition) throw new Error(`expected ${expected}, found ${String(found)}`);
}

function printTimes(): void {
	title('Times taken');
	const width = Math.max(...times.map(([what]) => what.length));
	for (const [what, ms] of times) console.log(`  ${what.padEnd(width)}  ${(ms / 1000).toFixed(2).padStart(6)} s`);
}

function printPlaces(): void {
	title('Jibe is running');
	const { url } = JSON.parse(readFileSync(join(data, 'endpoint.json'), 'utf8')) as { url: string };
	console.log(`  the page     ${url}/   (sign in with: JIBE_DATA=${data} ${BIN} open)`);
	console.log(`  the app      ${regions[0]!.url.replace('127.0.0.1', HOST)}/   (${regions[0]!.name}; the other regions on the next ports)`);
	console.log(`  its source   ${app}   (edit it, then there: JIBE_DATA=${data} ${BIN} deploy)`);
	console.log(`  stop it      ${BIN} down --data ${data}`);
}

async function stop(): Promise<void> {
	await traffic?.stop();
	title('Stop everything');
	await jibe(0, 'down', '--data', data);
	rmSync(place, { recursive: true, force: true, maxRetries: 5 });
}

async function fail(error: unknown): Promise<never> {
	console.error(`\n✗ The demo failed: ${error instanceof Error ? error.message : String(error)}`);
	showLogs();
	await stop().catch((cause: unknown) => console.error(`and could not be stopped: ${String(cause)}; what is left lies in ${place}`));
	process.exit(1);
}

/** What the programs found worth a warning. */
function showLogs(): void {
	for (const file of globSync('logs/*.log', { cwd: data })) {
		const lines = readFileSync(join(data, file), 'utf8').trimEnd().split('\n');
		const shown = lines.filter((line) => /"level":"(warn|error)"/.test(line)).slice(-LOG_LINES_SHOWN);
		if (shown.length > 0) console.error(`--- ${file}\n${shown.join('\n')}`);
	}
}

function title(text: string): void {
	console.log(`\n${process.stdout.isTTY ? `\u001b[1m${text}\u001b[22m` : text}`);
}

function say(text: string): void {
	console.log(`  ${text}`);
}

function dim(text: string): string {
	return process.stdout.isTTY ? `\u001b[2m${text}\u001b[22m` : text;
}
