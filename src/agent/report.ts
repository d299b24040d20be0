import { z } from 'zod';
import type { Report } from './runtimes/fetch/messages.ts';

/** What an instance says, checked: it runs code of strangers in the same process. */
const report = z.discriminatedUnion('type', [
	z.object({ type: z.literal('idle') }),
	z.object({ type: z.literal('loaded'), importMs: z.number(), upgrades: z.boolean() }),
	z.object({
		type: z.literal('failed'),
		reason: z.enum(['app_throws', 'app_listens', 'no_fetch', 'start']),
		detail: z.string().transform((text) => text.slice(0, 4096)),
	}),
	z.object({ type: z.literal('drained'), id: z.string(), cut: z.number() }),
	z.object({ type: z.literal('rested') }),
]);

/** Null when it is none of ours. */
export function readReport(message: Record<string, unknown>): Report | null {
	const parsed = report.safeParse(message);
	return parsed.success ? parsed.data : null;
}
