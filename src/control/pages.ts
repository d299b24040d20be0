import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The page's files, read once and served from memory, and the two small pages of signing in. */
export interface Pages {
	index: string;
	script: string;
	style: string;
	/** Where a person allows a command a token. */
	allow: string;
	allowScript: string;
	signInScript: string;
	signedIn: string;
	/** `then`: what to do once one is signed in. */
	signIn(problem: string | null, then?: string): string;
	headers: Record<string, string>;
}

/** Nothing from elsewhere, no inline code, in no frame. */
const HEADERS = {
	'content-security-policy':
		"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
	'x-frame-options': 'DENY',
	'cross-origin-opener-policy': 'same-origin',
	'cross-origin-resource-policy': 'same-origin',
};

/** Beside the bundle in a package, at the root of the repository otherwise. */
export function findDashboard(): string {
	const places = [
		join(import.meta.dirname, 'dashboard'),
		join(import.meta.dirname, '..', 'dashboard'),
		join(import.meta.dirname, '..', '..', 'dashboard'),
	];
	const found = places.find((place) => existsSync(join(place, 'index.html')));
	if (found) return found;
	throw new Error(`the page's files are in none of ${places.join(', ')}: the installation is incomplete`);
}

export function loadPages(dir: string): Pages {
	const read = (name: string) => readFileSync(join(dir, name), 'utf8');
	return {
		index: read('index.html'),
		script: read('page.js'),
		style: read('style.css'),
		allow: read('allow.html'),
		allowScript: read('allow.js'),
		signInScript: read('sign-in.js'),
		// A refresh from this page, not a redirect: a SameSite=Strict cookie is not sent along a redirect that began elsewhere.
		signedIn: shell('<meta http-equiv="refresh" content="0; url=/">', '<p>Signed in. <a href="/">Go on to the page.</a></p>'),
		signIn: (problem, then = '') =>
			shell(
				'<script src="/sign-in.js" type="module"></script>',
				`${problem === null ? '' : `<p class="problem" role="alert">${problem}</p>`}<p>To sign in, run this on a machine that has a token:</p><pre>jibe open</pre><p class="quiet">It opens this page with a link that works once.${then}</p>${TOKEN_FORM}`,
			),
		headers: HEADERS,
	};
}

/** Its button works once the script has come: sent without it, the token would be gone. */
const TOKEN_FORM = `<form id="token">
<label for="secret">Or paste a token</label>
<p class="row"><input id="secret" type="password" autocomplete="off" spellcheck="false" required placeholder="jibe_…"><button type="submit" disabled>Sign in</button></p>
<p class="problem" role="alert"></p>
</form>`;

function shell(head: string, body: string): string {
	return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Jibe</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css">
${head}
</head>
<body class="sign-in">
<main>
<h1>Jibe</h1>
${body}
</main>
</body>
</html>
`;
}
