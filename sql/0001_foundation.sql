-- Times are wall milliseconds since 1970. Digests are 32 bytes. Documents that only programs read are jsonb.

create table jibe.installation (
	one boolean primary key default true check (one),
	id text not null,
	-- Part of every pointer's version: raised when the database may know less than the regions do.
	epoch integer not null,
	private_pem text not null,
	public_pem text not null,
	created_at bigint not null,
	-- System identifier and timeline of the server at the last start; null where it does not say.
	timeline text,
	-- Events up to this cursor may be gone.
	pruned_cursor bigint not null default 0
);

create table jibe.region (
	name text primary key,
	position integer not null,
	edge_port integer not null,
	retired boolean not null default false
);

create table jibe.app (
	name text primary key,
	created_at bigint not null,
	removed_at bigint,
	-- Release numbers count up per app, over all environments; gaps are fine.
	last_release integer not null default 0,
	-- Why its pointers may not be written, or null.
	read_only text
);

create table jibe.release (
	app text not null references jibe.app (name),
	number integer not null,
	environment text not null,
	deployment text not null,
	artifact text not null,
	vendor text,
	config jsonb not null,
	spec jsonb not null,
	-- Digests of all blobs it needs, one after the other: what keeps them from collection.
	pins bytea not null,
	git jsonb,
	created_at bigint not null,
	primary key (app, number)
);
-- Digests don't compress; out of line they cost nothing when a row is read without them.
alter table jibe.release alter column pins set storage external;

create table jibe.transition (
	from_state text not null,
	to_state text not null,
	primary key (from_state, to_state)
);

insert into jibe.transition (from_state, to_state) values
	('Queued', 'Building'), ('Queued', 'Testing'), ('Queued', 'Packaging'), ('Queued', 'Uploading'), ('Queued', 'ReadyToDeploy'),
	('Queued', 'Cancelled'), ('Queued', 'Superseded'), ('Queued', 'TimedOut'),
	('Building', 'Testing'), ('Building', 'Packaging'), ('Building', 'Uploading'), ('Building', 'ReadyToDeploy'),
	('Building', 'BuildFailed'), ('Building', 'Cancelled'), ('Building', 'Superseded'), ('Building', 'TimedOut'),
	('Testing', 'Packaging'), ('Testing', 'Uploading'), ('Testing', 'ReadyToDeploy'), ('Testing', 'TestFailed'),
	('Testing', 'Cancelled'), ('Testing', 'Superseded'), ('Testing', 'TimedOut'),
	('Packaging', 'Uploading'), ('Packaging', 'ReadyToDeploy'), ('Packaging', 'BuildFailed'),
	('Packaging', 'Cancelled'), ('Packaging', 'Superseded'), ('Packaging', 'TimedOut'),
	('Uploading', 'ReadyToDeploy'), ('Uploading', 'DeployFailed'),
	('Uploading', 'Cancelled'), ('Uploading', 'Superseded'), ('Uploading', 'TimedOut'),
	('ReadyToDeploy', 'AwaitingApproval'), ('ReadyToDeploy', 'Deploying'),
	('ReadyToDeploy', 'Cancelled'), ('ReadyToDeploy', 'Superseded'), ('ReadyToDeploy', 'TimedOut'),
	('AwaitingApproval', 'Deploying'), ('AwaitingApproval', 'Cancelled'), ('AwaitingApproval', 'Superseded'), ('AwaitingApproval', 'TimedOut'),
	('Deploying', 'CanaryCheck'), ('Deploying', 'RollingOut'), ('Deploying', 'DeployFailed'),
	('Deploying', 'Cancelled'), ('Deploying', 'Superseded'), ('Deploying', 'TimedOut'),
	('CanaryCheck', 'RollingOut'), ('CanaryCheck', 'Deployed'), ('CanaryCheck', 'RollingBack'),
	('RollingOut', 'Deployed'), ('RollingOut', 'RollingBack'),
	('RollingBack', 'RolledBack');

create table jibe.deployment (
	id text primary key,
	app text not null references jibe.app (name),
	environment text not null,
	kind text not null check (kind in ('deploy', 'rollback')),
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
	-- What the driver remembers between its steps.
	rollout jsonb,
	owner text not null,
	-- Counts takeovers: a former owner's step carries an old one.
	fence integer not null default 1,
	-- Counts steps.
	version integer not null default 1,
	-- The step that wrote this version: asked again after a lost answer, it gets the same answer.
	request text
);
create index deployment_by_app on jibe.deployment (app, environment, created_at desc);
create index deployment_by_time on jibe.deployment (created_at desc);
create index deployment_open on jibe.deployment (id) where ended_at is null or watch_until is not null;

create table jibe.want (
	app text not null references jibe.app (name),
	environment text not null,
	region text not null,
	epoch integer not null,
	version integer not null,
	deployment text,
	pointer jsonb not null,
	run jsonb not null,
	removed boolean not null default false,
	-- The write without a deployment that wrote this version; see deployment.request.
	request text,
	primary key (app, environment, region)
);

