/** The page: what serves where, live. One feed, one model, one drawing a frame at most. */

const RECONNECT_MS = [250, 500, 1_000, 2_000, 5_000];
const EVENTS_SHOWN = 60;
const DEPLOYMENTS_SHOWN = 30;
const REFRESH_AFTER_EVENT_MS = 150;

const model = { cursor: null, apps: new Map(), regions: [], deployments: new Map(), events: [] };
/** Up to here the snapshot knows everything: older events are only shown. */
let known = 0;
/** Deployments whose details a person opened: they stay open when the page is drawn again. */
const opened = new Set();
const stale = { apps: new Set(), deployments: new Set(), regions: false };
let attempts = 0;
let refreshing = null;
let drawing = false;

connect();

function connect() {
	const socket = new WebSocket(feedUrl(model.cursor));
	socket.onopen = () => {
		attempts = 0;
		say('Live', 'good');
	};
	socket.onmessage = ({ data }) => take(JSON.parse(data));
	socket.onclose = () => {
		say('Not connected: what serves goes on serving. Trying again…', 'bad');
		setTimeout(connectOrSignIn, RECONNECT_MS[Math.min(attempts++, RECONNECT_MS.length - 1)]);
	};
}

function feedUrl(after) {
	const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
	return `${scheme}://${location.host}/api/v1/events${after === null ? '' : `?after=${String(after)}`}`;
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
		// What happened before the page was opened is replayed by a second connection, once.
		if (known === 0 && snapshot.cursor > 0) replay(snapshot.cursor);
		model.cursor = known = snapshot.cursor;
		model.apps = new Map(snapshot.apps.map((app) => [`${app.app}/${app.environment}`, app]));
		model.regions = snapshot.regions;
		model.deployments = new Map(snapshot.deployments.map((deployment) => [deployment.id, deployment]));
	}
	if (event) {
		model.cursor = event.cursor;
		remember(event);
		if (event.app) stale.apps.add(`${event.app}/${event.environment ?? 'production'}`);
		if (event.deployment) stale.deployments.add(event.deployment);
		if (event.type.startsWith('region.')) stale.regions = true;
		refreshing ??= setTimeout(refresh, REFRESH_AFTER_EVENT_MS);
	}
	draw();
}

function replay(until) {
	const socket = new WebSocket(feedUrl(Math.max(0, until - EVENTS_SHOWN)));
	socket.onmessage = ({ data }) => {
		const { event } = JSON.parse(data);
		if (event && event.cursor <= until) remember(event);
		if (!event || event.cursor >= until) socket.close();
		draw();
	};
}

function remember(event) {
	if (model.events.some(({ cursor }) => cursor === event.cursor)) return;
	model.events.push(event);
	model.events.sort((a, b) => b.cursor - a.cursor);
	model.events.length = Math.min(model.events.length, EVENTS_SHOWN);
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
		document.getElementById('no-deployments').hidden = deployments.length > 0;
		fill('regions', model.regions.map(regionChip));
		document.getElementById('regions-summary').textContent = regionsSummary();
		fill('events', grouped(model.events).map(eventLine));
		document.getElementById('no-events').hidden = model.events.length > 0;
	});
}

function appCard(app) {
	const { environment, serving, deployment, regions } = app;
	const name = app.app;
	const live = regions.filter(({ state }) => state === 'live').length;
	const title = el('h3', {}, name, environment === 'production' ? '' : el('span', { class: 'tag' }, environment));
	const facts = [serving === null ? 'Nothing serves' : `v${serving} serves in ${live} of ${count(regions.length, 'region')}`];
	if (app.commit) facts.push(el('span', { class: 'mono' }, app.commit.slice(0, 10)));
	if (app.rollbackTo && app.rollbackTo.release !== serving)
		facts.push(`rollback goes to v${app.rollbackTo.release}${app.rollbackTo.warm ? ' (warm)' : ' (from disk)'}`);
	if (app.watching) facts.push('watched: harm swings it back');
	if (app.readOnly) facts.push(el('strong', { class: 'bad' }, `read-only: ${app.readOnly}`));
	return el(
		'article',
		{ 'aria-label': environment === 'production' ? name : `${name}, ${environment}` },
		el('div', { class: 'head' }, title, reached(app)),
		el('p', {}, ...facts.flatMap((fact, i) => (i === 0 ? [fact] : [' · ', fact]))),
		deployment ? lastDeployment(deployment) : '',
		el('ul', { class: 'chips', 'aria-label': `Regions of ${name}` }, ...regions.map(pointerChip)),
	);
}

