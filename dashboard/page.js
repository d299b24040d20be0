/** The page: what serves where, live. One feed, one model, one drawing a frame at most. */

const RECONNECT_MS = [250, 500, 1_000, 2_000, 5_000];
const EVENTS_SHOWN = 60;
const DEPLOYMENTS_SHOWN = 30;
const REFRESH_AFTER_EVENT_MS = 150;

const model = { cursor: null, apps: new Map(), regions: [], deployments: new Map(), events: [] };
const stale = { apps: new Set(), deployments: new Set(), regions: false };
let attempts = 0;
let refreshing = null;
let drawing = false;

connect();

function connect() {
	const after = model.cursor === null ? '' : `?after=${String(model.cursor)}`;
	const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/api/v1/events${after}`);
	socket.onopen = () => {
		attempts = 0;
		say('Live');
	};
	socket.onmessage = ({ data }) => take(JSON.parse(data));
	socket.onclose = () => {
		say('Not connected: what serves goes on serving. Trying again…');
		setTimeout(connectOrSignIn, RECONNECT_MS[Math.min(attempts++, RECONNECT_MS.length - 1)]);
	};
}

/** A session that ended would fail for ever: then the page that says how to sign in is the right one. */
async function connectOrSignIn() {
	try {
		const answer = await fetch('/api/v1/whoami');
		if (answer.status === 401) return location.assign('/');
	} catch {
		// Control is restarting: the socket finds out.
	}
	connect();
}

function take({ snapshot, event }) {
	if (snapshot) {
		model.cursor = snapshot.cursor;
		model.apps = new Map(snapshot.apps.map((app) => [`${app.app}/${app.environment}`, app]));
		model.regions = snapshot.regions;
		model.deployments = new Map(snapshot.deployments.map((deployment) => [deployment.id, deployment]));
	}
	if (event) {
		model.cursor = event.cursor;
		model.events.unshift(event);
		model.events.length = Math.min(model.events.length, EVENTS_SHOWN);
		if (event.app) stale.apps.add(`${event.app}/${event.environment ?? 'production'}`);
		if (event.deployment) stale.deployments.add(event.deployment);
		if (event.type.startsWith('region.')) stale.regions = true;
		refreshing ??= setTimeout(refresh, REFRESH_AFTER_EVENT_MS);
	}
	draw();
}

/** Events say that something changed; what it is now is asked for, once for many. */
async function refresh() {
	const apps = [...stale.apps];
	const deployments = [...stale.deployments];
	const regions = stale.regions;
	stale.apps.clear();
	stale.deployments.clear();
	stale.regions = false;
	await Promise.all([
		...apps.map(async (key) => {
			const [app, environment] = key.split('/');
			const status = await get(`/api/v1/apps/${app}/status?environment=${environment}`);
			if (status) model.apps.set(key, status);
			else model.apps.delete(key);
		}),
		...deployments.map(async (id) => {
			const found = await get(`/api/v1/deployments/${id}`);
			if (found) model.deployments.set(id, found.deployment);
		}),
		regions && get('/api/v1/regions').then((found) => found && (model.regions = found.regions)),
	]);
	refreshing = null;
	if (stale.apps.size + stale.deployments.size > 0 || stale.regions) refreshing = setTimeout(refresh, REFRESH_AFTER_EVENT_MS);
	draw();
}

async function get(path) {
	try {
		const answer = await fetch(path);
		return answer.ok ? await answer.json() : null;
	} catch {
		return null;
	}
}

function draw() {
	if (drawing) return;
	drawing = true;
	requestAnimationFrame(() => {
		drawing = false;
		const apps = [...model.apps.values()].filter((app) => app.serving !== null || app.deployment);
		fill('apps', apps.sort(byName).map(appCard));
		document.getElementById('no-apps').hidden = apps.length > 0;
		const deployments = [...model.deployments.values()].sort((a, b) => b.createdAt - a.createdAt);
		fill('deployments', deployments.slice(0, DEPLOYMENTS_SHOWN).map(deploymentRow));
		fill('regions', model.regions.map(regionChip));
		fill('events', model.events.map(eventLine));
	});
}

function appCard(app) {
	const title = el('h3', {}, app.app, app.environment === 'production' ? '' : ` · ${app.environment}`);
	const about = el(
		'p',
		{ class: 'quiet' },
		el('a', { href: app.url }, app.url),
		` · ${app.serving === null ? 'nothing serves' : `v${app.serving} serves`}`,
	);
	if (app.commit) about.append(' · ', el('span', { class: 'mono' }, app.commit.slice(0, 10)));
	if (app.watching) about.append(' · watched for harm');
	if (app.rollbackTo)
		about.append(` · rollback would go to v${app.rollbackTo.release}${app.rollbackTo.warm ? ', which is warm' : ', from disk'}`);
	if (app.readOnly) about.append(' · ', el('strong', { class: 'bad' }, `read-only: ${app.readOnly}`));
	return el(
		'article',
		{},
		title,
		about,
		el('ul', { class: 'chips', 'aria-label': `Regions of ${app.app}` }, ...app.regions.map(pointerChip)),
	);
}

const STATE_TONE = { live: 'good', moving: 'moving', pending: 'moving', lost: 'bad', empty: 'quiet' };

function pointerChip({ region, state, reason, wanted, instances }) {
	const healthy = instances.filter((instance) => instance.healthy && instance.state === 'serving').length;
	const primary = wanted.pointer.primary;
	const text = `${region} ${primary === null ? '' : `v${primary} `}${state}`;
	const title = `${healthy} healthy${reason ? `, ${reason}` : ''}`;
	return el('li', { class: STATE_TONE[state] ?? '', title }, text);
}

function regionChip({ name, state, servers, edges, edgeUrl }) {
	const text = `${name} ${state}, ${count(servers, 'server')}, ${count(edges, 'edge')}`;
	return el('li', { class: state === 'connected' ? 'good' : 'bad', title: edgeUrl }, text);
}

const GOOD = ['Deployed'];
const BAD = ['DeployFailed', 'BuildFailed', 'TestFailed', 'TimedOut'];
const ENDED = [...GOOD, ...BAD, 'RolledBack', 'Cancelled', 'Superseded'];

function deploymentRow(deployment) {
	const { id, app, environment, kind, release, state, reason, detail, by, createdAt, regions } = deployment;
	const tone = GOOD.includes(state) ? 'good' : BAD.includes(state) ? 'bad' : ENDED.includes(state) ? 'quiet' : 'moving';
	const live = regions.filter((region) => region.state === 'live').length;
	const stateCell = el('td', { class: 'reason' }, el('span', { class: tone }, state), reason ? ` ${reason}` : '');
	if (detail) stateCell.title = detail;
	const name = environment === 'production' ? app : `${app} · ${environment}`;
	const when = el('time', { datetime: new Date(createdAt).toISOString() }, new Date(createdAt).toLocaleTimeString());
	return el(
		'tr',
		{},
		el('td', {}, when),
		el('td', {}, name),
		el('td', {}, `v${release}${kind === 'rollback' ? ' (rollback)' : ''}`),
		stateCell,
		el('td', {}, `${live} of ${regions.length} live`),
		el('td', {}, by),
		el('td', { class: 'mono' }, id),
	);
}

function eventLine({ at, type, app, deployment, data }) {
	const what = [type, app, deployment, data.state ?? data.region ?? data.name ?? ''].filter(Boolean).join(' · ');
	return el('li', {}, el('time', { datetime: new Date(at).toISOString() }, new Date(at).toLocaleTimeString()), ` ${what}`);
}

function byName(a, b) {
	return a.app.localeCompare(b.app) || a.environment.localeCompare(b.environment);
}

function count(number, noun) {
	return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

function say(text) {
	document.getElementById('connection').textContent = text;
}

function fill(id, children) {
	document.getElementById(id).replaceChildren(...children);
}

/** Text goes in as text: nothing that an app or a person wrote becomes markup. */
function el(name, attributes, ...children) {
	const element = document.createElement(name);
	for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
	element.append(...children.filter((child) => child !== ''));
	return element;
}
