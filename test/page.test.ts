import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tinyApp } from './fixtures/app.ts';
import { findChromium, openBrowser, type Browser } from './fixtures/browser.ts';
import { eventually, kill, startJibe, type Jibe } from './fixtures/jibe.ts';
import { Terminal, noTerminal } from './fixtures/terminal.ts';

const COMMAND = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));
const chromium = findChromium();
const skip = chromium === null && 'needs Chromium';

const source = (word: string) => `export default { fetch: () => new Response('${word}') };`;
const TEXT = 'document.body.innerText';

test('a browser signs in by a link that works once, and sees deploy, failure and rollback arrive', { skip }, async () => {
	await using jibe = await startJibe({ regions: 3 });
	await using browser = await openBrowser(chromium!);
	using app = tinyApp('shop', source('one'));
	const shows = (pattern: RegExp) => eventually(async () => pattern.exec(await browser.evaluate<string>(TEXT)), `${pattern} on the page`);

	await browser.go(`${jibe.url}/`);
	await shows(/To sign in, run this[^]*jibe open/);
	await readable(browser);
	await fill(browser, '#secret', 'jibe_0000000000_nonsense');
	await shows(/this token does not exist/);
	const { json } = await jibe.expect(0, ['open', '--json']);
	await browser.go(String(json?.['url']));
	await shows(/Live[^]*Nothing is deployed yet[^]*3 regions, all connected\./);

	await signInFromTerminal(jibe, browser, shows);
	await browser.go(`${jibe.url}/`);
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
	await shows(/shop\n[^]*v1 serves in 3 of 3 regions[^]*v1: Deployed/);
	await jibe.expect(0, ['deploy'], { cwd: app.write('server.ts', source('two')).dir });
	await shows(/v2 serves in 3 of 3 regions · rollback goes to v1 \(warm\) · watched/);
	await jibe.expect(1, ['deploy'], { cwd: app.write('server.ts', `${source('three')} throw new Error('<b>no</b>');`).dir });
	await shows(/Failed the app threw while it started/);
	await browser.evaluate('document.querySelector("summary").click()');
	await shows(/Error: <b>no<\/b>/);
	await jibe.expect(0, ['rollback'], { cwd: app.dir });
	await shows(/v1 serves in 3 of 3 regions[^]*rollback to v1: Deployed/);
	assert.match(await browser.evaluate(TEXT), /Error: <b>no<\/b>/, 'what a person opened stays open');

	assert.deepEqual(browser.troubles, []);
	await readable(browser);
	await byKeyboard(browser);

	// Control dies: the page says so, comes back by itself, and misses nothing.
	for (const { pid } of jibe.programs('control')) kill(pid, 'SIGKILL');
	await shows(/Not connected: what serves goes on serving/);
	await shows(/Jibe\s+Live/);
	await jibe.expect(0, ['deploy'], { cwd: app.write('server.ts', source('four')).dir });
	await shows(/v4 serves in 3 of 3 regions/);
	await browser.go(String(json?.['url']));
	await shows(/This link was used before/);
});

/** `jibe login` at a terminal, allowed on the page: by a wrong code first, then by the link that the terminal shows. */
async function signInFromTerminal(jibe: Jibe, browser: Browser, shows: (pattern: RegExp) => Promise<unknown>): Promise<void> {
	if (noTerminal()) return;
	const home = mkdtempSync(join(tmpdir(), 'jibe-home-'));
	const env = { PATH: process.env['PATH'], HOME: home, XDG_CONFIG_HOME: home };
	await using terminal = new Terminal([process.execPath, COMMAND, 'login', jibe.url], env);
	const [, url = '', code] = await terminal.shows(/(http\S+\/sign-in\?code=(\S+))\r/);
	await browser.go(`${jibe.url}/sign-in?code=BBBB-BBBB`);
	await shows(/no sign-in waits with this code/);
	await browser.go(`${jibe.url}/sign-in`);
	await shows(/The code that your terminal shows/);
	assert.deepEqual(
		browser.troubles.splice(0).map((said) => /status of \d+/.exec(said)?.[0]),
		['status of 401', 'status of 404'],
	);
	await browser.go(url);
	await shows(new RegExp(`asks to sign in as you\\s+${code}[^]*${hostname()}[^]*127\\.0\\.0\\.1[^]*admin`));
	await readable(browser);
	await browser.evaluate(`document.querySelector('#role').value = 'deployer'; document.querySelector('#ask .main').click()`);
	await shows(/Allowed as “login from/);
	assert.equal(await terminal.exit(), 0, terminal.text);
	const { json } = await jibe.expect(0, ['token', 'list', '--json']);
	const tokens = json?.['tokens'] as { name: string; role: string }[];
	assert.deepEqual(tokens.map(({ name, role }) => [name, role]).at(-1), [`login from ${hostname()}`, 'deployer']);
	rmSync(home, { recursive: true });
}

/** Writes into a field of a form and sends that. */
async function fill(browser: Browser, field: string, value: string): Promise<void> {
	const form = `document.querySelector('${field}').form`;
	await eventually(async () => ((await browser.evaluate<boolean>(`!${form}.querySelector('button').disabled`)) ? true : null), 'a button');
	await browser.evaluate(`{ document.querySelector('${field}').value = '${value}'; ${form}.querySelector('button').click(); }`);
}

/** Every colour of text against what it stands on, light and dark. */
async function readable(browser: Browser): Promise<void> {
	for (const scheme of ['light', 'dark']) {
		await browser.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
		const faint = await browser.evaluate<string[]>(FAINT_TEXTS);
		assert.deepEqual(faint, [], scheme);
	}
}

/** WCAG's contrast of normal text. */
const FAINT_TEXTS = `(() => {
	const channels = (color) => color.match(/[\\d.]+/g).map(Number);
	const light = (color) => {
		const [r, g, b] = channels(color).slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const ground = (element) => {
		for (let at = element; at; at = at.parentElement) {
			const color = getComputedStyle(at).backgroundColor;
			if (channels(color)[3] !== 0) return color;
		}
		return 'rgb(255, 255, 255)';
	};
	return [...document.querySelectorAll('body *')].filter((element) => element.innerText).flatMap((element) => {
		const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => x - y);
		const ratio = (b + 0.05) / (a + 0.05);
		return ratio < 4.5 ? [element.tagName + '.' + element.className + ' ' + ratio.toFixed(1)] : [];
	});
})()`;

/** The first stop of the Tab key leads past the head; every stop after it shows where one is. */
async function byKeyboard(browser: Browser): Promise<void> {
	const focused = () => browser.evaluate<string>('document.activeElement.textContent.trim()');
	await browser.evaluate('document.activeElement.blur()');
	await browser.press('Tab');
	assert.equal(await focused(), 'Skip to the apps');
	await browser.press('Tab');
	assert.equal(await focused(), 'Sign out');
	assert.notEqual(await browser.evaluate('getComputedStyle(document.activeElement).outlineStyle'), 'none');
	await browser.press('Tab');
	assert.match(await focused(), /^shop\.localhost:/);
}
