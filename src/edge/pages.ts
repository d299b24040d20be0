/** The edge's own answers: a page for people, JSON for programs. */
export interface Answer {
	status: number;
	code: string;
	/** What happened. */
	message: string;
	/** What to do about it. */
	hint: string | null;
	/** Seconds. */
	retryAfter?: number;
}

export const answers = {
	badRequest: (message: string): Answer => ({ status: 400, code: 'bad_request', message, hint: null }),
	unknownApp: (host: string): Answer => ({
		status: 404,
		code: 'unknown_app',
		message: `No app answers to ${host} here.`,
		hint: 'An app is at http://<app>.localhost and the port of its region; "jibe status" lists the apps, "jibe deploy" makes one.',
	}),
	nothingServes: (app: string, environment: string): Answer => ({
		status: 503,
		code: 'nothing_serves',
		message: `Nothing serves ${app} (${environment}) in this region.`,
		hint: '"jibe history" tells what became of its deployments, "jibe deploy" makes a new one.',
	}),
	unavailable: (app: string): Answer => ({
		status: 503,
		code: 'unavailable',
		message: `No instance of ${app} can be reached at the moment.`,
		hint: 'It is tried again all the time; "jibe status" and "jibe logs" show what ails it.',
		retryAfter: 2,
	}),
	releaseNotRunning: (deployment: string): Answer => ({
		status: 404,
		code: 'release_not_running',
		message: `The release of ${deployment} does not run here (any more).`,
		hint: 'Only a release that serves, or was just prepared, answers at an address of its own.',
	}),
	accessNeeded: (deployment: string): Answer => ({
		status: 401,
		code: 'access_needed',
		message: `A single deployment (${deployment}) of production is shown to those with a signed link only.`,
		hint: 'This version makes no such links: deploy to another environment to look at a release before it serves.',
	}),
	brokenAnswer: (app: string): Answer => ({
		status: 502,
		code: 'bad_answer',
		message: `The instance of ${app} closed the connection or sent something that is not HTTP.`,
		hint: '"jibe logs" shows what it said.',
	}),
	noAnswer: (app: string): Answer => ({
		status: 504,
		code: 'no_answer',
		message: `The instance of ${app} took the request but did not answer in time.`,
		hint: '"jibe logs" shows what it said.',
	}),
	bodyTimeout: (): Answer => ({ status: 408, code: 'body_timeout', message: 'The body of the request stopped coming.', hint: null }),
	noUpgrade: (app: string): Answer => ({
		status: 426,
		code: 'no_upgrade',
		message: `${app} does not take WebSockets here.`,
		hint: 'Export "upgrade" beside "fetch" to take them.',
	}),
};

export interface Rendered {
	status: number;
	headers: string[];
	body: Buffer;
}

/** HTML for those whose Accept header asks for it, else JSON. */
export function render(answer: Answer, accept: string): Rendered {
	const html = accept.includes('text/html');
	const body = Buffer.from(html ? page(answer) : json(answer));
	const headers = [
		'content-type',
		html ? 'text/html; charset=utf-8' : 'application/json',
		'content-length',
		String(body.length),
		'cache-control',
		'no-store',
		'vary',
		'accept',
	];
	if (answer.retryAfter !== undefined) headers.push('retry-after', String(answer.retryAfter));
	if (answer.status === 426) headers.push('upgrade', 'websocket');
	return { status: answer.status, headers, body };
}

function json({ code, message, hint }: Answer): string {
	return `${JSON.stringify({ error: { code, message, hint } })}\n`;
}

function page({ status, code, message, hint }: Answer): string {
	return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${status} ${code}</title>
<link rel="icon" href="data:,">
<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:18vh auto 0;padding:0 1.25rem;color:#1d2126;background:#fbfaf7}h1{font-size:1.25rem;line-height:1.35;overflow-wrap:anywhere}code{font-size:.875em;color:#5d636b}@media(prefers-color-scheme:dark){body{color:#e8e6e1;background:#16181b}code{color:#a0a6ae}}</style></head>
<body><h1>${escapeHtml(message)}</h1>${hint === null ? '' : `<p>${escapeHtml(hint)}</p>`}<p><code>${status} ${code}</code></p></body></html>
`;
}

function escapeHtml(text: string): string {
	return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
