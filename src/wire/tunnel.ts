/**
 * How an edge reaches an instance on another server, and knows that the server is there: a line to that server's agent over
 * mutual TLS, which it answers with `ok` or `no <reason>`. After it bytes pass unchanged, to the instance or back (an echo).
 */
export const TUNNEL_LINE = 'jibe-tunnel/1';
export const PULSE_LINE = 'jibe-pulse/1';
export const MAX_LINE_BYTES = 200;
export const YES = 'ok\n';

/** An edge that hears nothing of its echo for this long has lost the server. */
export const PULSE_EACH_MS = 500;
export const PULSE_LOST_AFTER_MS = 2_000;

export function tunnelLine(instance: string): string {
	return `${TUNNEL_LINE} ${instance}\n`;
}
