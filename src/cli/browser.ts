import { spawn } from 'node:child_process';

/** Starts the browser of this desktop. Without one, or at the far end of ssh, the link that is printed has to do. */
export function startBrowser(url: string): void {
	const { DISPLAY, WAYLAND_DISPLAY, BROWSER, SSH_CONNECTION } = process.env;
	const mac = process.platform === 'darwin';
	if (BROWSER === undefined && (SSH_CONNECTION !== undefined || (!mac && !DISPLAY && !WAYLAND_DISPLAY))) return;
	spawn(mac ? 'open' : 'xdg-open', [url], { detached: true, stdio: 'ignore' })
		.on('error', () => {})
		.unref();
}
