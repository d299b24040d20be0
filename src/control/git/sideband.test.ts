import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { printable } from './sideband.ts';

const ESC = '\u001b';

test('words of a build reach a terminal without steering it', () => {
	assert.equal(printable(`${ESC}[31mred${ESC}[0m and ✓ → ü 🎉\tdone\n`), 'red and ✓ → ü 🎉\tdone\n');
	assert.equal(printable(`over\rwritten\b\u0007${ESC}[2J${ESC}[1;1Hgone`), 'overwrittengone');
	assert.equal(printable(`${ESC}]0;title\u0007x\u009b31my`), ']0;titlex31my');
	assert.equal(printable('x'.repeat(5_000)).length, 2_000);
	fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => !Array.from(printable(text)).some(steers)));
});

function steers(char: string): boolean {
	const code = char.codePointAt(0)!;
	return char !== '\t' && char !== '\n' && (code < 0x20 || (code >= 0x7f && code <= 0x9f));
}
