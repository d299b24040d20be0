import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { buildFindings } from '#process/build-isolation.ts';
import { bad, machineFindings, ok, warn, type Finding } from '#process/checkup.ts';
import { readPidFiles } from '#process/pid-file.ts';
import { readInstalled } from '../installed/note.ts';
import { ownPackage } from '../installed/package.ts';
import { isManaged } from '../installed/service.ts';
import { count } from '../output.ts';
import { remembered } from '../up/installation.ts';

/** What `jibe doctor` finds on the machine that it runs on. */
export function localFindings(data: string): Finding[] {
	const there = existsSync(data);
	return [
		ok('Node', `${process.versions.node} at ${process.execPath}`),
		...machineFindings(there ? data : tmpdir()).filter(({ check }) => there || check !== 'disk'),
		...buildFindings(),
		...tools(),
		...dataDirectory(data),
		...versions(data),
		...programs(data),
		...service(data),
	];
}

/** Programs that are called when they are there. */
function tools(): Finding[] {
	if (onPath('git')) return [];
	return [
		warn('git', 'not on PATH', "install it: without, deployments record no commit, and nothing notices that a colleague's would be undone"),
	];
}

function onPath(command: string): boolean {
	return (process.env['PATH'] ?? '').split(delimiter).some((directory) => {
		try {
			accessSync(join(directory, command), constants.X_OK);
			return true;
		} catch {
			return false;
		}
	});
}

function dataDirectory(data: string): Finding[] {
	const stat = statSync(data, { throwIfNoEntry: false });
	if (stat === undefined) return [warn('data', `${data} does not exist`, 'jibe up makes it')];
	const open = (stat.mode & 0o077) !== 0;
	return [open ? bad('data', `${data} can be read by others`, `chmod 700 ${data}`) : ok('data', data)];
}

function versions(data: string): Finding[] {
	const running = existsSync(join(data, 'installation.json')) ? remembered(data)?.package : undefined;
	const own = ownPackage();
	if (running === undefined || running.version === own.version) return [ok('version', own.version)];
	return [
		warn('version', `this command is ${own.version}, what runs is ${running.version}`, 'jibe upgrade brings what runs to this version'),
	];
}

const PROGRAMS = new Set(['up', 'control', 'postgres', 'depot', 'agent', 'edge']);

function programs(data: string): Finding[] {
	const files = readPidFiles(data);
	if (files.length === 0) return [warn('programs', 'none run on this directory', 'jibe up starts them')];
	const dead = files.filter(({ alive }) => !alive).map(({ name }) => name);
	const supervised = files.some(({ name, alive }) => name === 'up' && alive);
	const living = files.length - dead.length;
	const own = files.filter(({ name }) => PROGRAMS.has(name.split('-')[0] ?? '')).map(({ name }) => name);
	const others = files.length - own.length;
	const found: Finding[] = [];
	if (dead.length > 0) {
		const finding = supervised ? warn : bad;
		found.push(finding('programs', `not running: ${dead.join(', ')}`, `logs are in ${join(data, 'logs')}`));
	} else found.push(ok('programs', `${own.join(', ')} run${others === 0 ? '' : `, and ${count(others, 'instance')} of apps`}`));
	if (!supervised && living > 0) found.push(bad('supervisor', 'none: nothing starts again what dies', 'jibe up takes over what runs'));
	return found;
}

function service(data: string): Finding[] {
	const installed = readInstalled(data);
	if (installed === null) {
		const production = process.platform === 'linux' && readPidFiles(data).some(({ name, alive }) => name === 'up' && alive);
		return production
			? [warn('boot', 'nothing starts this again when the machine does', 'jibe install makes it a service of the machine')]
			: [];
	}
	const missing = installed.files.filter((file) => !existsSync(file));
	if (missing.length > 0) return [bad('boot', `missing: ${missing.join(', ')}`, 'jibe install writes them again')];
	if (!isManaged(installed.manager))
		return [warn('boot', `installed, but no ${installed.manager} runs here`, `start it with jibe up --data ${data} --detach`)];
	return [ok('boot', `${installed.service} of ${installed.manager} starts it`)];
}
