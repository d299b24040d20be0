import { setImmediate } from 'node:timers/promises';
import type { Clock, Timer } from '#clock/clock.ts';

interface Task {
	at: number;
	order: number;
	run: (() => void) | null;
}

/** A clock that moves only when everything that was due has been done. */
export class VirtualClock implements Clock {
	#now = 1_700_000_000_000;
	#order = 0;
	/** A binary heap by (at, order). */
	readonly #heap: Task[] = [];

	now(): number {
		return this.#now;
	}

	monotonic(): number {
		return this.#now;
	}

	after(delayMs: number, run: () => void): Timer {
		const task: Task = { at: this.#now + Math.max(0, delayMs), order: this.#order++, run };
		this.#push(task);
		return { cancel: () => void (task.run = null) };
	}

	every(periodMs: number, run: () => void): Timer {
		let timer: Timer;
		const again = () => {
			timer = this.after(periodMs, again);
			run();
		};
		timer = this.after(periodMs, again);
		return { cancel: () => timer.cancel() };
	}

	/** Runs what is due until `forMs` have passed; promises settle between any two tasks. */
	async pass(forMs: number): Promise<void> {
		const until = this.#now + forMs;
		await setImmediate();
		for (;;) {
			const next = this.#heap[0];
			if (!next || next.at > until) break;
			this.#pop();
			if (!next.run) continue;
			this.#now = Math.max(this.#now, next.at);
			next.run();
			await setImmediate();
		}
		this.#now = until;
	}

	#push(task: Task): void {
		const heap = this.#heap;
		let at = heap.push(task) - 1;
		while (at > 0) {
			const parent = (at - 1) >> 1;
			if (!isBefore(heap[at]!, heap[parent]!)) return;
			[heap[at], heap[parent]] = [heap[parent]!, heap[at]!];
			at = parent;
		}
	}

	#pop(): void {
		const heap = this.#heap;
		const last = heap.pop()!;
		if (heap.length === 0) return;
		heap[0] = last;
		for (let at = 0; ;) {
			const left = 2 * at + 1;
			if (left >= heap.length) return;
			const child = left + 1 < heap.length && isBefore(heap[left + 1]!, heap[left]!) ? left + 1 : left;
			if (!isBefore(heap[child]!, heap[at]!)) return;
			[heap[at], heap[child]] = [heap[child]!, heap[at]!];
			at = child;
		}
	}
}

function isBefore(a: Task, b: Task): boolean {
	return a.at < b.at || (a.at === b.at && a.order < b.order);
}