/** Where no name leads to the app a link would lead nowhere: it is asked with the header that is shown. */
function reached({ url, host }) {
	if (host) return el('code', {}, `curl -H 'Host: ${host}' ${url}`);
	return el('a', { href: url }, url.replace(/^https?:\/\//, ''));
}

function lastDeployment(deployment) {
	const { state, regions, by, createdAt } = deployment;
	const live = regions.filter((region) => region.state === 'live').length;
	const going = ENDED.includes(state) ? '' : `, ${live} of ${regions.length} regions so far`;
	return el('p', { class: 'quiet' }, `${whatItDoes(deployment)}: `, mark(state), `${going} · ${timeOf(createdAt)}, by ${who(by)}`);
}

const REGION_TONE = { live: 'good', moving: 'moving', pending: 'moving', lost: 'bad', empty: 'quiet' };

/** A region that is live needs no words but for those who can't see its colour. */
function pointerChip({ region, state, reason, wanted, instances }) {
	const healthy = instances.filter((instance) => instance.healthy && instance.state === 'serving').length;
	const primary = wanted.pointer.primary;
	const words = state === 'live' ? el('span', { class: 'unseen' }, ' live') : ` ${state}`;
	const title = `${region}: ${state}, ${count(healthy, 'healthy instance')}${reason ? `, ${reason}` : ''}`;
	return el('li', { class: REGION_TONE[state] ?? '', title }, region, primary === null ? '' : ` v${primary}`, words);
}

function regionChip({ name, state, servers, edges, edgeUrl, lastSeenAt }) {
	const wrong = [];
	if (state !== 'connected') wrong.push(lastSeenAt === null ? 'never seen' : `${state} since ${timeOf(lastSeenAt)}`);
	else if (servers === 0) wrong.push('no server');
	if (state === 'connected' && edges === 0) wrong.push('no edge');
	const words = wrong.length === 0 ? el('span', { class: 'unseen' }, ' connected') : ` ${wrong.join(', ')}`;
	const title = `${name}: ${state}, ${count(servers, 'server')}, ${count(edges, 'edge')}, ${edgeUrl}`;
	return el('li', { class: wrong.length === 0 ? 'good' : 'bad', title }, name, words);
}

function regionsSummary() {
	const connected = model.regions.filter(({ state }) => state === 'connected').length;
	const all = model.regions.length;
	if (connected === all) return `${count(all, 'region')}, ${all === 1 ? '' : 'all '}connected.`;
	return `${connected} of ${count(all, 'region')} connected. What serves in a lost region goes on serving; it catches up when it is back.`;
}

const GOOD = ['Deployed'];
const BAD = ['DeployFailed', 'BuildFailed', 'TestFailed', 'TimedOut'];
const TURNED = ['RolledBack', 'RollingBack'];
const ENDED = [...GOOD, ...BAD, 'RolledBack', 'Cancelled', 'Superseded'];

/** A state as a word with its colour and its sign. */
function mark(state) {
	const tone = GOOD.includes(state)
		? 'good'
		: BAD.includes(state)
			? 'bad'
			: ENDED.includes(state) && !TURNED.includes(state)
				? 'quiet'
				: 'moving';
	return el('span', { class: `mark ${tone}` }, STATES[state] ?? state);
}

const STATES = {
	ReadyToDeploy: 'Ready to deploy',
	Deploying: 'Preparing everywhere',
	CanaryCheck: 'Checking the first region',
	RollingOut: 'Rolling out',
	RollingBack: 'Swinging back',
	RolledBack: 'Swung back',
	DeployFailed: 'Failed',
	BuildFailed: 'Build failed',
	TestFailed: 'Tests failed',
	TimedOut: 'Timed out',
};

const REASONS = {
	app_throws: 'the app threw while it started',
	app_listens: 'the app listens by itself',
	no_fetch: 'its entry exports no fetch',
	start: 'it did not start',
	unhealthy: 'its health check failed',
	crash_loop: 'it crashed again and again',
	memory: 'it needed more memory than it may have',
	room: 'there is no room for it',
	gate_failed: "the first region's probes were worse than what serves",
	no_previous: 'there was no release to go back to',
	prepare_timeout: 'it was not ready in time',
	not_confirmed: 'the edges did not confirm it in time',
	too_few: 'too few regions were reachable',
	superseded: 'a newer one took its place',
	cancelled: 'a person cancelled it',
	bad_status: "the first region's probes got wrong answers",
	slow: "the first region's probes took too long",
	probe_failed: 'the first region could not be probed',
	errors: 'it answered with more errors than the release before',
	harm: 'it did harm under traffic',
	disk: 'it filled its disk',
	platform: 'Jibe itself failed',
	lost: 'the region is lost',
	regions_lost: 'too many regions were lost',
};

function whatItDoes({ kind, release }) {
	return kind === 'rollback' ? `rollback to v${release}` : `v${release}`;
}

function deploymentRow(deployment) {
	const { id, app, environment, by, createdAt, endedAt, regions } = deployment;
	const live = regions.filter((region) => region.state === 'live').length;
	const name = environment === 'production' ? app : el('span', {}, app, el('span', { class: 'tag' }, environment));
	return el(
		'tr',
		{},
		el('td', { class: 'what' }, name),
		el('td', { class: 'what' }, whatItDoes(deployment)),
		el('td', { class: 'reason' }, ...stateCell(deployment)),
		el('td', {}, `${live} of ${count(regions.length, 'region')}`),
		el('td', {}, endedAt === null ? '…' : took(endedAt - createdAt)),
		el('td', {}, el('time', { datetime: new Date(createdAt).toISOString() }, timeOf(createdAt))),
		el('td', {}, who(by)),
		el('td', { class: 'mono' }, id),
	);
}

function stateCell({ id, state, reason, detail }) {
	const why = reason ? (REASONS[reason] ?? reason.replaceAll('_', ' ')) : '';
	if (!detail) return [mark(state), why && ` ${why}`];
	const more = el('details', {}, el('summary', {}, mark(state), ` ${why || 'why'}`), el('pre', { tabindex: '0' }, detail));
	more.open = opened.has(id);
	more.addEventListener('toggle', () => (more.open ? opened.add(id) : opened.delete(id)));
	return [more];
}

const EVENTS = {
	'deployment.state': ({ state, reason }) => `${STATES[state] ?? state}${reason ? `: ${REASONS[reason] ?? reason}` : ''}`,
	'deployment.region': ({ region, state }) => `${region} is ${state}`,
	'pointer.written': ({ regions, pointer }) => `${pointer?.primary ? `pointer to v${pointer.primary}` : 'preparing'} in ${some(regions)}`,
	'region.lost': ({ region, name }) => `${region ?? name} is lost`,
	'region.back': ({ region, name }) => `${region ?? name} is back`,
	'instance.failed': ({ region, reason }) => `an instance failed in ${region}${reason ? `: ${REASONS[reason] ?? reason}` : ''}`,
	'env.changed': ({ set, unset }) => `variables changed: ${[...(set ?? []), ...(unset ?? [])].join(', ')}`,
};

/** Pointers that were written together are one line. */
function grouped(events) {
	const lines = [];
	for (const event of events) {
		const { type, deployment, data } = event;
		const last = lines.at(-1);
		if (type !== 'pointer.written') lines.push(event);
		else if (last?.type === type && last.deployment === deployment && last.data.pointer?.primary === data.pointer?.primary)
			last.data.regions.unshift(data.region);
		else lines.push({ ...event, data: { ...data, regions: [data.region] } });
	}
	return lines;
}

function some(regions) {
	return regions.length > 4 ? `${regions.length} regions` : regions.join(', ');
}

function eventLine({ at, type, app, environment, deployment, data }) {
	const words = EVENTS[type]?.(data) ?? [type.replaceAll('.', ' '), data.state ?? data.region ?? data.name].filter(Boolean).join(': ');
	const of = [app && environment && environment !== 'production' ? `${app} (${environment})` : app, deployment].filter(Boolean).join(' · ');
	const time = el('time', { datetime: new Date(at).toISOString() }, timeOf(at));
	return el('li', {}, time, el('span', {}, words), el('span', { class: 'quiet' }, of));
}

/** The time of day, with the date where it isn't today's. */
function timeOf(at) {
	const when = new Date(at);
	const time = when.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
	const today = when.toDateString() === new Date().toDateString();
	return today ? time : `${when.toLocaleDateString([], { day: 'numeric', month: 'short' })} ${time}`;
}

function took(ms) {
	if (ms < 100) return `${Math.round(ms)} ms`;
	return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

/** `token:ada` is how the record names who it was. */
function who(by) {
	return by.replace(/^token:/, '');
}

function byName(a, b) {
	return a.app.localeCompare(b.app) || a.environment.localeCompare(b.environment);
}

function count(number, noun) {
	return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

function say(text, tone) {
	const connection = document.getElementById('connection');
	connection.textContent = text;
	connection.className = `mark ${tone}`;
}

/** Only what changed is replaced: who reads, selects or tabs through the rest is not disturbed. */
function fill(id, children) {
	const parent = document.getElementById(id);
	const old = [...parent.children];
	children.forEach((child, i) => {
		if (!old[i]) parent.append(child);
		else if (!old[i].isEqualNode(child)) old[i].replaceWith(child);
	});
	for (const rest of old.slice(children.length)) rest.remove();
}

/** Text goes in as text: nothing that an app or a person wrote becomes markup. */
function el(name, attributes, ...children) {
	const element = document.createElement(name);
	for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
	element.append(...children.filter((child) => child !== ''));
	return element;
}
