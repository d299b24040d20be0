import type { Timer } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { Claimed } from '#state/deliveries.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { CloneError } from './mirror.ts';

/** Works off what forges told, a few repositories at once, each one's in order, and again later what did not go. */

const AT_ONCE = 4;
const LEASE_MS = 30_000;
const BEAT_MS = 10_000;
/** Another control may have left something behind. */
const LOOK_EACH_MS = 30_000;
const MAX_ATTEMPTS = 6;
const FIRST_RETRY_MS = 5_000;
const RETRY_FACTOR = 4;

/** How it went, for people. */
export interface Looked {
	state: 'done' | 'ignored' | 'failed';
	outcome: string;
}

export class Looks {
	private readonly worker = `look-${randomId()}`;
	private readonly house: Pick<House, 'state' | 'clock' | 'log'>;
	private readonly look: (claimed: Claimed, stop: AbortSignal) => Promise<Looked>;
	private timer: Timer | null = null;
	private readonly running = new Set<Promise<void>>();
	private claiming: Promise<void> | null = null;
	private readonly stop = new AbortController();
	/** Something came while it was looked for. */
	private again = false;
	private closed = false;

	constructor(house: Pick<House, 'state' | 'clock' | 'log'>, look: (claimed: Claimed, stop: AbortSignal) => Promise<Looked>) {
		this.house = house;
		this.look = look;
	}

	/** Something waits. */
	hurry(): void {
		this.again = true;
		if (this.claiming || this.closed) return;
		this.claiming = this.claim().finally(() => {
			this.claiming = null;
			if (this.again && this.running.size < AT_ONCE) this.hurry();
		});
	}

	/** What is being looked at is left for whoever comes next. */
	async close(): Promise<void> {
		this.closed = true;
		this.timer?.cancel();
		this.stop.abort();
		await this.claiming;
		await Promise.all(this.running);
	}

	private async claim(): Promise<void> {
		this.timer?.cancel();
		const { state, log } = this.house;
		try {
			while (this.again && !this.closed && this.running.size < AT_ONCE) {
				this.again = false;
				const claimed = await state.deliveries.claim(this.worker, LEASE_MS);
				if (claimed === null) break;
				this.again = true;
				this.start(claimed);
			}
		} catch (error) {
			this.again = false;
			log.warn('looks.not_claimed', { error });
		}
		if (!this.again) await this.sleep();
	}

	private start(claimed: Claimed): void {
		const work: Promise<void> = this.work(claimed).finally(() => {
			this.running.delete(work);
			this.hurry();
		});
		this.running.add(work);
	}

	private async work(claimed: Claimed): Promise<void> {
		const { state, clock, log } = this.house;
		const { repository, ref, event } = claimed;
		const beating = clock.every(BEAT_MS, () => {
			state.deliveries.beat(claimed, this.worker, LEASE_MS).catch((error: unknown) => log.warn('looks.no_beat', { repository, error }));
		});
		try {
			const { looked, againAt } = await this.tried(claimed);
			log.info('looked', { repository, ref, event, ...looked });
			await state.deliveries.end({ claimed, worker: this.worker, ...looked, ...(againAt === null ? {} : { againAt }) });
		} catch (error) {
			// It stays claimed until its lease ends: then whoever is there tries it again.
			log.error('looks.failed', { repository, ref, error });
		} finally {
			beating.cancel();
		}
	}

	private async tried(claimed: Claimed): Promise<{ looked: Looked; againAt: number | null }> {
		try {
			return { looked: await this.look(claimed, this.stop.signal), againAt: null };
		} catch (error) {
			if (this.closed) return { looked: { state: 'failed', outcome: 'control was stopped' }, againAt: this.house.clock.now() };
			const known = error instanceof CloneError || error instanceof Refusal;
			if (!known) this.house.log.error('look.failed', { repository: claimed.repository, ref: claimed.ref, error });
			const outcome = known ? `${error.code}: ${error.message}` : 'internal: the log of control says why';
			const again = error instanceof CloneError ? error.again : error instanceof Refusal ? error.status >= 500 : true;
			if (!again || claimed.attempts >= MAX_ATTEMPTS) return { looked: { state: 'failed', outcome }, againAt: null };
			return {
				looked: { state: 'failed', outcome },
				againAt: this.house.clock.now() + FIRST_RETRY_MS * RETRY_FACTOR ** (claimed.attempts - 1),
			};
		}
	}

	/** Until the next one is due. */
	private async sleep(): Promise<void> {
		const { state, clock, log } = this.house;
		if (this.closed) return;
		const due = await state.deliveries.waiting().catch((error: unknown) => {
			log.debug('looks.not_counted', { error });
			return { nextAt: null };
		});
		if (this.closed || this.again) return;
		const inMs = due.nextAt === null ? LOOK_EACH_MS : Math.min(LOOK_EACH_MS, Math.max(0, due.nextAt - clock.now()));
		this.timer?.cancel();
		this.timer = clock.after(inMs, () => this.hurry());
	}
}
