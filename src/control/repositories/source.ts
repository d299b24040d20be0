import type { Readable } from 'node:stream';
import type { RepositoryRow } from '#state/repositories.ts';
import type { BuildSource } from '#wire/builds.ts';
import { archive } from '../git/archive.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { CloneError } from './mirror.ts';

/**
 * What a build is made of, also where another control fetched it or was pushed it, or the copy here was lost: then the commit
 * is fetched once more. @throws Refusal 404 source_gone, 502
 */
export async function sourceOf(house: House, source: BuildSource): Promise<Readable> {
	try {
		return await archive(house, source);
	} catch (error) {
		if (source.kind !== 'git' || !(error instanceof Refusal && error.code === 'source_gone')) throw error;
		const row = await house.state.repositories.get(source.repository);
		if (row && row.forge !== 'push') await bring(house, row, source.commit);
		else if ((await house.kept.refresh(source.repository)) === null) throw error;
		return archive(house, source);
	}
}

async function bring(house: House, row: RepositoryRow, commit: string): Promise<void> {
	try {
		await house.mirrors.bring(row, await house.repositorySecrets.open(row), commit, `refs/jibe/commit/${commit}`);
	} catch (error) {
		if (error instanceof CloneError) throw new Refusal(error.code, 502, error.message);
		throw error;
	}
}
