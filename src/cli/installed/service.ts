import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { EXIT, Failure } from '../failure.ts';
import type { Installed } from './chosen.ts';

/** The service manager of this machine, where one runs. */

/** systemd is there only where it is the first process: in a container its files may be, and nobody reads them. */
export function systemdRuns(): boolean {
	return existsSync('/run/systemd/system');
}

/** False where no service manager has it in hand. */
export function restartService({ manager, service }: Installed): boolean {
	if (!isManaged(manager)) return false;
	if (manager === 'systemd') call('systemctl', ['restart', `${service}.service`]);
	else call('launchctl', ['kickstart', '-k', `system/${service}`]);
	return true;
}

export function isManaged(manager: Installed['manager']): boolean {
	return manager === 'systemd' ? systemdRuns() : process.platform === 'darwin';
}

export function call(command: string, words: string[]): void {
	const { status, stderr, error } = spawnSync(command, words, { encoding: 'utf8' });
	if (status === 0) return;
	throw new Failure('service_manager', EXIT.jibe, `${command} ${words.join(' ')}: ${(error?.message ?? stderr).trim()}`);
}
