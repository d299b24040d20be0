/** Takes the values of secrets, and what looks like a token of a known kind, out of what an app writes. */

export interface Scrub {
	(line: string): string;
	/** No more than this of an unfinished line can be the beginning of a secret. */
	holdCharacters: number;
}

/** Shorter ones would take words out of every line. */
export const MIN_SCRUBBED_CHARACTERS = 6;
/** A long value is looked for in pieces: the memory that is needed does not grow with it. */
const PIECE_BYTES = 256;

const TOKENS = new RegExp(
	[
		'gh[pousr]_[A-Za-z0-9]{36,255}', // GitHub
		'github_pat_[A-Za-z0-9_]{22,255}',
		'glpat-[A-Za-z0-9_-]{20,64}', // GitLab
		'(?:AKIA|ASIA)[A-Z0-9]{16}', // AWS
		'AIza[A-Za-z0-9_-]{35}', // Google
		'ya29\\.[A-Za-z0-9_-]{20,1024}',
		'xox[abeoprs]-[A-Za-z0-9-]{10,255}', // Slack
		'(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,255}', // Stripe
		'sk-[A-Za-z0-9_-]{32,255}', // OpenAI, Anthropic
		'npm_[A-Za-z0-9]{36}',
		'dop_v1_[a-f0-9]{64}', // DigitalOcean
		'SG\\.[A-Za-z0-9_-]{16,64}\\.[A-Za-z0-9_-]{16,64}', // SendGrid
		'jibe_[0-9a-hjkmnp-tv-z]{10}_[A-Za-z0-9_-]{43}',
		'eyJ[A-Za-z0-9_-]{8,1024}\\.eyJ[A-Za-z0-9_-]{8,1024}\\.[A-Za-z0-9_-]{8,1024}', // a JSON web token
	].map((token) => `(?<![A-Za-z0-9])(?:${token})`).join('|'), 'g'); // prettier-ignore

export function scrubber(secrets: readonly { name: string; value: string }[]): Scrub {
	const masks = new Map<string, string>();
	for (const { name, value } of secrets) for (const form of formsOf(value)) masks.set(form, `[secret ${name}]`);
	// The longest first: what holds another is taken as a whole.
	const forms = [...masks].toSorted(([a], [b]) => b.length - a.length);
	const scrub = (line: string) => {
		let text = line;
		for (const [form, mask] of forms) if (text.includes(form)) text = text.replaceAll(form, () => mask);
		return text.replace(TOKENS, '[token]');
	};
	return Object.assign(scrub, { holdCharacters: forms[0]?.[0].length ?? 0 });
}

/** Every text that tells it: as it is, in JSON, in a URL, in base64 (wherever in it), in hexadecimal. */
function formsOf(value: string): Set<string> {
	const forms = new Set<string>();
	const add = (form: string) => form.length >= MIN_SCRUBBED_CHARACTERS && forms.add(form);
	for (const text of [...value.split(/\r?\n/).flatMap(pieces), ...passwordIn(value)]) {
		add(text);
		add(JSON.stringify(text).slice(1, -1));
		for (const encoded of [encodeURIComponent(text.toWellFormed()), new URLSearchParams([['', text]]).toString().slice(1)]) {
			add(encoded);
			add(encoded.replace(/%[0-9A-F]{2}/g, (hex) => hex.toLowerCase()));
		}
	}
	for (const text of [value, value.trim(), ...passwordIn(value)]) {
		const bytes = Buffer.from(text);
		for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
			const piece = bytes.subarray(at, at + PIECE_BYTES);
			if (piece.length < MIN_SCRUBBED_CHARACTERS) continue;
			for (const encoded of base64Of(piece)) {
				add(encoded);
				add(encoded.replaceAll('+', '-').replaceAll('/', '_'));
			}
			add(piece.toString('hex'));
			add(piece.toString('hex').toUpperCase());
		}
	}
	return forms;
}

function pieces(line: string): string[] {
	const text = line.trim();
	const found: string[] = [];
	for (let at = 0; at < text.length; at += PIECE_BYTES) found.push(text.slice(at, at + PIECE_BYTES));
	return found;
}

/** A driver that fails to connect tells the parts of the address that it was given. */
function passwordIn(value: string): string[] {
	const { password = '' } = URL.canParse(value) ? new URL(value) : {};
	if (password === '') return [];
	try {
		return [password, decodeURIComponent(password)];
	} catch {
		return [password]; // no URL encoding: it stands there as it is
	}
}

/** What of it does not depend on what is before and after: at each of the three places where it may begin. */
function base64Of(bytes: Buffer): string[] {
	const whole = bytes.toString('base64');
	const within = [0, 1, 2].map((before) => {
		const text = Buffer.concat([Buffer.alloc(before), bytes]).toString('base64');
		const end = text.endsWith('=') ? text.replace(/=+$/, '').length - 1 : text.length;
		return text.slice(before === 0 ? 0 : before + 1, end);
	});
	return [whole, ...within];
}
