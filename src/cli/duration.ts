const UNIT_MS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `10m`, `2h`, `1d`; null when it is none of these. */
export function durationMs(text: string): number | null {
	const match = /^(\d{1,6})([smhd])$/.exec(text);
	return match === null ? null : Number(match[1]) * (UNIT_MS[match[2] ?? ''] ?? 0);
}
