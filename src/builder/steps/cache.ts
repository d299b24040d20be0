import { promisify } from 'node:util';
import { zstdCompress, zstdDecompress } from 'node:zlib';
import { systemClock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import { stepAnswer, stepStored, type StepEntry, type StepParts } from '#wire/steps.ts';
import { UPLOAD_TYPE, encodeUpload } from '#wire/upload.ts';
import type { Attempt } from '../attempt.ts';
import { Refused } from '../control.ts';
import { Damaged } from './archive.ts';
import { decodeLog, encodeLog, type PrintedLine } from './printed.ts';

/** Results of steps, as control keeps them. What is read is checked; what is not what was stored is forgotten. */
export interface Known {
	entry: StepEntry | null;
	/** Control wants the list of inputs. */
	wantsInputs: boolean;
	/** Of the entry, as far as they came with it. */
	blobs: Blobs;
}

/** By digest, base64. */
export type Blobs = Readonly<Record<string, string>>;

export interface Result {
	name: string;
	key: Digest;
	parts: StepParts;
	inputs: Buffer;
	exitCode: number;
	outputs: { digest: Digest | null; bytes: number; packed: Buffer | null };
	printed: readonly PrintedLine[];
	ms: number;
	summary: string | null;
	savedBytes: number;
}

const MAX_READ_BYTES = 64 * 1024 * 1024;
const MAX_LOG_BYTES = 16 * 1024 * 1024;
const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

export class StepCache {
	readonly #attempt: Attempt;
	readonly #log: Log;
	/** What is rebuilt in order to be compared must not be taken from what it is compared with. */
	readonly #reads: boolean;

	constructor(attempt: Attempt, log: Log) {
		this.#attempt = attempt;
		this.#log = log;
		this.#reads = attempt.job.kind === 'deploy';
	}

	async find(name: string, key: Digest, parts: StepParts): Promise<Known> {
		if (!this.#reads) return { entry: null, wantsInputs: false, blobs: {} };
		const { entry, inputs, blobs } = stepAnswer.parse(
			await this.#attempt.ask('POST', 'steps/find', { json: { ...this.#who(), name, key, parts } }),
		);
		return { entry, wantsInputs: inputs, blobs };
	}

	/** @throws Damaged */
	archive(entry: StepEntry, blobs: Blobs): Promise<Buffer> {
		return this.#read(entry.key, 'archive', entry.archive!, blobs);
	}

	/** @throws Damaged */
	async printed(entry: StepEntry, blobs: Blobs): Promise<PrintedLine[]> {
		if (entry.log === null) return [];
		const packed = await this.#read(entry.key, 'log', entry.log, blobs);
		try {
			return decodeLog(await decompress(packed, { maxOutputLength: MAX_LOG_BYTES }));
		} catch (cause) {
			throw new Damaged('its log can not be read', { cause });
		}
	}

	/** Never fails a build: what can't be kept is made again. */
	async store(of: Result, wantsInputs: boolean): Promise<void> {
		if (!this.#reads) return;
		const log = of.printed.length === 0 ? null : await compress(encodeLog(of.printed));
		const { packed } = of.outputs;
		const entry: StepEntry = {
			key: of.key,
			exitCode: of.exitCode,
			outputs: of.outputs.digest,
			outputBytes: of.outputs.bytes,
			archive: packed === null ? null : sha256(packed),
			log: log === null ? null : sha256(log),
			ms: Math.round(of.ms),
			summary: of.summary,
			savedBytes: of.savedBytes,
			builder: this.#attempt.worker,
			at: systemClock.now(),
		};
		const blobs = [packed, log, wantsInputs ? of.inputs : null].filter((blob) => blob !== null);
		const bytes = encodeUpload({ ...this.#who(), name: of.name, entry, parts: of.parts }, blobs);
		try {
			stepStored.parse(await this.#attempt.ask('PUT', 'steps', { bytes, type: UPLOAD_TYPE }));
		} catch (error) {
			this.#attempt.check();
			this.#log.warn('step.not_kept', { step: of.name, error });
		}
	}

	/** What was read under this key is not what was stored. */
	async corrupt(key: Digest): Promise<void> {
		await this.#attempt.ask('POST', 'steps/corrupt', { json: { ...this.#who(), key } });
	}

	async #read(key: Digest, what: 'archive' | 'log', digest: Digest, { [digest]: here }: Blobs): Promise<Buffer> {
		if (here !== undefined) return checked(Buffer.from(here, 'base64'), digest);
		try {
			const parts: Buffer[] = [];
			let bytes = 0;
			for await (const part of await this.#attempt.open(this.#attempt.query(`steps/${key}/${what}`))) {
				bytes += part.length;
				if (bytes > MAX_READ_BYTES) throw new Damaged('it has more bytes than anything that is kept');
				parts.push(part);
			}
			return checked(Buffer.concat(parts), digest);
		} catch (cause) {
			if (cause instanceof Refused && (cause.status === 404 || cause.status === 410)) throw new Damaged(cause.message, { cause });
			throw cause;
		}
	}

	#who(): { worker: string; attempt: number } {
		return { worker: this.#attempt.worker, attempt: this.#attempt.job.attempt };
	}
}

function checked(bytes: Buffer, digest: Digest): Buffer {
	if (sha256(bytes) === digest) return bytes;
	throw new Damaged('it has another digest than what was stored');
}
