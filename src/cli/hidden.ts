import { StringDecoder } from 'node:string_decoder';
import { usage } from './failure.ts';
import type { Output } from './output.ts';

/** A value that nobody is to see: all of standard input, or typed without echo. */

const MAX_CHARACTERS = 64 * 1024;
const ENTER = /[\r\n]/;
const INTERRUPT = '\u0003';
const END_OF_FILE = '\u0004';
const ERASE = new Set(['\u007f', '\b']);

/** Without the newline at its end. @throws Failure when there is nothing, or too much */
export async function readHidden(prompt: string, out: Output): Promise<string> {
	const value = process.stdin.isTTY ? await typed(prompt, out) : (await piped()).replace(/\r?\n$/, '');
	if (value === '') throw usage('the value on standard input is empty', 'jibe secret set NAME < file   or type it when asked');
	return value;
}

async function piped(): Promise<string> {
	let text = '';
	process.stdin.setEncoding('utf8');
	for await (const part of process.stdin as AsyncIterable<string>) {
		text += part;
		if (text.length > MAX_CHARACTERS) throw usage(`a secret may have ${MAX_CHARACTERS / 1024} KiB`);
	}
	return text;
}

function typed(prompt: string, out: Output): Promise<string> {
	const { stdin } = process;
	out.say(prompt);
	stdin.setRawMode(true);
	stdin.resume();
	const decoder = new StringDecoder('utf8');
	let value = '';
	return new Promise((resolve, reject) => {
		const settle = (end: () => void) => {
			stdin.off('data', take).setRawMode(false);
			stdin.pause();
			end();
		};
		const take = (bytes: Buffer) => {
			for (const character of decoder.write(bytes)) {
				if (character === INTERRUPT) return settle(() => reject(usage('nothing was set')));
				if (ENTER.test(character) || character === END_OF_FILE) return settle(() => resolve(value));
				value = ERASE.has(character) ? value.replace(/.$/su, '') : value + character;
			}
		};
		stdin.on('data', take);
	});
}
