import type { Digest } from '#digest/digest.ts';
import { globs } from '#build/ignore.ts';
import type { AppConfig } from '#wire/config.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { servingOf } from '../status.ts';
import { unsafeStatements } from './statements.ts';

/** New or changed files of one deploy are read up to this; a parser must not keep everybody else waiting. */
const MAX_READ_BYTES = 256 * 1024;

/**
 * What is unsafe in the SQL files that this deploy brings (`migrate.files`), beside what serves: told as warnings.
 * @throws Refusal migration_unsafe where jibe.json says so
 */
export async function unsafeMigrations(
	house: House,
	{ app, environment, artifact, config }: { app: string; environment: string; artifact: Digest; config: AppConfig },
): Promise<string[]> {
	const { files = [], protect = false } = config.migrate ?? {};
	if (files.length === 0) return [];
	const fresh = await freshFiles(house, { app, environment, artifact, files });
	const read: { path: string; text: string }[] = [];
	const found: string[] = [];
	let left = MAX_READ_BYTES;
	for (const { path, digest, size } of fresh) {
		left -= size;
		if (left < 0) found.push(`${path}: not read: files of a deploy are read up to ${MAX_READ_BYTES / 1024} KiB together`);
		else read.push({ path, text: (await house.store.read(digest)).toString() });
	}
	if (read.length > 0) found.unshift(...(await unsafeStatements(read)));
	if (found.length === 0 || !protect) return found;
	throw new Refusal(
		'migration_unsafe',
		422,
		`migrations of ${app} are not safe beside the release that serves:\n${found.map((line) => `  ${line}`).join('\n')}`,
		'take the step apart: expand in migrate.before, contract in migrate.after; a comment jibe:allow in a statement says that somebody looked at it',
		{ found },
	);
}

/** Of the files that the globs name, those that the release that serves does not have as they are. None while nothing serves. */
async function freshFiles(house: House, of: { app: string; environment: string; artifact: Digest; files: readonly string[] }) {
	const { app, environment } = of;
	const wants = await house.state.deployments.wants({ app, environment });
	const serving = servingOf(house, wants.filter((want) => !want.removed)); // prettier-ignore
	const before = serving === null ? null : await house.state.deployments.release(app, serving);
	const [now, then] = await Promise.all([
		house.manifests.find(app, of.artifact),
		before && before.artifact !== of.artifact ? house.manifests.find(app, before.artifact) : null,
	]);
	if (!now || !then) return [];
	const named = globs(of.files);
	return [...now.manifest]
		.flatMap(([place, entry]) => {
			const path = /^(?:files|modules)\/(.+)$/s.exec(place)?.[1];
			if (path === undefined || 'link' in entry || !named.covers(path) || then.digests.has(entry[0])) return [];
			return [{ path, digest: entry[0], size: entry[1] }];
		})
		.toSorted((a, b) => (a.path < b.path ? -1 : 1));
}
