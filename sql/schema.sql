-- Made by scripts/schema.ts from the migrations beside it. Not to be edited, and never run.

create table jibe.app (
	name text not null,
	created_at bigint not null,
	removed_at bigint,
	last_release integer not null default 0,
	read_only text,
	forgotten_version integer not null default 0,
	PRIMARY KEY (name)
);

create table jibe.audit (
	id bigint not null generated always as identity,
	at bigint not null,
	by text not null,
	action text not null,
	app text,
	environment text,
	detail jsonb not null,
	PRIMARY KEY (id)
);

create table jibe.blob (
	app text not null,
	digest bytea not null,
	leased_until bigint not null,
	PRIMARY KEY (app, digest)
);

create table jibe.build (
	id text not null,
	seq bigint not null generated always as identity,
	app text not null,
	environment text not null,
	kind text not null,
	lane text not null,
	platform text,
	commit text,
	branch text,
	verifies text,
	priority integer not null,
	turn integer not null,
	phase text not null,
	state text not null,
	reason text,
	detail text,
	attempt integer not null default 0,
	worker text,
	leased_until timestamp with time zone,
	deadline bigint,
	stop text,
	dead boolean not null default false,
	retried text,
	deployed boolean not null default false,
	became text,
	stages jsonb not null,
	metadata jsonb,
	created_at bigint not null,
	claimed_at bigint,
	ended_at bigint,
	CHECK ((kind = ANY (ARRAY['deploy'::text, 'verify'::text]))),
	CHECK ((phase = ANY (ARRAY['waiting'::text, 'running'::text, 'gating'::text, 'stopping'::text, 'ended'::text]))),
	CHECK ((stop = ANY (ARRAY['cancelled'::text, 'superseded'::text, 'timed-out'::text]))),
	PRIMARY KEY (id)
);

create table jibe.build_job (
	id text not null,
	job jsonb not null,
	FOREIGN KEY (id) REFERENCES build(id) ON DELETE CASCADE,
	PRIMARY KEY (id)
);

create table jibe.build_lane (
	name text not null,
	running text,
	head text,
	head_priority integer,
	head_platform text,
	served_at timestamp with time zone not null default '-infinity'::timestamp with time zone,
	PRIMARY KEY (name)
);

create table jibe.build_log (
	build text not null,
	attempt integer not null,
	first integer not null,
	next integer not null,
	bytes bigint not null,
	at bigint not null,
	lines bytea not null storage external,
	FOREIGN KEY (build) REFERENCES build(id) ON DELETE CASCADE,
	PRIMARY KEY (build, attempt, first)
);

create table jibe.build_step (
	build text not null,
	name text not null,
	"position" integer not null,
	attempt integer not null,
	report jsonb not null,
	FOREIGN KEY (build) REFERENCES build(id) ON DELETE CASCADE,
	PRIMARY KEY (build, name)
);

create table jibe.commit_status (
	repository text not null,
	commit text not null,
	context text not null,
	state text not null,
	description text not null,
	url text not null,
	at bigint not null,
	told_at bigint,
	claimed_until bigint,
	attempts integer not null default 0,
	next_at bigint not null,
	problem text,
	PRIMARY KEY (repository, commit, context)
);

create table jibe.control_address (
	address text not null,
	seen_at bigint not null,
	PRIMARY KEY (address)
);

create table jibe.delivery (
	repository text not null,
	id text not null,
	at bigint not null,
	event text not null,
	ref text,
	detail jsonb not null,
	state text not null,
	claimed_by text,
	claimed_until bigint,
	attempts integer not null default 0,
	next_at bigint not null,
	outcome text,
	ended_at bigint,
	PRIMARY KEY (repository, id)
);

create table jibe.deployment (
	id text not null,
	app text not null,
	environment text not null,
	kind text not null,
	release integer not null,
	previous integer,
	artifact text not null,
	commit text,
	branch text,
	dirty boolean not null,
	state text not null,
	reason text,
	detail text,
	cause text,
	by text not null,
	why text,
	created_at bigint not null,
	ended_at bigint,
	watch_until bigint,
	regions jsonb not null,
	stages jsonb not null,
	timings jsonb not null,
	canary jsonb,
	modules jsonb,
	cold_starts integer not null default 0,
	url text not null,
	rollout jsonb,
	owner text not null,
	fence integer not null default 1,
	version integer not null default 1,
	request text,
	host text,
	CHECK ((kind = ANY (ARRAY['deploy'::text, 'rollback'::text]))),
	FOREIGN KEY (app) REFERENCES app(name),
	PRIMARY KEY (id)
);

create table jibe.env (
	app text not null,
	environment text not null,
	name text not null,
	value text,
	staged boolean not null,
	PRIMARY KEY (app, environment, name)
);

create table jibe.event (
	cursor bigint not null generated always as identity,
	at bigint not null,
	type text not null,
	app text,
	environment text,
	deployment text,
	data jsonb not null,
	PRIMARY KEY (cursor)
);

create table jibe.installation (
	one boolean not null default true,
	id text not null,
	epoch integer not null,
	private_pem text not null,
	public_pem text not null,
	created_at bigint not null,
	timeline text,
	pruned_cursor bigint not null default 0,
	ca_certificate text,
	ca_key text,
	servers_version integer not null default 1,
	CHECK (one),
	PRIMARY KEY (one)
);

create table jibe.join_token (
	hash bytea not null,
	region text not null,
	roles text[] not null,
	labels text[] not null,
	name text,
	created_at bigint not null,
	expires_at bigint not null,
	used_at bigint,
	used_by text,
	used_spki text,
	PRIMARY KEY (hash)
);

create table jibe.login_code (
	hash bytea not null,
	token text not null,
	expires_at bigint not null,
	FOREIGN KEY (token) REFERENCES token(id),
	PRIMARY KEY (hash)
);

create table jibe.manifest (
	app text not null,
	root bytea not null,
	seen_at bigint not null,
	PRIMARY KEY (app, root)
);

create table jibe.master_key (
	id text not null,
	created_at bigint not null,
	retired_at bigint,
	PRIMARY KEY (id)
);

create table jibe.migration (
	number integer not null,
	name text not null,
	checksum text not null,
	applied_at timestamp with time zone not null default now(),
	program text,
	PRIMARY KEY (number)
);

create table jibe.outbound_allowed (
	address text not null,
	by text not null,
	at bigint not null,
	PRIMARY KEY (address)
);

create table jibe.package (
	digest text not null,
	version text not null,
	bytes bytea not null,
	added_at bigint not null,
	PRIMARY KEY (digest)
);

create table jibe.pull_request (
	repository text not null,
	number integer not null,
	title text not null,
	author text not null,
	source text not null,
	branch text not null,
	commit text not null,
	state text not null,
	approved_commit text,
	approved_by text,
	approved_at bigint,
	seen_at bigint not null,
	PRIMARY KEY (repository, number)
);

create table jibe.pushed_repository (
	repository text not null,
	id text not null,
	refs jsonb not null,
	packs jsonb not null,
	changed_at bigint not null,
	PRIMARY KEY (repository)
);

create table jibe.region (
	name text not null,
	"position" integer not null,
	edge_port integer not null,
	retired boolean not null default false,
	home text,
	PRIMARY KEY (name)
);

create table jibe.release (
	app text not null,
	number integer not null,
	environment text not null,
	deployment text not null,
	artifact text not null,
	vendor text,
	config jsonb not null,
	spec jsonb not null,
	pins bytea not null storage external,
	git jsonb,
	created_at bigint not null,
	FOREIGN KEY (app) REFERENCES app(name),
	PRIMARY KEY (app, number)
);

create table jibe.replica (
	id text not null,
	lock integer not null,
	addresses jsonb not null,
	home text not null,
	version text not null,
	started_at bigint not null,
	seen_at timestamp with time zone not null default clock_timestamp(),
	beat integer not null default 0,
	PRIMARY KEY (id),
	UNIQUE (lock)
);

create table jibe.repository (
	name text not null,
	forge text not null,
	url text,
	api text,
	apps jsonb not null,
	rules jsonb not null,
	version integer not null default 1,
	created_at bigint not null,
	changed_at bigint not null,
	by text not null,
	PRIMARY KEY (name)
);

create table jibe.schema_floor (
	app text not null,
	environment text not null,
	release integer not null,
	deployment text not null,
	at bigint not null,
	FOREIGN KEY (app) REFERENCES app(name),
	PRIMARY KEY (app, environment)
);

create table jibe.secret (
	app text not null,
	environment text not null,
	name text not null,
	version integer not null,
	ciphertext bytea,
	wrapped bytea,
	key_id text not null,
	created_at bigint not null,
	by text not null,
	revokes_older boolean not null default false,
	revoked_at bigint,
	removed_at bigint,
	PRIMARY KEY (app, environment, name, version)
);

create table jibe.server (
	name text not null,
	region text not null,
	roles text[] not null,
	labels text[] not null,
	host text not null,
	depot_port integer,
	agent_port integer,
	edge_port integer,
	spki text not null,
	joined_at bigint not null,
	certificate_expires bigint not null,
	draining boolean not null default false,
	conflict text,
	ticket text not null,
	ticket_epoch integer not null,
	seen_at bigint not null,
	seen_from text not null,
	removed_at bigint,
	PRIMARY KEY (name)
);

create table jibe.server_package (
	server text not null,
	wanted text,
	runs text,
	version text,
	problem text,
	said_at bigint,
	PRIMARY KEY (server)
);

create table jibe.session (
	hash bytea not null,
	token text not null,
	expires_at bigint not null,
	FOREIGN KEY (token) REFERENCES token(id),
	PRIMARY KEY (hash)
);

create table jibe.sign_in (
	token text not null,
	code text not null,
	hash bytea not null,
	machine text not null,
	address text not null,
	expires_at bigint not null,
	denied boolean not null default false,
	PRIMARY KEY (token),
	UNIQUE (code)
);

