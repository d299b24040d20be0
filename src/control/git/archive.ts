import { once } from 'node:events';
import { Readable } from 'node:stream';
import { constants, createZstdCompress } from 'node:zlib';
import type { BuildSource } from '#wire/builds.ts';
import { Refusal } from '../ports.ts';
import type { House } from '../house.ts';
import { startGit, type RunningGit } from './git.ts';
import type { Repositories } from './repositories.ts';

/** Between control and a builder bytes cost less than time. */
const ZSTD_LEVEL = 1;
const ARCHIVE_LIMIT_MS = 10 * 60_000;

/**
 * What a build is made of, as a builder gets it: a `.tar.zst` of a commit's files, or the one that a laptop sent. Of a
 * commit, it is what a checkout has: attributes that hide files from archives don't count.
 * @throws Refusal 404 source_gone
 */
export async function archive(house: Pick<House, 'git' | 'store'>, source: BuildSource): Promise<Readable> {
	if (source.kind === 'tar') return Readable.from([await house.store.read(source.digest)]);
	const tar = await tarOf(house.git, source);
	const compress = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL } });
	tar.output.pipe(compress, { end: false });
	compress.once('close', () => tar.kill());
	// Cut short it must not look whole: its end is git's own.
	tar.ended.then(
		({ code, stderr }) => {
			if (code === 0) compress.end();
			else compress.destroy(new Error(`git archive of ${source.commit} ended with ${code ?? 'a signal'}: ${stderr.trim()}`));
		},
		(error: Error) => compress.destroy(error),
	);
	return compress;
}

/** Whoever asks is told that there is none before anything is sent: a tar of no files has bytes, too. */
async function tarOf(repositories: Repositories, { repository, commit }: Extract<BuildSource, { kind: 'git' }>): Promise<RunningGit> {
	const gone = () => new Refusal('source_gone', 404, `commit ${commit} of ${repository} is not here (any more)`, 'push it again');
	if (!repositories.exists(repository)) throw gone();
	const directory = repositories.directory(repository);
	const tar = startGit(['archive', '--format=tar', `${commit}^{commit}`], { directory, limitMs: ARCHIVE_LIMIT_MS });
	void repositories.using(repository, () => tar.ended.catch(() => {})); // told to whoever reads it
	const begun = once(tar.output, 'readable').then(() => tar.output.readableLength > 0);
	const failed = tar.ended.then(({ code }) => code !== 0);
	if (!(await Promise.race([begun, failed.then((is) => (is ? false : begun))]))) throw gone();
	return tar;
}