create table jibe.event (
	cursor bigint generated always as identity primary key,
	at bigint not null,
	type text not null,
	app text,
	environment text,
	deployment text,
	data jsonb not null
);

create table jibe.env (
	app text not null,
	environment text not null,
	name text not null,
	-- Null: unset, over what jibe.json says.
	value text,
	-- Not in any release yet.
	staged boolean not null,
	primary key (app, environment, name)
);

create table jibe.blob (
	app text not null,
	digest bytea not null,
	-- Until then nothing collects it, wanted or not.
	leased_until bigint not null,
	primary key (app, digest)
);

create table jibe.manifest (
	app text not null,
	root bytea not null,
	seen_at bigint not null,
	primary key (app, root)
);

create table jibe.token (
	id text primary key,
	name text not null,
	role text not null check (role in ('viewer', 'deployer', 'admin')),
	apps text[],
	environments text[],
	hash bytea not null,
	created_at bigint not null,
	expires_at bigint,
	revoked_at bigint,
	last_used_at bigint
);

create table jibe.login_code (
	hash bytea primary key,
	token text not null references jibe.token (id),
	expires_at bigint not null
);

create table jibe.session (
	hash bytea primary key,
	token text not null references jibe.token (id),
	expires_at bigint not null
);

create table jibe.audit (
	id bigint generated always as identity primary key,
	at bigint not null,
	by text not null,
	action text not null,
	app text,
	environment text,
	detail jsonb not null
);
create index audit_by_app on jibe.audit (app, id desc);

-- Refusals of the functions below: message = the code that programs see, detail = for a person.
create function jibe.refuse(code text, detail text) returns void language plpgsql as $$
begin
	raise exception using errcode = 'JB001', message = code, detail = detail;
end $$;

create function jibe.unpack(digests bytea) returns setof bytea language sql immutable as $$
	select substring(digests from i * 32 + 1 for 32) from generate_series(0, length(digests) / 32 - 1) i
$$;

create function jibe.is_final(state text) returns boolean language sql stable as $$
	select not exists (select from jibe.transition where from_state = state)
$$;

create function jibe.deployment_json(d jibe.deployment) returns jsonb language sql stable as $$
	select jsonb_build_object(
		'id', d.id, 'app', d.app, 'environment', d.environment, 'kind', d.kind, 'release', d.release, 'previous', d.previous,
		'artifact', d.artifact, 'commit', d.commit, 'branch', d.branch, 'dirty', d.dirty,
		'state', d.state, 'reason', d.reason, 'detail', d.detail, 'cause', d.cause, 'by', d."by", 'why', d.why,
		'createdAt', d.created_at, 'endedAt', d.ended_at, 'watchUntil', d.watch_until,
		'regions', d.regions, 'stages', d.stages, 'timings', d.timings, 'canary', d.canary, 'modules', d.modules,
		'coldStarts', d.cold_starts, 'url', d.url)
$$;

create function jibe.want_json(w jibe.want) returns jsonb language sql stable as $$
	select jsonb_build_object(
		'app', w.app, 'environment', w.environment, 'region', w.region, 'epoch', w.epoch, 'version', w.version,
		'deployment', w.deployment, 'pointer', w.pointer, 'run', w.run)
		|| case when w.removed then '{"removed": true}'::jsonb else '{}'::jsonb end
$$;

create function jibe.held_json(d jibe.deployment, wants jsonb) returns jsonb language sql stable as $$
	select jsonb_build_object(
		'deployment', jibe.deployment_json(d), 'fence', d.fence, 'version', d.version, 'owner', d.owner, 'rollout', d.rollout, 'wants', wants)
$$;

-- The last thing a transaction does: the lock makes cursors visible in their order, and is held until the commit only.
create function jibe.publish(events jsonb) returns void language plpgsql as $$
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
end $$;

-- Writes pointers and run lists over the versions they were decided on: all of them or none. Answers {wants, events}.
create function jibe.write_wants(
	p_app text, p_environment text, p_deployment text, p_removed boolean, p_at bigint, p_request text, p_writes jsonb)
returns jsonb language plpgsql as $$
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
	return v_answer;
end $$;

create function jibe.state_event(d jibe.deployment, p_from text, p_at bigint) returns jsonb language sql stable as $$
	select jsonb_build_object(
		'at', p_at, 'type', 'deployment.state', 'app', d.app, 'environment', d.environment, 'deployment', d.id,
		'data', jsonb_build_object('state', d.state, 'from', p_from, 'reason', d.reason, 'release', d.release, 'kind', d.kind))
$$;

create function jibe.check_edge(d jibe.deployment, p_to text) returns void language plpgsql as $$
begin
	if not exists (select from jibe.transition where from_state = d.state and to_state = p_to) then
		perform jibe.refuse('illegal_transition', format('%s can''t go from %s to %s', d.id, d.state, p_to));
	end if;
end $$;

-- One step of a deployment. `p`: see Advance in src/state/state.ts; absent keys leave their column as it is.
create function jibe.advance(p jsonb) returns jsonb language plpgsql as $$
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
end $$;