create table jibe.step_entry (
	scope text not null,
	domain text not null,
	key text not null,
	passed boolean not null,
	entry jsonb not null,
	parts jsonb not null,
	seal text not null,
	created_at bigint not null,
	used_at bigint not null,
	PRIMARY KEY (scope, domain, key)
);

create table jibe.step_run (
	app text not null,
	environment text not null,
	name text not null,
	deployment text not null,
	scope text not null,
	domain text not null,
	key text not null,
	parts jsonb not null,
	cached boolean not null,
	at bigint not null,
	PRIMARY KEY (app, environment, name, deployment)
);

create table jibe.token (
	id text not null,
	name text not null,
	role text not null,
	apps text[],
	environments text[],
	hash bytea not null,
	created_at bigint not null,
	expires_at bigint,
	revoked_at bigint,
	last_used_at bigint,
	parent text,
	CHECK ((role = ANY (ARRAY['viewer'::text, 'deployer'::text, 'admin'::text]))),
	FOREIGN KEY (parent) REFERENCES token(id),
	PRIMARY KEY (id)
);

create table jibe.transition (
	from_state text not null,
	to_state text not null,
	PRIMARY KEY (from_state, to_state)
);

create table jibe.want (
	app text not null,
	environment text not null,
	region text not null,
	epoch integer not null,
	version integer not null,
	deployment text,
	pointer jsonb not null,
	run jsonb not null,
	removed boolean not null default false,
	request text,
	FOREIGN KEY (app) REFERENCES app(name),
	PRIMARY KEY (app, environment, region)
);

CREATE INDEX audit_by_app ON jibe.audit USING btree (app, id DESC);
CREATE INDEX build_by_app ON jibe.build USING btree (app, environment, created_at DESC);
CREATE INDEX build_by_time ON jibe.build USING btree (created_at DESC);
CREATE INDEX build_dead ON jibe.build USING btree (created_at DESC) WHERE dead;
CREATE INDEX build_held ON jibe.build USING btree (worker) WHERE (phase = ANY (ARRAY['running'::text, 'gating'::text, 'stopping'::text]));
CREATE INDEX build_lane_ready ON jibe.build_lane USING btree (head_priority DESC, served_at) WHERE ((running IS NULL) AND (head IS NOT NULL));
CREATE INDEX build_log_by_time ON jibe.build_log USING brin (at);
CREATE INDEX build_open ON jibe.build USING btree (app, environment) WHERE (phase = ANY (ARRAY['waiting'::text, 'running'::text, 'gating'::text]));
CREATE INDEX build_verifies ON jibe.build USING btree (verifies) WHERE (verifies IS NOT NULL);
CREATE INDEX build_waiting ON jibe.build USING btree (lane, priority DESC, turn, seq) WHERE (phase = 'waiting'::text);
CREATE INDEX commit_status_untold ON jibe.commit_status USING btree (next_at) WHERE (told_at IS NULL);
CREATE INDEX delivery_at ON jibe.delivery USING btree (repository, at);
CREATE INDEX delivery_waiting ON jibe.delivery USING btree (next_at) WHERE (state = 'waiting'::text);
CREATE INDEX deployment_by_app ON jibe.deployment USING btree (app, environment, created_at DESC);
CREATE INDEX deployment_by_time ON jibe.deployment USING btree (created_at DESC);
CREATE INDEX deployment_live ON jibe.deployment USING btree (app, environment, ended_at DESC) WHERE (state = 'Deployed'::text);
CREATE INDEX deployment_open ON jibe.deployment USING btree (id) WHERE ((ended_at IS NULL) OR (watch_until IS NOT NULL));
CREATE UNIQUE INDEX master_key_current ON jibe.master_key USING btree ((true)) WHERE (retired_at IS NULL);
CREATE UNIQUE INDEX replica_lock_key ON jibe.replica USING btree (lock);
CREATE UNIQUE INDEX sign_in_code_key ON jibe.sign_in USING btree (code);
CREATE INDEX step_entry_by_use ON jibe.step_entry USING btree (used_at);
CREATE INDEX step_run_by_time ON jibe.step_run USING btree (at);

-- jibe.transition
--   AwaitingApproval → Cancelled, Deploying, Superseded, TimedOut
--   Building → BuildFailed, Cancelled, Packaging, ReadyToDeploy, Superseded, Testing, TimedOut, Uploading
--   CanaryCheck → Deployed, RollingBack, RollingOut
--   Deploying → CanaryCheck, Cancelled, DeployFailed, RollingOut, Superseded, TimedOut
--   Packaging → BuildFailed, Cancelled, ReadyToDeploy, Superseded, TimedOut, Uploading
--   Queued → Building, Cancelled, Packaging, ReadyToDeploy, Superseded, Testing, TimedOut, Uploading
--   ReadyToDeploy → AwaitingApproval, Cancelled, Deploying, Superseded, TimedOut
--   RollingBack → RolledBack
--   RollingOut → Deployed, RollingBack
--   Testing → Cancelled, Packaging, ReadyToDeploy, Superseded, TestFailed, TimedOut, Uploading
--   Uploading → Cancelled, DeployFailed, ReadyToDeploy, Superseded, TimedOut

