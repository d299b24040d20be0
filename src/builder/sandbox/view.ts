import { existsSync, lstatSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { join } from 'node:path';

/** What commands see beside their own tree: this machine's programs, read-only, and nothing of its configuration that would differ. */

/** One thing mounted at `to`. */
export interface Place {
	from: string;
	to: string;
	readonly: boolean;
}

/** Links of a merged /usr, as text of the link; directories of others are places. */
export interface MachineRoot {
	places: readonly Place[];
	links: readonly { path: string; target: string }[];
}

const ROOT_DIRECTORIES = ['/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32'];
/** What programs below /usr need of /etc. All of it comes with packages; nothing names users, keys or networks. */
const CONFIGURATION = [
	/^alternatives$/, /^ca-certificates(\.conf)?$/, /^crypto-policies$/, /^fonts$/, /^java.*$/, /^ld\.so\.(cache|conf|conf\.d)$/,
	/^magic(\.mime)?$/, /^maven$/, /^mime\.types$/, /^perl$/, /^pki$/, /^protocols$/, /^python.*$/, /^services$/, /^ssl$/,
]; // prettier-ignore

let known: MachineRoot | undefined;

export function machineRoot(): MachineRoot {
	known ??= findOut();
	return known;
}

function findOut(): MachineRoot {
	const places: Place[] = [{ from: '/usr', to: '/usr', readonly: true }];
	const links: { path: string; target: string }[] = [];
	for (const path of ROOT_DIRECTORIES.filter((one) => existsSync(one))) {
		if (lstatSync(path).isSymbolicLink()) links.push({ path, target: readlinkSync(path) });
		else places.push({ from: path, to: path, readonly: true });
	}
	for (const name of readdirSync('/etc').sort()) {
		if (!CONFIGURATION.some((pattern) => pattern.test(name))) continue;
		const path = join('/etc', name);
		if (existsSync(path)) places.push({ from: realpathSync(path), to: path, readonly: true });
	}
	return { places, links };
}