-- A new deployment, with its release when that is new. `p`: see NewDeployment. Answers {retry: number} when the number of the
-- release was taken meanwhile, {recheck: true} when the release that `unseen` was counted from is gone.
create function jibe.create_deployment(p jsonb, p_pins bytea, p_unseen bytea) returns jsonb language plpgsql as $$
declare
	a jibe.app;
	d jibe.deployment;
	r jibe.release;
	v_missing bytea;
	v_other jibe.deployment;
	v_from text;
	v_written jsonb;
	v_events jsonb := '[]';
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
		select jsonb_agg(jsonb_build_object(
			'at', stage -> 'at', 'type', 'deployment.state', 'app', d.app, 'environment', d.environment, 'deployment', d.id,
			'data', jsonb_build_object('state', stage -> 'state', 'from', case when i > 1 then d.stages -> (i::integer - 2) -> 'state' end, 'reason', null,
				'release', d.release, 'kind', d.kind)) order by i)
		from jsonb_array_elements(d.stages) with ordinality as one (stage, i)) || (v_written -> 'events');
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (d.created_at, d."by", 'deployment.created', d.app, d.environment,
		jsonb_build_object('deployment', d.id, 'kind', d.kind, 'release', d.release, 'previous', d.previous, 'why', d.why));
	perform jibe.publish(v_events);
	return jibe.held_json(d, v_written -> 'wants') || jsonb_build_object('spec', r.spec);
end $$;

-- Unasked a process takes only what is its own (p_from): two that each think they are the only one must not take it in turns.
create function jibe.take_deployment(p_id text, p_owner text, p_from text) returns jsonb language plpgsql as $$
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
end $$;

-- Pointers and run lists that belong to no deployment. Answers the wants; asked again after a lost answer, the same.
create function jibe.write_alone(p_app text, p_environment text, p_removed boolean, p_at bigint, p_writes jsonb, p_request text)
returns jsonb language plpgsql as $$
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
end $$;

create function jibe.own_blobs(p_app text, p_digests bytea, p_until bigint) returns void language sql as $$
	insert into jibe.blob as b (app, digest, leased_until)
	select distinct p_app, digest, p_until from jibe.unpack(p_digests) as wanted (digest)
	order by digest
	on conflict (app, digest) do update set leased_until = greatest(b.leased_until, excluded.leased_until)
$$;

-- Leases what the app owns of these and answers with that. Waits for a collection to end, as `create_deployment` does.
create function jibe.lease_blobs(p_app text, p_digests bytea, p_enough bigint, p_until bigint) returns bytea language plpgsql as $$
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
end $$;

create function jibe.saw_manifest(p_app text, p_root bytea, p_at bigint, p_kept integer) returns void language sql as $$
	insert into jibe.manifest (app, root, seen_at) values (p_app, p_root, p_at)
	on conflict (app, root) do update set seen_at = excluded.seen_at;
	delete from jibe.manifest where app = p_app and root in (
		select root from jibe.manifest where app = p_app order by seen_at desc, root offset p_kept)
$$;

create function jibe.change_env(p jsonb) returns void language plpgsql as $$
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
end $$;

create function jibe.remove_app(p_app text, p_by text, p_at bigint) returns void language plpgsql as $$
begin
	update jibe.app set removed_at = p_at, read_only = null where name = p_app and removed_at is null;
	if not found then
		-- Removed before: the answer to that was lost, or somebody else was first.
		return;
	end if;
	delete from jibe.env where app = p_app;
	delete from jibe.blob where app = p_app;
	delete from jibe.manifest where app = p_app;
	delete from jibe.release where app = p_app;
	insert into jibe.audit (at, by, action, app, environment, detail) values (p_at, p_by, 'app.removed', p_app, null, '{}');
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p_at, 'type', 'app.removed', 'app', p_app, 'environment', null, 'deployment', null, 'data', '{}'::jsonb)));
end $$;

create function jibe.set_regions(p jsonb) returns void language sql as $$
	update jibe.region set retired = true where name not in (select name from jsonb_to_recordset(p) as r (name text));
	insert into jibe.region (name, position, edge_port)
	select name, position, edge_port from jsonb_to_recordset(p) as r (name text, position integer, edge_port integer)
	on conflict (name) do update set position = excluded.position, edge_port = excluded.edge_port, retired = false
$$;

-- The releases that must stay: recent, one of the last that were live in their environment, or needed by a pointer, a run
-- list or a deployment under way.
create function jibe.kept_releases(p_since bigint, p_live integer) returns table (app text, number integer) language sql stable as $$
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
$$;

create function jibe.raise_epoch(p_by text, p_at bigint, p_timeline text) returns integer language plpgsql as $$
declare
	v_epoch integer;
begin
	update jibe.installation set epoch = epoch + 1, timeline = coalesce(p_timeline, timeline) returning epoch into v_epoch;
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (p_at, p_by, 'epoch.raised', null, null, jsonb_build_object('epoch', v_epoch));
	return v_epoch;
end $$;