CREATE OR REPLACE FUNCTION jibe.advance(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	d jibe.deployment;
	v_from text;
	v_at bigint := (p ->> 'at')::bigint;
	v_written jsonb;
	v_events jsonb := '[]';
begin
	select * into d from jibe.deployment where id = p ->> 'deployment' for update;
	if not found then
		perform jibe.refuse('unknown', format('there is no deployment %s', p ->> 'deployment'));
	end if;
	if d.request = p ->> 'request' then
		return jibe.held_json(d, (
			select coalesce(jsonb_agg(jibe.want_json(w)), '[]')
			from jibe.want w join jsonb_to_recordset(p -> 'writes') as x (region text) using (region)
			where w.app = d.app and w.environment = d.environment));
	end if;
	if d.fence <> (p ->> 'fence')::integer then
		perform jibe.refuse('fenced', format('%s was taken over by %s', d.id, d.owner));
	end if;
	if d.version <> (p ->> 'version')::integer then
		perform jibe.refuse('stale', format('%s is at version %s, not %s', d.id, d.version, p ->> 'version'));
	end if;
	v_from := d.state;
	if p ? 'to' then
		perform jibe.check_edge(d, p ->> 'to');
		d.state := p ->> 'to';
		d.stages := d.stages || jsonb_build_object('state', d.state, 'at', v_at);
		if jibe.is_final(d.state) then
			d.ended_at := v_at;
		end if;
	end if;
	if p ? 'reason' then d.reason := p ->> 'reason'; end if;
	if p ? 'detail' then d.detail := p ->> 'detail'; end if;
	if p ? 'rollout' then d.rollout := p -> 'rollout'; end if;
	if p ? 'regions' then d.regions := p -> 'regions'; end if;
	if p ? 'timings' then d.timings := p -> 'timings'; end if;
	if p ? 'canary' then d.canary := nullif(p -> 'canary', 'null'); end if;
	if p ? 'coldStarts' then d.cold_starts := (p ->> 'coldStarts')::integer; end if;
	if p ? 'watchUntil' then d.watch_until := (p ->> 'watchUntil')::bigint; end if;
	d.version := d.version + 1;
	d.request := p ->> 'request';
	update jibe.deployment set
		state = d.state, stages = d.stages, ended_at = d.ended_at, reason = d.reason, detail = d.detail, rollout = d.rollout,
		regions = d.regions, timings = d.timings, canary = d.canary, cold_starts = d.cold_starts, watch_until = d.watch_until,
		version = d.version, request = d.request
	where id = d.id;
	v_written := jibe.write_wants(d.app, d.environment, d.id, false, v_at, null, p -> 'writes');
	if p ? 'to' then
		v_events := jsonb_build_array(jibe.state_event(d, v_from, v_at));
	end if;
	v_events := v_events || (v_written -> 'events') || (
		select coalesce(jsonb_agg(jsonb_build_object(
			'at', v_at, 'type', e ->> 'type', 'app', d.app, 'environment', d.environment, 'deployment', d.id, 'data', e -> 'data') order by i), '[]')
		from jsonb_array_elements(coalesce(p -> 'events', '[]')) with ordinality as one (e, i));
	perform jibe.publish(v_events);
	return jibe.held_json(d, v_written -> 'wants');
end $function$


CREATE OR REPLACE FUNCTION jibe.advance_past_migration(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_floor integer := (p ->> 'floor')::integer;
begin
	insert into jibe.schema_floor as f (app, environment, release, deployment, at)
	select d.app, d.environment, v_floor, d.id, (p ->> 'at')::bigint from jibe.deployment d where d.id = p ->> 'deployment'
	on conflict (app, environment) do update set release = excluded.release, deployment = excluded.deployment, at = excluded.at
	where f.release < excluded.release;
	return jibe.advance(p);
end $function$


CREATE OR REPLACE FUNCTION jibe.beat_build(p_id text, p_attempt integer, p_worker text, p_lease interval)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_stop text;
	b jibe.build;
begin
	perform set_config('synchronous_commit', 'off', true);
	update jibe.build set leased_until = clock_timestamp() + p_lease
	where id = p_id and attempt = p_attempt and worker = p_worker and phase in ('running', 'gating', 'stopping') returning stop into v_stop;
	if not found then
		b := jibe.fenced_build(p_id, p_attempt, p_worker);
		perform jibe.refuse('fenced', format('%s has ended: %s', p_id, b.state));
	end if;
	return jsonb_build_object('stop', v_stop);
end $function$


CREATE OR REPLACE FUNCTION jibe.begin_want()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
	new.version := 1 + coalesce((select forgotten_version from jibe.app where name = new.app), 0);
	return new;
end $function$


CREATE OR REPLACE FUNCTION jibe.build_event(b build, p_type text, p_at bigint, p_data jsonb)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select jsonb_build_object(
		'at', p_at, 'type', p_type, 'app', b.app, 'environment', b.environment, 'deployment', b.id,
		'data', jsonb_build_object('attempt', b.attempt, 'kind', b.kind) || p_data)
$function$


CREATE OR REPLACE FUNCTION jibe.build_job_json(b build)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select j.job || jsonb_build_object(
		'id', b.id, 'attempt', b.attempt, 'deadline', b.deadline,
		'env', coalesce((
			select jsonb_object_agg(e.name, e.value) from jibe.env e
			where e.app = b.app and e.environment = b.environment and e.value is not null), '{}'),
		-- Read and opened only where there are any.
		'hasSecrets', exists (
			select from jibe.secret s where s.app = b.app and s.environment = b.environment and s.revoked_at is null and s.removed_at is null))
	from jibe.build_job j where j.id = b.id
$function$


CREATE OR REPLACE FUNCTION jibe.build_problem(b build, p_id text, p_attempt integer, p_worker text)
 RETURNS text[]
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
begin
	if b.id is null then
		return array['unknown', format('there is no build %s', p_id)];
	end if;
	if b.attempt <> p_attempt or b.worker is distinct from p_worker then
		return array['fenced', format('%s is not attempt %s of %s any more', p_id, p_attempt, p_worker)];
	end if;
	return null;
end $function$


CREATE OR REPLACE FUNCTION jibe.build_queue()
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select jsonb_build_object(
		'waiting', (select count(*) from jibe.build where phase = 'waiting'),
		'claimable', (select count(*) from jibe.build_lane where running is null and head is not null),
		'running', (select count(*) from jibe.build where phase in ('running', 'gating', 'stopping')),
		'dead', (select count(*) from jibe.build where dead),
		'oldestMs', (select (extract(epoch from clock_timestamp()) * 1000 - min(created_at))::bigint from jibe.build where phase = 'waiting'))
$function$


CREATE OR REPLACE FUNCTION jibe.build_state_event(b build, p_from text, p_at bigint)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select jibe.build_event(b, 'build.state', p_at, jsonb_build_object(
		'state', b.state, 'from', p_from, 'reason', b.reason, 'branch', b.branch, 'commit', b.commit))
$function$


CREATE OR REPLACE FUNCTION jibe.build_turn(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	b jibe.build;
	v_one jsonb;
	v_said jsonb;
	v_lane text;
	v_lanes text[] := '{}';
	v_new text[] := '{}';
	v_workers text[] := array(select one ->> 'worker' from jsonb_array_elements(p -> 'claims') one);
	v_held jsonb := '{}';
	v_dry text[] := '{}';
	v_queued jsonb := '[]';
	v_ended jsonb := '[]';
	v_claimed jsonb := '[]';
	v_events jsonb := '[]';
begin
	-- One by one: of many at once PostgreSQL reads the whole table, as long as that is small when it makes its plan.
	for v_one in select * from jsonb_array_elements(p -> 'ends') loop
		select lane into v_lane from jibe.build where id = v_one ->> 'id';
		if found then
			v_lanes := v_lanes || v_lane;
		end if;
	end loop;
	-- Whoever claims has let go of what it was to stop.
	for v_lane in select lane from jibe.build where worker = any (v_workers) and phase = 'stopping' loop
		v_lanes := v_lanes || v_lane;
	end loop;
	for v_one in select * from jsonb_array_elements(p -> 'enqueues') loop
		v_lanes := v_lanes || jibe.lane_of(v_one -> 'job');
		v_new := v_new || jibe.lane_of(v_one -> 'job');
	end loop;
	-- In one order, for the turns of other controls lock them too.
	for v_lane in select distinct lane from unnest(v_lanes) lane order by lane loop
		if v_lane = any (v_new) then
			-- Made or locked: one that is empty may be collected at this moment.
			insert into jibe.build_lane as l (name) values (v_lane) on conflict (name) do update set name = excluded.name;
		else
			perform from jibe.build_lane where name = v_lane for update;
		end if;
	end loop;
	for v_one in select * from jsonb_array_elements(p -> 'enqueues') loop
		v_said := jibe.enqueue_build(v_one);
		v_queued := v_queued || jsonb_build_array(v_said -> 'answer');
		v_events := v_events || (v_said -> 'events');
	end loop;
	for v_one in select * from jsonb_array_elements(p -> 'ends') loop
		v_said := jibe.finish_build(v_one);
		v_ended := v_ended || jsonb_build_array(v_said -> 'answer');
		v_events := v_events || (v_said -> 'events');
	end loop;
	for b in select * from jibe.build where worker = any (v_workers) and phase in ('running', 'gating', 'stopping') for update loop
		if b.phase = 'stopping' then
			update jibe.build set phase = 'ended' where id = b.id;
			perform jibe.free_lane(b.lane, b.id);
		else
			-- It has one already: the answer was lost.
			v_held := v_held || jsonb_build_object(b.worker, b.id);
		end if;
	end loop;
	for v_one in select * from jsonb_array_elements(p -> 'claims') loop
		v_said := null;
		if v_held ? (v_one ->> 'worker') then
			update jibe.build set leased_until = clock_timestamp() + jibe.in_ms(v_one -> 'leaseMs') where id = v_held ->> (v_one ->> 'worker')
			returning * into b;
			v_said := jibe.build_job_json(b);
		elsif not v_one ->> 'platform' = any (v_dry) then
			v_said := jibe.claim_next(v_one);
			if v_said is null then
				v_dry := v_dry || (v_one ->> 'platform');
			else
				v_held := v_held || jsonb_build_object(v_one ->> 'worker', v_said -> 'id');
			end if;
		end if;
		v_claimed := v_claimed || jsonb_build_array(v_said);
	end loop;
	perform jibe.publish(v_events);
	return jsonb_build_object('enqueues', v_queued, 'ends', v_ended, 'claims', v_claimed, 'told', v_events <> '[]');
end $function$


CREATE OR REPLACE FUNCTION jibe.build_view(b build)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select (j.job - 'source' - 'ancestors') || jsonb_build_object(
		'id', b.id, 'state', b.state, 'reason', b.reason, 'detail', b.detail, 'attempt', b.attempt, 'worker', b.worker, 'dead', b.dead,
		'createdAt', b.created_at, 'claimedAt', b.claimed_at, 'endedAt', b.ended_at, 'stages', b.stages, 'phase', b.phase, 'retried', b.retried,
		'deployed', b.deployed, 'became', b.became, 'metadata', b.metadata,
		'steps', (select coalesce(jsonb_agg(s.report order by s.position, s.name), '[]') from jibe.build_step s where s.build = b.id))
	from jibe.build_job j where j.id = b.id
$function$


CREATE OR REPLACE FUNCTION jibe.build_way(p_from text, p_to text)
 RETURNS text[]
 LANGUAGE sql
 STABLE
AS $function$
	select coalesce(
		(select array[p_to] from jibe.transition where from_state = p_from and to_state = p_to),
		(select array[a.to_state, p_to] from jibe.transition a join jibe.transition b on b.from_state = a.to_state
		where a.from_state = p_from and b.to_state = p_to
		order by array_position(array['Building', 'Testing', 'Packaging', 'Uploading'], a.to_state) nulls last limit 1))
$function$


CREATE OR REPLACE FUNCTION jibe.change_env(p jsonb)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
	v_app text := p ->> 'app';
	v_environment text := p ->> 'environment';
	v_at bigint := (p ->> 'at')::bigint;
	v_names jsonb;
begin
	insert into jibe.env (app, environment, name, value, staged)
	select v_app, v_environment, name, value, true from (
		select * from jsonb_each_text(p -> 'set')
		union all
		select name, null from jsonb_array_elements_text(p -> 'unset') as unset (name) where not (p -> 'set') ? name) as change (name, value)
	on conflict (app, environment, name) do update set value = excluded.value, staged = true;
	v_names := jsonb_build_object(
		'set', (select coalesce(jsonb_agg(name order by name), '[]') from jsonb_object_keys(p -> 'set') as set (name)), 'unset', p -> 'unset');
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (v_at, p ->> 'by', 'env.changed', v_app, v_environment, v_names);
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', v_at, 'type', 'env.changed', 'app', v_app, 'environment', v_environment, 'deployment', null, 'data', v_names)));
end $function$


CREATE OR REPLACE FUNCTION jibe.check_edge(d deployment, p_to text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
	if not exists (select from jibe.transition where from_state = d.state and to_state = p_to) then
		perform jibe.refuse('illegal_transition', format('%s can''t go from %s to %s', d.id, d.state, p_to));
	end if;
end $function$


CREATE OR REPLACE FUNCTION jibe.claim_next(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	l jibe.build_lane;
	b jibe.build;
	v_now timestamptz := clock_timestamp();
	v_now_ms bigint := extract(epoch from v_now) * 1000;
begin
	select * into l from jibe.build_lane
	where running is null and head is not null and (head_platform is null or head_platform = p ->> 'platform')
	order by head_priority desc, served_at limit 1 for update skip locked;
	if not found then
		return null;
	end if;
	update jibe.build set
		-- Its artifact was taken from an earlier attempt: what is left are its gates.
		phase = case when deployed then 'gating' else 'running' end, worker = p ->> 'worker', attempt = attempt + 1,
		leased_until = v_now + jibe.in_ms(p -> 'leaseMs'), deadline = v_now_ms + (p ->> 'limitMs')::bigint, claimed_at = v_now_ms
	where id = l.head returning * into b;
	update jibe.build_lane set running = b.id, served_at = v_now, (head, head_priority, head_platform) = (
		select n.id, n.priority, n.platform from jibe.build n
		where n.lane = l.name and n.phase = 'waiting' order by n.priority desc, n.turn, n.seq limit 1)
	where name = l.name;
	return jibe.build_job_json(b);
end $function$


CREATE OR REPLACE FUNCTION jibe.create_deployment(p jsonb, p_pins bytea, p_unseen bytea)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	a jibe.app;
	d jibe.deployment;
	r jibe.release;
	v_missing bytea;
	v_other jibe.deployment;
	v_from text;
	v_written jsonb;
	v_events jsonb := '[]';
	v_build jibe.build;
begin
	d := jsonb_populate_record(null::jibe.deployment, p -> 'deployment');
	select * into v_other from jibe.deployment where id = d.id;
	if found then
		select * into r from jibe.release where app = v_other.app and number = v_other.release;
		return jibe.held_json(v_other, (select coalesce(jsonb_agg(jibe.want_json(w)), '[]') from jibe.want w where w.deployment = d.id))
			|| jsonb_build_object('spec', r.spec);
	end if;
	insert into jibe.app as x (name, created_at) values (d.app, d.created_at)
	on conflict (name) do update set removed_at = null where x.removed_at is not null;
	select * into a from jibe.app where name = d.app for update;
	if a.read_only is not null then
		perform jibe.refuse('read_only', a.read_only);
	end if;
	if p ? 'release' then
		if d.release <= a.last_release then
			return jsonb_build_object('retry', a.last_release + 1);
		end if;
		-- The collection takes this lock alone: no blob that is seen here goes away before the pins are committed.
		perform pg_advisory_xact_lock_shared(7104302);
		if p ? 'basis' and not exists (select from jibe.release where app = d.app and number = (p ->> 'basis')::integer) then
			return '{"recheck": true}';
		end if;
		select digest into v_missing from jibe.unpack(p_unseen) digest
		where not exists (select from jibe.blob b where b.app = d.app and b.digest = digest.digest) limit 1;
		if found then
			perform jibe.refuse('blob_missing', format('%s has not stored sha256:%s', d.app, encode(v_missing, 'hex')));
		end if;
		r := jsonb_populate_record(null::jibe.release, p -> 'release');
		r.pins := p_pins;
		update jibe.app set last_release = d.release where name = d.app;
		insert into jibe.release values (r.*);
		update jibe.env set staged = false where app = d.app and environment = d.environment and staged;
	else
		select * into r from jibe.release where app = d.app and number = d.release;
		if not found then
			perform jibe.refuse('unknown', format('%s has no release v%s', d.app, d.release));
		end if;
	end if;
	d.artifact := r.artifact;
	d.commit := r.git ->> 'commit';
	d.branch := r.git ->> 'branch';
	d.dirty := coalesce((r.git ->> 'dirty')::boolean, false);
	d.fence := 1;
	d.version := 1;
	d.cold_starts := 0;
	if jibe.is_final(d.state) then
		d.ended_at := d.created_at;
	end if;
	if p ? 'build' then
		perform from jibe.build_lane where name = (select lane from jibe.build where id = d.id) for update;
		v_build := jibe.fenced_build(d.id, (p -> 'build' ->> 'attempt')::integer, p -> 'build' ->> 'worker');
		if v_build.phase <> 'running' then
			perform jibe.refuse('fenced', format('%s has ended: %s', v_build.id, v_build.state));
		end if;
		update jibe.build set
			phase = case when (p -> 'build' ->> 'gating')::boolean then 'gating' else 'ended' end, deployed = true, metadata = p -> 'build' -> 'metadata',
			ended_at = d.created_at
		where id = v_build.id;
		if not (p -> 'build' ->> 'gating')::boolean then
			perform jibe.free_lane(v_build.lane, v_build.id);
		end if;
	end if;
	insert into jibe.deployment values (d.*);
	for v_other in
		select * from jibe.deployment where id in (select jsonb_array_elements_text(p -> 'supersedes')) and ended_at is null order by id for update
	loop
		perform jibe.check_edge(v_other, 'Superseded');
		v_from := v_other.state;
		update jibe.deployment set
			state = 'Superseded', reason = 'superseded', ended_at = d.created_at, version = version + 1, fence = fence + 1, owner = d.owner,
			stages = stages || jsonb_build_object('state', 'Superseded', 'at', d.created_at)
		where id = v_other.id returning * into v_other;
		v_events := v_events || jibe.state_event(v_other, v_from, d.created_at);
	end loop;
	v_written := jibe.write_wants(d.app, d.environment, d.id, false, d.created_at, null, p -> 'writes');
	-- The stages that the CLI went through are recorded as it reports them.
	v_events := v_events || (
		select coalesce(jsonb_agg(jsonb_build_object(
			'at', stage -> 'at', 'type', 'deployment.state', 'app', d.app, 'environment', d.environment, 'deployment', d.id,
			'data', jsonb_build_object('state', stage -> 'state', 'from', case when i > 1 then d.stages -> (i::integer - 2) -> 'state' end, 'reason', null,
				'release', d.release, 'kind', d.kind)) order by i), '[]')
		from jsonb_array_elements(d.stages) with ordinality as one (stage, i)
		where i > coalesce((p -> 'build' ->> 'published')::integer, 0)) || (v_written -> 'events');
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (d.created_at, d."by", 'deployment.created', d.app, d.environment,
		jsonb_build_object('deployment', d.id, 'kind', d.kind, 'release', d.release, 'previous', d.previous, 'why', d.why));
	perform jibe.publish(v_events);
	return jibe.held_json(d, v_written -> 'wants') || jsonb_build_object('spec', r.spec);
end $function$


CREATE OR REPLACE FUNCTION jibe.cut_replica(p_lock integer)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
begin
	return coalesce((
		select bool_or(pg_terminate_backend(pid)) from pg_locks
		where locktype = 'advisory' and classid = 7104303 and objid = p_lock::oid and objsubid = 2 and granted
			and database = (select oid from pg_database where datname = current_database())), false);
exception when insufficient_privilege then
	return false;
end $function$


CREATE OR REPLACE FUNCTION jibe.deployment_json(d deployment)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select jsonb_build_object(
		'id', d.id, 'app', d.app, 'environment', d.environment, 'kind', d.kind, 'release', d.release, 'previous', d.previous,
		'artifact', d.artifact, 'commit', d.commit, 'branch', d.branch, 'dirty', d.dirty,
		'state', d.state, 'reason', d.reason, 'detail', d.detail, 'cause', d.cause, 'by', d."by", 'why', d.why,
		'createdAt', d.created_at, 'endedAt', d.ended_at, 'watchUntil', d.watch_until,
		'regions', d.regions, 'stages', d.stages, 'timings', d.timings, 'canary', d.canary, 'modules', d.modules,
		'coldStarts', d.cold_starts, 'url', d.url, 'host', d.host)
$function$


CREATE OR REPLACE FUNCTION jibe.doubt_build(p_id text, p_attempt integer, p_worker text, p_lease interval)
 RETURNS void
 LANGUAGE sql
AS $function$
	update jibe.build set leased_until = least(leased_until, clock_timestamp() + p_lease)
	where id = p_id and attempt = p_attempt and worker = p_worker and phase in ('running', 'gating', 'stopping')
$function$


CREATE OR REPLACE FUNCTION jibe.end_build(b build, p_to text, p_reason text, p_detail text, p_phase text, p_at bigint, p_became text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_to text;
	v_moved jsonb;
begin
	b.reason := p_reason;
	foreach v_to in array array[p_to, 'BuildFailed', 'DeployFailed', 'TimedOut'] loop
		v_moved := jibe.move_build(b, v_to, p_at);
		exit when v_moved is not null;
	end loop;
	update jibe.build set
		state = coalesce(v_moved ->> 'state', state), stages = coalesce(v_moved -> 'stages', stages),
		phase = p_phase, reason = p_reason, detail = p_detail, ended_at = p_at, became = p_became
	where id = b.id;
	if b.phase = 'waiting' then
		perform jibe.settle_lane(b.lane);
	elsif p_phase = 'ended' then
		update jibe.build_lane set running = null where name = b.lane and running = b.id;
	end if;
	return coalesce(v_moved -> 'events', '[]');
end $function$


CREATE OR REPLACE FUNCTION jibe.enqueue_build(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_job jsonb := p -> 'job';
	v_at bigint := (p ->> 'at')::bigint;
	v_force boolean := (v_job ->> 'force')::boolean;
	b jibe.build;
	o jibe.build;
	v_other text;
	v_events jsonb := '[]';
begin
	if exists (select from jibe.build where id = p ->> 'id') then
		return jsonb_build_object('answer', jsonb_build_object('id', p ->> 'id', 'already', false), 'events', v_events);
	end if;
	b.lane := jibe.lane_of(v_job);
	b.app := v_job ->> 'app';
	b.environment := v_job ->> 'environment';
	b.kind := v_job ->> 'kind';
	b.commit := v_job ->> 'commit';
	b.branch := v_job ->> 'branch';
	v_other := jibe.same_build(b, v_job, v_force);
	if v_other is not null then
		return jsonb_build_object('answer', jsonb_build_object('id', v_other, 'already', true), 'events', v_events);
	end if;
	if (select count(*) from jibe.build where phase = 'waiting') >= (p ->> 'limit')::integer then
		return jibe.refused('queue_full', format('%s builds wait already', p ->> 'limit'));
	end if;
	if b.kind = 'deploy' then
		for o in
			select x.* from jibe.build x
			where x.app = b.app and x.environment = b.environment and x.kind = 'deploy' and x.phase in ('waiting', 'running') and not x.deployed
				and (x.branch is not distinct from b.branch or (x.phase = 'waiting' and x.commit in (select jsonb_array_elements_text(v_job -> 'ancestors'))))
			order by x.lane, x.id
		loop
			perform from jibe.build_lane where name = o.lane for update;
			select * into o from jibe.build where id = o.id for update;
			if o.phase in ('waiting', 'running') and not o.deployed then
				v_events := v_events || jibe.stop_build(o, 'superseded', 'superseded', v_at);
			end if;
		end loop;
	end if;
	insert into jibe.build (id, app, environment, kind, lane, platform, commit, branch, verifies, priority, turn, phase, state, stages, created_at)
	values (
		p ->> 'id', b.app, b.environment, b.kind, b.lane, v_job ->> 'platform', b.commit, b.branch, v_job ->> 'verifies',
		(p ->> 'priority')::integer,
		1 + coalesce((select max(turn) from jibe.build where lane = b.lane and app = b.app and phase = 'waiting'), (
			select min(turn) - 1 from jibe.build where lane = b.lane and phase = 'waiting'), 0),
		'waiting', 'Queued', jsonb_build_array(jsonb_build_object('state', 'Queued', 'at', v_at)), v_at)
	returning * into b;
	insert into jibe.build_job (id, job) values (b.id, v_job);
	perform jibe.settle_lane(b.lane);
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (v_at, v_job ->> 'by', 'build.queued', b.app, b.environment,
		jsonb_build_object('build', b.id, 'kind', b.kind, 'commit', b.commit, 'branch', b.branch, 'why', v_job -> 'why'));
	return jsonb_build_object(
		'answer', jsonb_build_object('id', b.id, 'already', false), 'events', v_events || jibe.build_state_event(b, null, v_at));
end $function$


CREATE OR REPLACE FUNCTION jibe.fenced_build(p_id text, p_attempt integer, p_worker text)
 RETURNS build
 LANGUAGE plpgsql
AS $function$
declare
	b jibe.build;
	v_problem text[];
begin
	select * into b from jibe.build where id = p_id for update;
	v_problem := jibe.build_problem(b, p_id, p_attempt, p_worker);
	if v_problem is not null then
		perform jibe.refuse(v_problem[1], v_problem[2]);
	end if;
	return b;
end $function$


CREATE OR REPLACE FUNCTION jibe.finish_build(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	b jibe.build;
	v_at bigint := (p ->> 'at')::bigint;
	v_state text := p ->> 'state';
	v_events jsonb := '[]';
	v_problem text[];
begin
	select * into b from jibe.build where id = p ->> 'id' for update;
	v_problem := jibe.build_problem(b, p ->> 'id', (p ->> 'attempt')::integer, p ->> 'worker');
	if v_problem is not null then
		return jibe.refused(v_problem[1], v_problem[2]);
	end if;
	if b.phase = 'stopping' or (b.phase = 'gating' and (p ->> 'heard')::boolean) then
		update jibe.build set phase = 'ended', reason = coalesce(reason, p ->> 'reason'), detail = coalesce(detail, p ->> 'detail') where id = b.id;
		perform jibe.free_lane(b.lane, b.id);
		v_events := jsonb_build_array(jibe.build_event(b, 'build.released', v_at, jsonb_build_object('state', v_state, 'reason', p ->> 'reason')));
		b.reason := coalesce(b.reason, p ->> 'reason');
	elsif b.phase = 'running' and v_state in ('verified', 'unreproducible') then
		update jibe.build set phase = 'ended', reason = v_state, detail = p ->> 'detail', ended_at = v_at where id = b.id;
		perform jibe.free_lane(b.lane, b.id);
		v_events := jsonb_build_array(jibe.build_event(b, 'build.' || v_state, v_at, jsonb_build_object('verifies', b.verifies)));
		b.reason := v_state;
	elsif b.phase = 'running' then
		v_events := jibe.end_build(b, v_state, p ->> 'reason', p ->> 'detail', 'ended', v_at, p ->> 'became');
		b.state := coalesce(v_events -> -1 -> 'data' ->> 'state', b.state);
		b.reason := p ->> 'reason';
	end if;
	return jsonb_build_object('answer', jsonb_build_object('was', b.phase, 'state', b.state, 'reason', b.reason), 'events', v_events);
end $function$


CREATE OR REPLACE FUNCTION jibe.forget_removed(p_before bigint)
 RETURNS bigint
 LANGUAGE sql
AS $function$
	with forgotten as (
		delete from jibe.want w using jibe.app a
		where w.app = a.name and w.removed and a.removed_at < p_before
		returning w.app, w.version
	), noted as (
		update jibe.app a set forgotten_version = greatest(a.forgotten_version, f.version)
		from (select app, max(version) as version from forgotten group by app) f where a.name = f.app
		returning 1
	)
	select count(*) from forgotten, (select count(*) from noted) as done
$function$


CREATE OR REPLACE FUNCTION jibe.free_lane(p_lane text, p_build text)
 RETURNS void
 LANGUAGE sql
AS $function$
	update jibe.build_lane set running = null where name = p_lane and running = p_build
$function$


CREATE OR REPLACE FUNCTION jibe.halt_build(p_id text, p_why text, p_by text, p_at bigint)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	b jibe.build;
begin
	perform from jibe.build_lane where name = (select lane from jibe.build where id = p_id) for update;
	select * into b from jibe.build where id = p_id for update;
	if not found then
		perform jibe.refuse('unknown', format('there is no build %s', p_id));
	end if;
	if b.phase in ('waiting', 'running', 'gating') then
		if p_by is not null then
			insert into jibe.audit (at, by, action, app, environment, detail)
			values (p_at, p_by, 'build.' || p_why, b.app, b.environment, jsonb_build_object('build', b.id, 'state', b.state));
		end if;
		perform jibe.publish(jibe.stop_build(b, p_why, p_why, p_at));
	end if;
	return (select jibe.build_view(x) from jibe.build x where x.id = p_id);
end $function$


CREATE OR REPLACE FUNCTION jibe.held_json(d deployment, wants jsonb)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select jsonb_build_object(
		'deployment', jibe.deployment_json(d), 'fence', d.fence, 'version', d.version, 'owner', d.owner, 'rollout', d.rollout, 'wants', wants)
$function$


CREATE OR REPLACE FUNCTION jibe.in_ms(p jsonb)
 RETURNS interval
 LANGUAGE sql
 IMMUTABLE
AS $function$
	select p::integer * interval '1 ms'
$function$


CREATE OR REPLACE FUNCTION jibe.is_final(state text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
	select not exists (select from jibe.transition where from_state = state)
$function$


CREATE OR REPLACE FUNCTION jibe.join_replica(p jsonb)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
	insert into jibe.replica (id, lock, addresses, home, version, started_at)
	values (p ->> 'id', (p ->> 'lock')::integer, p -> 'addresses', p ->> 'home', p ->> 'version', (p ->> 'at')::bigint)
	on conflict (id) do update set seen_at = clock_timestamp(), lock = excluded.lock, addresses = excluded.addresses;
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p -> 'at', 'type', 'replica.up', 'app', null, 'environment', null, 'deployment', null,
		'data', jsonb_build_object('replica', p ->> 'id', 'home', p ->> 'home'))));
end $function$


CREATE OR REPLACE FUNCTION jibe.kept_releases(p_since bigint, p_live integer)
 RETURNS TABLE(app text, number integer)
 LANGUAGE sql
 STABLE
AS $function$
	select app, number from jibe.release where created_at >= p_since
	union
	select app, release from (
		select d.app, d.release, row_number() over (partition by d.app, d.environment order by max(d.created_at) desc) as age
		from jibe.deployment d where d.state = 'Deployed' group by d.app, d.environment, d.release) as live
	where age <= p_live
	union
	select w.app, (w.pointer ->> 'primary')::integer from jibe.want w where w.pointer ->> 'primary' is not null
	union
	select w.app, (w.pointer -> 'candidate' ->> 'release')::integer from jibe.want w where w.pointer -> 'candidate' ->> 'release' is not null
	union
	select w.app, (one ->> 'release')::integer from jibe.want w, jsonb_array_elements(w.run) one
	union
	select d.app, n from jibe.deployment d, unnest(array[d.release, d.previous]) n
	where (d.ended_at is null or d.watch_until is not null) and n is not null
$function$


CREATE OR REPLACE FUNCTION jibe.lane_of(p_job jsonb)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
	select (p_job ->> 'lane') || coalesce('@' || (p_job ->> 'platform'), '')
$function$


CREATE OR REPLACE FUNCTION jibe.lanes(p_app text, p_environment text)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	with lane as (
		select distinct app, environment from (
			select app, environment from jibe.want where not removed
			union all
			select app, environment from jibe.deployment where ended_at is null or watch_until is not null) as any_of
		where (p_app is null or app = p_app) and (p_environment is null or environment = p_environment)
	)
	select coalesce(jsonb_agg(jsonb_build_object('app', lane.app, 'environment', lane.environment, 'owners', (
		select coalesce(jsonb_agg(distinct owner), '[]') from (
			select d.owner from jibe.deployment d
			where d.app = lane.app and d.environment = lane.environment and (d.ended_at is null or d.watch_until is not null)
			union all
			(select d.owner from jibe.deployment d
			where d.app = lane.app and d.environment = lane.environment and d.state = 'Deployed'
			order by d.ended_at desc limit 1)) as driven))), '[]')
	from lane
$function$


CREATE OR REPLACE FUNCTION jibe.lease_blobs(p_app text, p_digests bytea, p_enough bigint, p_until bigint)
 RETURNS bytea
 LANGUAGE plpgsql
AS $function$
declare
	v_owned bytea;
begin
	perform pg_advisory_xact_lock_shared(7104302);
	update jibe.blob b set leased_until = p_until
	from jibe.unpack(p_digests) as wanted (digest)
	where b.app = p_app and b.digest = wanted.digest and b.leased_until < p_enough;
	select string_agg(b.digest, ''::bytea) into v_owned
	from jibe.unpack(p_digests) as wanted (digest) join jibe.blob b on b.app = p_app and b.digest = wanted.digest;
	return v_owned;
end $function$


CREATE OR REPLACE FUNCTION jibe.leave_replica(p_id text, p_by text, p_at bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
	delete from jibe.replica where id = p_id;
	if found then
		perform jibe.publish(jsonb_build_array(jsonb_build_object(
			'at', p_at, 'type', 'replica.gone', 'app', null, 'environment', null, 'deployment', null,
			'data', jsonb_build_object('replica', p_id, 'by', p_by))));
	end if;
end $function$


CREATE OR REPLACE FUNCTION jibe.log_build(p_id text, p_attempt integer, p_worker text, p_first integer, p_count integer, p_bytes integer, p_at bigint, p_lines bytea)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	b jibe.build;
	v_last jibe.build_log;
begin
	perform set_config('synchronous_commit', 'off', true);
	select * into b from jibe.build where id = p_id;
	if not found then
		perform jibe.refuse('unknown', format('there is no build %s', p_id));
	end if;
	if b.attempt <> p_attempt or b.worker is distinct from p_worker then
		perform jibe.refuse('fenced', format('%s is not attempt %s of %s any more', p_id, p_attempt, p_worker));
	end if;
	select * into v_last from jibe.build_log where build = p_id and attempt = p_attempt order by first desc limit 1;
	if p_first >= coalesce(v_last.next, 0) and p_count > 0 then
		insert into jibe.build_log (build, attempt, first, next, bytes, at, lines)
		values (p_id, p_attempt, p_first, p_first + p_count, coalesce(v_last.bytes, 0) + p_bytes, p_at, p_lines)
		on conflict do nothing;
		return jsonb_build_object('next', p_first + p_count, 'bytes', coalesce(v_last.bytes, 0) + p_bytes, 'stop', b.stop);
	end if;
	return jsonb_build_object('next', coalesce(v_last.next, 0), 'bytes', coalesce(v_last.bytes, 0), 'stop', b.stop);
end $function$


CREATE OR REPLACE FUNCTION jibe.look_at_replicas(p_beat text, p_known integer)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
begin
	if p_beat is not null then
		update jibe.replica set seen_at = clock_timestamp(), beat = beat + 1 where id = p_beat and beat = p_known;
	end if;
	return (
		select coalesce(jsonb_agg(jsonb_build_object(
			'id', id, 'lock', lock, 'beat', beat, 'addresses', addresses, 'home', home, 'version', version, 'startedAt', started_at,
			'silentMs', greatest(0, floor(extract(epoch from clock_timestamp() - seen_at) * 1000))) order by started_at, id), '[]')
		from jibe.replica);
end $function$


CREATE OR REPLACE FUNCTION jibe.move_build(b build, p_to text, p_at bigint)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
AS $function$
declare
	v_way text[] := jibe.build_way(b.state, p_to);
	v_from text;
	v_to text;
	v_events jsonb := '[]';
begin
	if v_way is null then
		return null;
	end if;
	foreach v_to in array v_way loop
		v_from := b.state;
		b.state := v_to;
		b.stages := b.stages || jsonb_build_object('state', v_to, 'at', p_at);
		v_events := v_events || jibe.build_state_event(b, v_from, p_at);
	end loop;
	return jsonb_build_object('state', b.state, 'stages', b.stages, 'events', v_events);
end $function$


CREATE OR REPLACE FUNCTION jibe.own_blobs(p_app text, p_digests bytea, p_until bigint)
 RETURNS void
 LANGUAGE sql
AS $function$
	insert into jibe.blob as b (app, digest, leased_until)
	select distinct p_app, digest, p_until from jibe.unpack(p_digests) as wanted (digest)
	order by digest
	on conflict (app, digest) do update set leased_until = greatest(b.leased_until, excluded.leased_until)
$function$


CREATE OR REPLACE FUNCTION jibe.publish(events jsonb)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
	v_last bigint;
begin
	if jsonb_array_length(events) = 0 then
		return;
	end if;
	perform pg_advisory_xact_lock(7104301);
	with added as (
		insert into jibe.event (at, type, app, environment, deployment, data)
		select (e ->> 'at')::bigint, e ->> 'type', e ->> 'app', e ->> 'environment', e ->> 'deployment', e -> 'data'
		from jsonb_array_elements(events) with ordinality as one (e, i)
		order by i
		returning cursor
	)
	select max(cursor) into v_last from added;
	-- Whoever has read that far already need not look.
	perform pg_notify('jibe_events', v_last::text);
end $function$


CREATE OR REPLACE FUNCTION jibe.raise_epoch(p_by text, p_at bigint, p_timeline text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
	v_epoch integer;
begin
	update jibe.installation set epoch = epoch + 1, timeline = coalesce(p_timeline, timeline) returning epoch into v_epoch;
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (p_at, p_by, 'epoch.raised', null, null, jsonb_build_object('epoch', v_epoch));
	return v_epoch;
end $function$


CREATE OR REPLACE FUNCTION jibe.raise_epoch_above(p_by text, p_at bigint, p_timeline text, p_above integer, p_lost boolean)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
	v_epoch integer;
begin
	update jibe.installation set epoch = greatest(epoch, p_above) + 1, timeline = coalesce(p_timeline, timeline) returning epoch into v_epoch;
	if p_lost then
		update jibe.app set last_release = last_release + 100 where last_release > 0;
	end if;
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (p_at, p_by, 'epoch.raised', null, null, jsonb_build_object('epoch', v_epoch));
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p_at, 'type', 'epoch.raised', 'app', null, 'environment', null, 'deployment', null, 'data', jsonb_build_object('epoch', v_epoch))));
	return v_epoch;
end $function$


CREATE OR REPLACE FUNCTION jibe.recover_app(p jsonb, p_pins bytea[])
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_app text := p ->> 'app';
	v_at bigint := (p ->> 'at')::bigint;
	v_epoch integer;
	v_one jsonb;
	v_written jsonb;
	v_wants jsonb := '[]';
	v_events jsonb := '[]';
	v_i integer := 0;
begin
	v_epoch := jibe.raise_epoch_above(p ->> 'by', v_at, null, (p ->> 'above')::integer, false);
	insert into jibe.app as x (name, created_at, last_release) values (v_app, v_at, (p ->> 'lastRelease')::integer)
	on conflict (name) do update set read_only = null, last_release = greatest(x.last_release, excluded.last_release);
	for v_one in select * from jsonb_array_elements(p -> 'releases') loop
		v_i := v_i + 1;
		insert into jibe.release (app, number, environment, deployment, artifact, vendor, config, spec, pins, git, created_at)
		values (v_app, (v_one ->> 'number')::integer, v_one ->> 'environment', v_one ->> 'deployment', v_one ->> 'artifact', v_one ->> 'vendor',
			v_one -> 'config', v_one -> 'spec', p_pins[v_i], null, v_at)
		on conflict do nothing;
	end loop;
	for v_one in select * from jsonb_array_elements(p -> 'environments') loop
		v_written := jibe.write_wants(v_app, v_one ->> 'environment', null, (v_one -> 'removed')::boolean, v_at, null, v_one -> 'writes');
		v_wants := v_wants || (v_written -> 'wants');
		v_events := v_events || (v_written -> 'events');
	end loop;
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (v_at, p ->> 'by', 'app.recovered', v_app, null, jsonb_build_object('epoch', v_epoch, 'took', p -> 'took'));
	perform jibe.publish(v_events || jsonb_build_array(jsonb_build_object(
		'at', v_at, 'type', 'app.recovered', 'app', v_app, 'environment', null, 'deployment', null,
		'data', jsonb_build_object('epoch', v_epoch, 'took', p -> 'took'))));
	return jsonb_build_object('epoch', v_epoch, 'wants', v_wants);
end $function$


CREATE OR REPLACE FUNCTION jibe.refuse(code text, detail text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
	raise exception using errcode = 'JB001', message = code, detail = detail;
end $function$


CREATE OR REPLACE FUNCTION jibe.refused(p_code text, p_detail text)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE
AS $function$
	select jsonb_build_object('answer', jsonb_build_object('refused', p_code, 'detail', p_detail), 'events', '[]'::jsonb)
$function$


CREATE OR REPLACE FUNCTION jibe.remove_app(p_app text, p_by text, p_at bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
	update jibe.app set removed_at = p_at, read_only = null where name = p_app and removed_at is null;
	if not found then
		-- Removed before: the answer to that was lost, or somebody else was first.
		return;
	end if;
	delete from jibe.env where app = p_app;
	delete from jibe.secret where app = p_app;
	delete from jibe.blob where app = p_app;
	delete from jibe.manifest where app = p_app;
	delete from jibe.release where app = p_app;
	insert into jibe.audit (at, by, action, app, environment, detail) values (p_at, p_by, 'app.removed', p_app, null, '{}');
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p_at, 'type', 'app.removed', 'app', p_app, 'environment', null, 'deployment', null, 'data', '{}'::jsonb)));
end $function$


CREATE OR REPLACE FUNCTION jibe.report_build(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	b jibe.build;
	v_at bigint := (p ->> 'at')::bigint;
	v_moved jsonb;
	v_steps jsonb;
begin
	b := jibe.fenced_build(p ->> 'id', (p ->> 'attempt')::integer, p ->> 'worker');
	if b.phase not in ('running', 'gating', 'ended') then
		return jsonb_build_object('stop', coalesce(b.stop, 'cancelled'));
	end if;
	if b.phase = 'running' and p ->> 'state' in ('Building', 'Testing', 'Packaging', 'Uploading') then
		-- A second attempt goes through what the first one has been through.
		v_moved := jibe.move_build(b, p ->> 'state', v_at);
	end if;
	with told as (
		insert into jibe.build_step as s (build, name, position, attempt, report)
		select b.id, r ->> 'name', (select count(*) from jibe.build_step x where x.build = b.id) + i, b.attempt, r
		from jsonb_array_elements(p -> 'steps') with ordinality as one (r, i)
		on conflict (build, name) do update set attempt = excluded.attempt, report = excluded.report
		where s.report is distinct from excluded.report or s.attempt <> excluded.attempt
		returning s.position, s.report
	)
	select coalesce(jsonb_agg(jibe.build_event(b, 'build.step', v_at, jsonb_build_object('step', told.report)) order by position), '[]')
	into v_steps from told;
	update jibe.build set
		state = coalesce(v_moved ->> 'state', state), stages = coalesce(v_moved -> 'stages', stages),
		leased_until = clock_timestamp() + jibe.in_ms(p -> 'leaseMs')
	where id = b.id;
	perform jibe.publish(coalesce(v_moved -> 'events', '[]') || v_steps);
	return jsonb_build_object('stop', b.stop);
end $function$


CREATE OR REPLACE FUNCTION jibe.revoke_secret(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_app text := p ->> 'app';
	v_environment text := p ->> 'environment';
	v_name text := p ->> 'name';
	v_at bigint := (p ->> 'at')::bigint;
	v_removed boolean := (p ->> 'removed')::boolean;
	v_versions jsonb;
	v_detail jsonb;
begin
	lock table jibe.secret in share row exclusive mode;
	with ended as (
		update jibe.secret s
		set revoked_at = coalesce(revoked_at, v_at), ciphertext = null, wrapped = null, removed_at = case when v_removed then v_at end
		where app = v_app and environment = v_environment and name = v_name
			and (p ->> 'below' is null or version < (p ->> 'below')::integer)
			and (revoked_at is null or (v_removed and removed_at is null))
			and not exists (
				select from jibe.want w, jsonb_array_elements(w.run) one join jibe.release r on r.number = (one ->> 'release')::integer
				where w.app = v_app and w.environment = v_environment and r.app = v_app and not w.removed
					and (r.spec -> 'secrets' ->> v_name)::integer = s.version)
		returning version
	)
	select coalesce(jsonb_agg(version order by version), '[]') into v_versions from ended;
	if v_versions <> '[]' then
		v_detail := jsonb_build_object('name', v_name, 'versions', v_versions);
		insert into jibe.audit (at, by, action, app, environment, detail)
		values (v_at, p ->> 'by', case when v_removed then 'secret.removed' else 'secret.revoked' end, v_app, v_environment, v_detail);
		perform jibe.publish(jsonb_build_array(jsonb_build_object('at', v_at,
			'type', case when v_removed then 'secret.removed' else 'secret.revoked' end,
			'app', v_app, 'environment', v_environment, 'deployment', null, 'data', v_detail)));
	end if;
	return v_versions;
end $function$


CREATE OR REPLACE FUNCTION jibe.same_build(b build, p_job jsonb, p_force boolean)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
AS $function$
declare
	v_found text;
	d jibe.deployment;
begin
	select x.id into v_found from jibe.build x join jibe.build_job j on j.id = x.id
	where x.app = b.app and x.environment = b.environment and x.kind = b.kind and x.phase in ('waiting', 'running', 'gating')
		and x.verifies is not distinct from p_job ->> 'verifies' and x.platform is not distinct from p_job ->> 'platform'
		and j.job ->> 'directory' = p_job ->> 'directory'
		and (j.job -> 'source' = p_job -> 'source'
			or (b.kind = 'deploy' and not p_force and x.branch is not distinct from b.branch and x.commit <> b.commit and j.job -> 'ancestors' ? b.commit))
	order by x.seq desc limit 1;
	if found or b.kind = 'verify' or p_force or b.commit is null or (p_job ->> 'dirty')::boolean then
		return v_found;
	end if;
	select * into d from jibe.deployment
	where app = b.app and environment = b.environment and (ended_at is null or state = 'Deployed') order by ended_at desc nulls first, created_at desc limit 1;
	if not found or d.kind <> 'deploy' or d.dirty then
		return null;
	end if;
	if d.commit = b.commit then
		return d.id;
	end if;
	return (select d.id from jibe.build_job j where j.id = d.id and d.branch is not distinct from b.branch and j.job -> 'ancestors' ? b.commit);
end $function$


CREATE OR REPLACE FUNCTION jibe.saw_manifest(p_app text, p_root bytea, p_at bigint, p_kept integer)
 RETURNS void
 LANGUAGE sql
AS $function$
	insert into jibe.manifest (app, root, seen_at) values (p_app, p_root, p_at)
	on conflict (app, root) do update set seen_at = excluded.seen_at;
	delete from jibe.manifest where app = p_app and root in (
		select root from jibe.manifest where app = p_app order by seen_at desc, root offset p_kept)
$function$


CREATE OR REPLACE FUNCTION jibe.set_local_regions(p jsonb, p_home text)
 RETURNS void
 LANGUAGE sql
AS $function$
	update jibe.region set retired = true
	where name not in (select name from jsonb_to_recordset(p) as r (name text))
		and name not in (select region from jibe.server where removed_at is null)
		and (home is null or home = p_home);
	insert into jibe.region (name, position, edge_port, home)
	select name, position, edge_port, p_home from jsonb_to_recordset(p) as r (name text, position integer, edge_port integer)
	on conflict (name) do update set position = excluded.position, edge_port = excluded.edge_port, retired = false, home = excluded.home
$function$


CREATE OR REPLACE FUNCTION jibe.set_read_only(p_app text, p_reason text, p_by text, p_at bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
	if p_reason is null then
		update jibe.app set read_only = null where name = p_app;
	else
		insert into jibe.app (name, created_at, read_only) values (p_app, p_at, p_reason)
		on conflict (name) do update set read_only = excluded.read_only;
	end if;
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (p_at, p_by, 'app.read_only', p_app, null, jsonb_build_object('reason', p_reason));
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p_at, 'type', 'app.read_only', 'app', p_app, 'environment', null, 'deployment', null, 'data', jsonb_build_object('reason', p_reason))));
end $function$


CREATE OR REPLACE FUNCTION jibe.set_regions(p jsonb)
 RETURNS void
 LANGUAGE sql
AS $function$
	update jibe.region set retired = true
	where name not in (select name from jsonb_to_recordset(p) as r (name text))
		and name not in (select region from jibe.server where removed_at is null);
	insert into jibe.region (name, position, edge_port)
	select name, position, edge_port from jsonb_to_recordset(p) as r (name text, position integer, edge_port integer)
	on conflict (name) do update set position = excluded.position, edge_port = excluded.edge_port, retired = false
$function$


CREATE OR REPLACE FUNCTION jibe.set_secret(p jsonb)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
	v_app text := p ->> 'app';
	v_environment text := p ->> 'environment';
	v_name text := p ->> 'name';
	v_at bigint := (p ->> 'at')::bigint;
	v_wrapped bytea := decode(p ->> 'wrapped', 'base64');
	v_detail jsonb;
	v_version integer;
begin
	lock table jibe.secret in share row exclusive mode;
	select version into v_version from jibe.secret
	where app = v_app and environment = v_environment and name = v_name and wrapped = v_wrapped;
	if found then
		return v_version;
	end if;
	select coalesce(max(version), 0) + 1 into v_version from jibe.secret
	where app = v_app and environment = v_environment and name = v_name;
	insert into jibe.secret (app, environment, name, version, ciphertext, wrapped, key_id, created_at, by, revokes_older)
	values (v_app, v_environment, v_name, v_version, decode(p ->> 'ciphertext', 'base64'), v_wrapped, p ->> 'keyId', v_at, p ->> 'by',
		(p ->> 'revokesOlder')::boolean);
	v_detail := jsonb_build_object('name', v_name, 'version', v_version);
	insert into jibe.audit (at, by, action, app, environment, detail) values (v_at, p ->> 'by', 'secret.set', v_app, v_environment, v_detail);
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', v_at, 'type', 'secret.set', 'app', v_app, 'environment', v_environment, 'deployment', null, 'data', v_detail)));
	return v_version;
end $function$


CREATE OR REPLACE FUNCTION jibe.settle_lane(p_lane text)
 RETURNS void
 LANGUAGE sql
AS $function$
	update jibe.build_lane l set (head, head_priority, head_platform) = (
		select b.id, b.priority, b.platform from jibe.build b
		where b.lane = l.name and b.phase = 'waiting' order by b.priority desc, b.turn, b.seq limit 1)
	where l.name = p_lane
$function$


CREATE OR REPLACE FUNCTION jibe.state_event(d deployment, p_from text, p_at bigint)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select jsonb_build_object(
		'at', p_at, 'type', 'deployment.state', 'app', d.app, 'environment', d.environment, 'deployment', d.id,
		'data', jsonb_build_object('state', d.state, 'from', p_from, 'reason', d.reason, 'release', d.release, 'kind', d.kind))
$function$


CREATE OR REPLACE FUNCTION jibe.stop_build(b build, p_why text, p_reason text, p_at bigint)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_to text := case p_why when 'cancelled' then 'Cancelled' when 'superseded' then 'Superseded' else 'TimedOut' end;
begin
	if b.phase = 'waiting' and b.deployed then
		update jibe.build set phase = 'ended' where id = b.id;
		perform jibe.settle_lane(b.lane);
		return '[]';
	end if;
	if b.phase = 'waiting' then
		return jibe.end_build(b, v_to, p_reason, null, 'ended', p_at);
	end if;
	update jibe.build set stop = p_why where id = b.id;
	if b.phase = 'gating' then
		update jibe.build set phase = 'stopping' where id = b.id;
		return jsonb_build_array(jibe.build_event(b, 'build.stopped', p_at, jsonb_build_object('why', p_why)));
	end if;
	return jibe.end_build(b, v_to, p_reason, null, 'stopping', p_at);
end $function$


CREATE OR REPLACE FUNCTION jibe.sweep_builds(p_attempts integer, p_at bigint)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	b jibe.build;
	v_id text;
	v_now timestamptz := clock_timestamp();
	v_outcome text;
	v_events jsonb := '[]';
	v_done jsonb := '[]';
begin
	for v_id in
		select x.id from jibe.build x left join jibe.deployment d on x.deployed and d.id = x.id
		where (x.phase in ('running', 'gating', 'stopping')
				and (x.leased_until < v_now or (x.phase = 'running' and x.deadline < extract(epoch from v_now) * 1000) or d.ended_at is not null))
			or (x.phase = 'waiting' and d.ended_at is not null)
		order by x.lane, x.id
	loop
		perform from jibe.build_lane l where l.name = (select lane from jibe.build where id = v_id) for update;
		select * into b from jibe.build where id = v_id for update;
		v_outcome := null;
		if b.phase = 'stopping' and b.leased_until < v_now then
			v_outcome := 'released';
			update jibe.build set phase = 'ended' where id = b.id;
			perform jibe.free_lane(b.lane, b.id);
		elsif b.phase in ('running', 'gating') and b.leased_until < v_now and b.attempt < p_attempts then
			v_outcome := 'lost';
			-- Before what waits already: it has been waiting for longer.
			update jibe.build set phase = 'waiting', worker = null, turn = 0 where id = b.id;
			perform jibe.free_lane(b.lane, b.id);
			perform jibe.settle_lane(b.lane);
			v_events := v_events || jibe.build_event(b, 'build.lost', p_at, jsonb_build_object('worker', b.worker));
		elsif b.phase in ('running', 'gating') and b.leased_until < v_now then
			v_outcome := 'dead';
			v_events := v_events || jibe.build_event(b, 'build.lost', p_at, jsonb_build_object('worker', b.worker));
			update jibe.build set dead = true where id = b.id;
			if b.phase = 'running' then
				v_events := v_events || jibe.end_build(b, 'TimedOut', 'builders_lost',
					format('%s builders in turn were lost while they ran it; the last was %s', b.attempt, b.worker), 'ended', p_at);
			else
				update jibe.build set phase = 'ended', reason = 'builders_lost' where id = b.id;
				perform jibe.free_lane(b.lane, b.id);
			end if;
		elsif b.phase = 'running' and b.deadline < extract(epoch from v_now) * 1000 then
			v_outcome := 'timed-out';
			v_events := v_events || jibe.stop_build(b, 'timed-out', 'build_limit', p_at);
		elsif b.deployed and b.phase in ('gating', 'waiting') then
			v_events := v_events || jibe.stop_build(b, 'cancelled', null, p_at);
			v_outcome := 'stopped';
		end if;
		if v_outcome is not null then
			v_done := v_done || jsonb_build_object(
				'id', b.id, 'attempt', b.attempt, 'worker', b.worker, 'outcome', v_outcome, 'deployed', b.deployed);
		end if;
	end loop;
	perform jibe.publish(v_events);
	-- Whoever was told of these may have died before it could tell the driver.
	return v_done || (
		select coalesce(jsonb_agg(jsonb_build_object(
			'id', x.id, 'attempt', x.attempt, 'worker', x.worker, 'outcome', 'dead', 'deployed', true)), '[]')
		from jibe.build x join jibe.deployment d on d.id = x.id
		where x.dead and x.deployed and x.phase = 'ended' and d.ended_at is null and not v_done @> jsonb_build_array(jsonb_build_object('id', x.id)));
end $function$


CREATE OR REPLACE FUNCTION jibe.take_deployment(p_id text, p_owner text, p_from text)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	d jibe.deployment;
begin
	update jibe.deployment set fence = fence + 1, owner = p_owner, request = null
	where id = p_id and (p_from is null or owner = p_from) returning * into d;
	if not found then
		select * into d from jibe.deployment where id = p_id;
		if not found then
			perform jibe.refuse('unknown', format('there is no deployment %s', p_id));
		end if;
		perform jibe.refuse('fenced', format('%s was taken over by %s', d.id, d.owner));
	end if;
	return jibe.held_json(d, '[]');
end $function$


CREATE OR REPLACE FUNCTION jibe.take_over(p_id text, p_owner text, p_from text[])
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	d jibe.deployment;
begin
	update jibe.deployment set fence = fence + 1, owner = p_owner, request = null
	where id = p_id and (p_from is null or owner = any (p_from)) returning * into d;
	if not found then
		select * into d from jibe.deployment where id = p_id;
		if not found then
			perform jibe.refuse('unknown', format('there is no deployment %s', p_id));
		end if;
		perform jibe.refuse('fenced', format('%s was taken over by %s', d.id, d.owner));
	end if;
	return jibe.held_json(d, '[]');
end $function$


CREATE OR REPLACE FUNCTION jibe.unpack(digests bytea)
 RETURNS SETOF bytea
 LANGUAGE sql
 IMMUTABLE
AS $function$
	select substring(digests from i * 32 + 1 for 32) from generate_series(0, length(digests) / 32 - 1) i
$function$


CREATE OR REPLACE FUNCTION jibe.use_master_key(p jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_id text := p ->> 'id';
	v_at bigint := (p ->> 'at')::bigint;
	v_lost jsonb := '[]';
begin
	lock table jibe.master_key in share row exclusive mode;
	if p ->> 'instead' is distinct from (select id from jibe.master_key where retired_at is null)
		and v_id is distinct from (select id from jibe.master_key where retired_at is null) then
		return null;
	end if;
	if not exists (select from jibe.master_key where id = v_id and retired_at is null) then
		update jibe.master_key set retired_at = v_at where retired_at is null;
		insert into jibe.master_key (id, created_at) values (v_id, v_at) on conflict (id) do update set retired_at = null;
		insert into jibe.audit (at, by, action, app, environment, detail)
		values (v_at, p ->> 'by', 'master_key.used', null, null, jsonb_build_object('id', v_id, 'lost', p -> 'lost'));
	end if;
	if (p ->> 'lost')::boolean then
		with lost as (
			update jibe.secret set revoked_at = v_at, ciphertext = null, wrapped = null where key_id <> v_id and revoked_at is null
			returning app, environment, name
		)
		select coalesce(jsonb_agg(distinct jsonb_build_object('app', app, 'environment', environment, 'name', name)), '[]') into v_lost from lost;
	end if;
	return v_lost;
end $function$


CREATE OR REPLACE FUNCTION jibe.want_json(w want)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
	select jsonb_build_object(
		'app', w.app, 'environment', w.environment, 'region', w.region, 'epoch', w.epoch, 'version', w.version,
		'deployment', w.deployment, 'pointer', w.pointer, 'run', w.run)
		|| case when w.removed then '{"removed": true}'::jsonb else '{}'::jsonb end
$function$


CREATE OR REPLACE FUNCTION jibe.write_alone(p_app text, p_environment text, p_removed boolean, p_at bigint, p_writes jsonb, p_request text)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_done jsonb;
	v_written jsonb;
begin
	select jsonb_agg(jibe.want_json(w)) into v_done
	from jibe.want w where w.app = p_app and w.environment = p_environment and w.request = p_request;
	if v_done is not null then
		return v_done;
	end if;
	v_written := jibe.write_wants(p_app, p_environment, null, p_removed, p_at, p_request, p_writes);
	perform jibe.publish(v_written -> 'events');
	return v_written -> 'wants';
end $function$


CREATE OR REPLACE FUNCTION jibe.write_wants(p_app text, p_environment text, p_deployment text, p_removed boolean, p_at bigint, p_request text, p_writes jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
AS $function$
declare
	v_epoch integer;
	v_read_only text;
	v_answer jsonb;
begin
	if coalesce(jsonb_array_length(p_writes), 0) = 0 then
		return '{"wants": [], "events": []}';
	end if;
	select epoch into v_epoch from jibe.installation;
	select read_only into v_read_only from jibe.app where name = p_app;
	if v_read_only is not null then
		perform jibe.refuse('read_only', v_read_only);
	end if;
	with write as (
		select * from jsonb_to_recordset(p_writes) as w (region text, epoch integer, version integer, pointer jsonb, run jsonb)
	), before as materialized (
		select w.* from jibe.want w join write using (region) where w.app = p_app and w.environment = p_environment for update of w
	), written as (
		insert into jibe.want as w (app, environment, region, epoch, version, deployment, pointer, run, removed, request)
		select p_app, p_environment, write.region, v_epoch, coalesce(before.version, 0) + 1, p_deployment, write.pointer, write.run, p_removed, p_request
		from write left join before using (region)
		where before.epoch is not distinct from write.epoch and before.version is not distinct from write.version
		order by write.region
		on conflict (app, environment, region) do update
		set epoch = excluded.epoch, version = excluded.version, deployment = excluded.deployment,
			pointer = excluded.pointer, run = excluded.run, removed = excluded.removed, request = excluded.request
		-- A row that another transaction inserted meanwhile was not what this one was decided on.
		where w.version = excluded.version - 1
		returning w.*
	)
	select jsonb_build_object(
		'wants', coalesce(jsonb_agg(jibe.want_json(written) order by region), '[]'),
		'events', coalesce(jsonb_agg(jsonb_build_object(
			'at', p_at, 'type', 'pointer.written', 'app', p_app, 'environment', p_environment, 'deployment', p_deployment,
			'data', jsonb_build_object('region', written.region, 'epoch', written.epoch, 'version', written.version, 'pointer', written.pointer)))
			filter (where before.pointer is distinct from written.pointer), '[]'))
	into v_answer
	from written left join before using (region);
	if jsonb_array_length(v_answer -> 'wants') < jsonb_array_length(p_writes) then
		perform jibe.refuse('stale', format('the pointer of %s/%s in at least one region is not what this was decided on', p_app, p_environment));
	end if;
	if v_answer -> 'wants' <> '[]' and jsonb_array_length(v_answer -> 'events') < jsonb_array_length(v_answer -> 'wants') then
		v_answer := jsonb_set(v_answer, '{events}', v_answer -> 'events' || jsonb_build_object(
			'at', p_at, 'type', 'runs.written', 'app', p_app, 'environment', p_environment, 'deployment', p_deployment,
			'data', jsonb_build_object('wants', (
				select jsonb_agg(jsonb_build_object('region', w -> 'region', 'epoch', w -> 'epoch', 'version', w -> 'version'))
				from jsonb_array_elements(v_answer -> 'wants') w))));
	end if;
	return v_answer;
end $function$

