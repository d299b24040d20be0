import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { PackageJson } from './closure.ts';
import type { Detection } from './detect.ts';

/** Sites that a generator makes: its package or its file tells which, and so where it leaves what it made. */
export function detectSite(dir: string, manifest: PackageJson | null): Detection | null {
	const { scripts = {}, dependencies = {}, devDependencies = {} } = (manifest ?? {}) as Manifest;
	const site = SITES.find(({ packages, files }) => {
		const named = packages.some((name) => name in dependencies || name in devDependencies);
		return named || files.some((name) => existsSync(join(dir, name)));
	});
	// What is started after it was built answers requests itself.
	if (site === undefined || scripts['start'] !== undefined) return null;
	const run = site.packages.length > 0 && scripts['build'] !== undefined ? `${managerOf(dir)} run build` : site.run;
	return {
		runtime: 'static',
		dir: site.makes,
		build: { site: { run, outputs: [`${site.makes}/**`] } },
		assumptions: [`It is made by ${site.name}: \`${run}\` leaves the site in ${site.makes}, which is served as it is.`],
	};
}

interface Manifest {
	scripts?: Record<string, string>;
	dependencies?: Record<string, string>;
	devDependencies?: Record<string, string>;
}

interface Site {
	name: string;
	packages: readonly string[];
	files: readonly string[];
	/** Where no script of package.json says how. */
	run: string;
	makes: string;
}

/** The more special ones first: many stand on Vite. */
const SITES: readonly Site[] = [
	{ name: 'Astro', packages: ['astro'], files: [], run: 'astro build', makes: 'dist' },
	{ name: 'VitePress', packages: ['vitepress'], files: [], run: 'vitepress build', makes: '.vitepress/dist' },
	{ name: 'Docusaurus', packages: ['@docusaurus/core'], files: [], run: 'docusaurus build', makes: 'build' },
	{ name: 'Gatsby', packages: ['gatsby'], files: [], run: 'gatsby build', makes: 'public' },
	{ name: 'Eleventy', packages: ['@11ty/eleventy'], files: ['eleventy.config.js', '.eleventy.js'], run: 'eleventy', makes: '_site' },
	{ name: 'Create React App', packages: ['react-scripts'], files: [], run: 'react-scripts build', makes: 'build' },
	{ name: 'Parcel', packages: ['parcel'], files: [], run: 'parcel build', makes: 'dist' },
	{ name: 'Vite', packages: ['vite'], files: [], run: 'vite build', makes: 'dist' },
	{ name: 'Hugo', packages: [], files: ['hugo.toml', 'hugo.yaml', 'hugo.json'], run: 'hugo --minify', makes: 'public' },
	{ name: 'MkDocs', packages: [], files: ['mkdocs.yml'], run: 'mkdocs build', makes: 'site' },
	{ name: 'Jekyll', packages: [], files: ['_config.yml'], run: 'bundle exec jekyll build', makes: '_site' },
];

function managerOf(dir: string): string {
	if (existsSync(join(dir, 'pnpm-lock.yaml'))) return 'pnpm';
	return existsSync(join(dir, 'yarn.lock')) ? 'yarn' : 'npm';
}
