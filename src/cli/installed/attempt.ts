import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** A joined server's way to another package, as long as it has not arrived: the supervisor that began it may not be there at its end. */
export interface Attempt {
	/** Digest of the package. */
	wanted: string;
	/** Of the list of servers that said so: told again, it tries again. */
	version: number;
	/** Null: it is under way. */
	problem: string | null;
}

const MAX_PROBLEM_CHARS = 1_500;

export function readAttempt(data: string): Attempt | null {
	try {
		return JSON.parse(readFileSync(fileOf(data), 'utf8')) as Attempt;
	} catch {
		return null; // there is none: a whole one is renamed into place
	}
}

export function writeAttempt(data: string, attempt: Attempt | null): void {
	const file = fileOf(data);
	if (attempt === null) return rmSync(file, { force: true });
	writeFileSync(`${file}.${process.pid}`, JSON.stringify(attempt), { mode: 0o600 });
	renameSync(`${file}.${process.pid}`, file);
}

/** Before what was there is put back: it tells control. */
export function noteProblem(data: string, problem: string): void {
	const attempt = readAttempt(data);
	if (attempt) writeAttempt(data, { ...attempt, problem: problem.slice(0, MAX_PROBLEM_CHARS) });
}

function fileOf(data: string): string {
	return join(data, 'upgrade-attempt.json');
}
