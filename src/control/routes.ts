import { adminRoutes } from './api/admin.ts';
import { appRoutes } from './api/apps.ts';
import { backupRoutes } from './api/backups.ts';
import { blobRoutes } from './api/blobs.ts';
import { builderRoutes } from './api/builders.ts';
import { buildRoutes } from './api/builds.ts';
import { deploymentRoutes } from './api/deployments.ts';
import { doctorRoutes } from './api/doctor.ts';
import { packageRoutes } from './api/packages.ts';
import { pageRoutes } from './api/pages.ts';
import { releaseRoutes } from './api/releases.ts';
import { secretRoutes } from './api/secrets.ts';
import { serverRoutes } from './api/servers.ts';
import { verifyRoutes } from './api/verify.ts';
import { signInRoutes } from './api/sign-ins.ts';
import { stepRoutes } from './api/steps.ts';
import type { House } from './house.ts';
import { openApi } from './openapi.ts';
import type { Pages } from './pages.ts';
import type { Route } from './route.ts';

/** The whole table of what control answers; `more`: of parts that have to be closed, too. */
export function routesOf(
	house: House,
	more: readonly Route[],
	of: { version: string; certFile: string | undefined; pages: Pages },
): Route[] {
	const routes: Route[] = [
		...more,
		...deploymentRoutes(house),
		...appRoutes(house),
		...releaseRoutes(house),
		...adminRoutes(house),
		...secretRoutes(house),
		...blobRoutes(house),
		...buildRoutes(house),
		...builderRoutes(house),
		...verifyRoutes(house),
		...stepRoutes(house),
		...serverRoutes(house),
		...backupRoutes(house, of.version),
		...packageRoutes(house),
		...doctorRoutes(house, of),
	];
	const document = () => openApi(routes, of.version);
	routes.push(...signInRoutes(house, of.pages), ...pageRoutes(house, of.pages, document));
	return routes;
}
