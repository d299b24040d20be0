import { chmodSync, mkdirSync, realpathSync, statSync } from 'node:fs';
import { hash } from 'node:crypto';
import { join } from 'node:path';

/**
 * Where an installation's sockets and mount points are: a short path, because a unix socket's may have 107 bytes,
 * and one that other uids may walk through, because the data directory may lie below somebody's private one.
 */
const HASH_LENGTH = 10;

/** Creates it when it is missing. `data` must exist. */
export function runDirectory(data: string): string {
	const name = hash('sha256', realpathSync(data), 'hex').slice(0, HASH_LENGTH);
	const ofService = serviceRoot(data);
	const directory = join(ofService ?? runRoot(), name);
	const root = isRoot() && ofService === null;
	mkdirSync(directory, { recursive: true, mode: root ? 0o711 : 0o700 });
	// mkdir's mode goes through the umask; nobody may list it, apps must be able to walk through it.
	chmodSync(directory, root ? 0o711 : 0o700);
	return directory;
}

export function isRoot(): boolean {
	return process.getuid?.() === 0;
}

/** A service of a user other than root is given one by its manager; root finds it there, too. */
function serviceRoot(data: string): string | null {
	const { uid } = statSync(data);
	const directory = serviceRunRoot(uid);
	return uid !== 0 && statSync(directory, { throwIfNoEntry: false })?.uid === uid ? directory : null;
}

export function serviceRunRoot(uid: number): string {
	return `/run/jibe-${uid}`;
}

function runRoot(): string {
	if (isRoot()) {
		mkdirSync('/run/jibe', { recursive: true, mode: 0o711 });
		chmodSync('/run/jibe', 0o711);
		return '/run/jibe';
	}
	const session = process.env['XDG_RUNTIME_DIR'];
	return session ? join(session, 'jibe') : `/tmp/jibe-${process.getuid?.() ?? 'user'}`;
}
