import { BACKUP_TYPE } from '#wire/backup-file.ts';
import { backupRequest } from '#wire/backup-header.ts';
import { makeBackup, sendPieces } from '../backup.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { asRefusal, INTERNAL } from '../refusals.ts';
import { ANSWERED, route, type Route } from '../route.ts';

export function backupRoutes(house: House, version: string): Route[] {
	const { state, store, installation, clock, log } = house;
	let running = false;
	return [
		route({
			method: 'POST',
			path: '/api/v1/backups',
			summary: 'A backup of everything, as it is now, while everything goes on.',
			role: 'admin',
			body: backupRequest,
			answer: BACKUP_TYPE,
			async handle({ body: { all, seal }, caller, response }) {
				if (running) throw new Refusal('backup_running', 409, 'a backup is being made now', 'wait for it, then try again');
				running = true;
				try {
					const entry = { at: clock.now(), by: caller.by, action: 'backup.made', app: null, environment: null };
					await state.audit.write({ ...entry, detail: { all, sealed: seal !== null } });
					const wish = { all, seal: seal && { kdf: seal.kdf, key: Buffer.from(seal.key, 'base64') } };
					const pieces = makeBackup({ state, store, about: about(), clock, masterKey: () => house.secrets.forBackup(), failed }, wish);
					// What goes wrong before the first byte is an ordinary refusal.
					const first = await pieces.next();
					response.writeHead(200, { 'content-type': BACKUP_TYPE, 'cache-control': 'no-store' });
					if (!first.done) response.write(first.value);
					if (await sendPieces(pieces, response, clock)) response.end();
					else response.destroy();
				} finally {
					running = false;
				}
				return ANSWERED;
			},
		}),
	];
	function about() {
		const regions = house.local.map(({ name }) => name);
		const up = { regions, port: Number(new URL(house.url).port), edgePort: house.local[0]?.edgePort ?? 0 };
		return { version, installation: installation.id, up };
	}

	function failed(error: unknown): { code: string; message: string } {
		log.error('backup.failed', { error });
		const { code, message } = asRefusal(error) ?? INTERNAL;
		return { code, message };
	}
}
