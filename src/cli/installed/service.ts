import { spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { isRoot, serviceRunRoot } from '#process/directory.ts';
import { EXIT, Failure } from '../failure.ts';
import type { Installed } from './note.ts';

/** The service manager of this machine, where one runs, and its users. */

/** systemd is there only where it is the first process: in a container its files may be, and nobody reads them. */
export function isManaged(manager: Installed['manager']): boolean {
	return manager === 'systemd' ? existsSync('/run/systemd/system') : process.platform === 'darwin';
}

/** False where no service manager has it in hand. */
export function restartService({ manager, service }: Installed): boolean {
	if (!isManaged(manager)) return false;
	if (manager === 'systemd') call('systemctl', ['restart', `${service}.service`]);
	else call('launchctl', ['kickstart', '-k', `system/${service}`]);
	return true;
}

/** From now on, and at each boot. False where no service manager runs. */
export function enableService({ manager, service, files }: Installed): boolean {
	if (!isManaged(manager)) return false;
	if (manager === 'systemd') {
		call('systemctl', ['daemon-reload']);
		call('systemctl', ['enable', '--quiet', `${service}.service`]);
		call('systemctl', ['restart', `${service}.service`]);
	} else {
		const plist = files.find((file) => file.endsWith('.plist')) ?? '';
		spawnSync('launchctl', ['bootout', `system/${service}`]); // what is not loaded can't be
		call('launchctl', ['bootstrap', 'system', plist]);
	}
	return true;
}

/** It is not started again; what it started runs on. */
export function stopService({ manager, service }: Installed): void {
	if (!isManaged(manager)) return;
	if (manager === 'systemd') call('systemctl', ['stop', `${service}.service`]);
	else spawnSync('launchctl', ['bootout', `system/${service}`]); // not loaded: stopped already
}

export function forgetService({ manager, service }: Installed, removeFiles: () => void): void {
	if (isManaged(manager) && manager === 'systemd') call('systemctl', ['disable', '--quiet', `${service}.service`]);
	removeFiles();
	if (isManaged(manager) && manager === 'systemd') {
		call('systemctl', ['daemon-reload']);
		spawnSync('systemctl', ['reset-failed', `${service}.service`]); // says no when it had not failed
	}
}

/** What systemd has to say against a unit; empty where it has nothing, or is not installed. */
export function verifyUnit(file: string): string[] {
	const { stderr, error } = spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' });
	return error ? [] : stderr.split('\n').filter((line) => line.trim() !== '');
}

export function call(command: string, words: readonly string[]): void {
	const { status, stderr, error } = spawnSync(command, words, { encoding: 'utf8' });
	if (status === 0) return;
	throw new Failure('service_manager', EXIT.jibe, `${command} ${words.join(' ')}: ${(error?.message ?? stderr).trim()}`);
}

export interface SystemUser {
	name: string;
	uid: number;
	/** It is there for this directory's sake. */
	made: boolean;
}

/** The system's user of this name, made when it is missing: without a home, a password or a shell. */
export function systemUser(name: string, home: string): SystemUser {
	const there = findUser(name);
	if (there !== null) return { name, uid: there.uid, made: there.home === home };
	call('useradd', ['--system', '--user-group', '--home-dir', home, '--no-create-home', '--shell', '/usr/sbin/nologin', name]);
	const user = findUser(name);
	if (user === null) throw new Failure('no_user', EXIT.jibe, `useradd made no user ${name}`);
	return { name, uid: user.uid, made: true };
}

function findUser(name: string): { uid: number; home: string } | null {
	const line = readFileSync('/etc/passwd', 'utf8')
		.split('\n')
		.find((one) => one.startsWith(`${name}:`));
	const [, , uid, , , home = ''] = line?.split(':') ?? [];
	return uid === undefined ? null : { uid: Number(uid), home };
}

/**
 * A service of another user is never run by root by mistake, such as by hand where no service manager runs: this process
 * becomes that user.
 */
export function becomeServiceUser(installed: Installed | null): void {
	if (!installed?.user || !isRoot()) return;
	const { name, uid } = installed.user;
	const run = serviceRunRoot(uid);
	mkdirSync(run, { recursive: true, mode: 0o700 });
	chownSync(run, uid, statSync(installed.data).gid);
	process.setgroups?.([]);
	process.setgid?.(name);
	process.setuid?.(uid);
	process.env['HOME'] = installed.data;
}
