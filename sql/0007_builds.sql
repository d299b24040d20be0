-- Builds: what becomes a release on a builder. Leases and deadlines are PostgreSQL's clock, all other times wall milliseconds.

-- One build at a time runs of a lane: a repository's, or an app's where there is none. Whoever changes which builds of a lane
-- wait or run locks its row first.
create table jibe.build_lane (
	name text primary key,
	-- The build that runs, or whose builder has not let go of it yet.
	running text,
	-- The next one, kept here so that a claim reads one row of an index however long the queue is.
	head text,
	head_priority integer,
	head_platform text,
	-- Lanes of one priority are served by turns.
	served_at timestamptz not null default '-infinity'
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
create index build_lane_ready on jibe.build_lane (head_priority desc, served_at) where running is null and head is not null;

create table jibe.build (
	-- The deployment that it becomes has the same.
	id text primary key,
	seq bigint generated always as identity,
	app text not null,
	environment text not null,
	kind text not null check (kind in ('deploy', 'verify')),
	lane text not null,
	platform text,
	commit text,
	branch text,
	verifies text,
	priority integer not null,
	-- Of its app within the lane: an app's second build comes after every other app's first.
	turn integer not null,
	-- waiting → running → ended. gating: its artifact was taken, steps that hold back promotion go on.
	-- stopping: it is over, but its builder has not let go of it.
	phase text not null check (phase in ('waiting', 'running', 'gating', 'stopping', 'ended')),
	state text not null,
	reason text,
	detail text,
	-- With the worker the fence of every request about it.
	attempt integer not null default 0,
	worker text,
	leased_until timestamptz,
	deadline bigint,
	stop text check (stop in ('cancelled', 'superseded', 'timed-out')),
	-- All attempts are used up.
	dead boolean not null default false,
	-- A person had it queued once more under this id.
	retried text,
	-- There is a deployment of this id.
	deployed boolean not null default false,
	-- What it made was live already, or on its way, as this deployment.
	became text,
	stages jsonb not null,
	metadata jsonb,
	created_at bigint not null,
	claimed_at bigint,
	ended_at bigint
) with (fillfactor = 70);
create index build_waiting on jibe.build (lane, priority desc, turn, seq) where phase = 'waiting';
create index build_held on jibe.build (worker) where phase in ('running', 'gating', 'stopping');
create index build_open on jibe.build (app, environment) where phase in ('waiting', 'running', 'gating');
create index build_by_app on jibe.build (app, environment, created_at desc);
create index build_by_time on jibe.build (created_at desc);
create index build_dead on jibe.build (created_at desc) where dead;
create index build_verifies on jibe.build (verifies) where verifies is not null;

-- As it was asked for; apart, because the build's own row is rewritten with every step.
create table jibe.build_job (
	id text primary key references jibe.build (id) on delete cascade,
	job jsonb not null
);

create table jibe.build_step (
	build text not null references jibe.build (id) on delete cascade,
	name text not null,
	position integer not null,
	attempt integer not null,
	report jsonb not null,
	primary key (build, name)
);

-- Written in batches, never changed. No event and no synchronous commit: a crash of PostgreSQL may cost the last lines.
create table jibe.build_log (
	build text not null references jibe.build (id) on delete cascade,
	attempt integer not null,
	-- Numbers of its first line and of the one after its last.
	first integer not null,
	next integer not null,
	-- Of the attempt's lines up to and with these.
	bytes bigint not null,
	at bigint not null,
	-- JSON, zstd.
	lines bytea not null,
	primary key (build, attempt, first)
);
alter table jibe.build_log alter column lines set storage external;
create index build_log_by_time on jibe.build_log using brin (at);

create function jibe.build_view(b jibe.build) returns jsonb language sql stable as $$
	select (j.job - 'source' - 'ancestors') || jsonb_build_object(
		'id', b.id, 'state', b.state, 'reason', b.reason, 'detail', b.detail, 'attempt', b.attempt, 'worker', b.worker, 'dead', b.dead,
		'createdAt', b.created_at, 'claimedAt', b.claimed_at, 'endedAt', b.ended_at, 'stages', b.stages, 'phase', b.phase, 'retried', b.retried,
		'deployed', b.deployed, 'became', b.became, 'metadata', b.metadata,
		'steps', (select coalesce(jsonb_agg(s.report order by s.position, s.name), '[]') from jibe.build_step s where s.build = b.id))
	from jibe.build_job j where j.id = b.id
$$;

create function jibe.build_event(b jibe.build, p_type text, p_at bigint, p_data jsonb) returns jsonb language sql stable as $$
	select jsonb_build_object(
		'at', p_at, 'type', p_type, 'app', b.app, 'environment', b.environment, 'deployment', b.id,
		'data', jsonb_build_object('attempt', b.attempt, 'kind', b.kind) || p_data)
$$;

create function jibe.build_state_event(b jibe.build, p_from text, p_at bigint) returns jsonb language sql stable as $$
	select jibe.build_event(b, 'build.state', p_at, jsonb_build_object(
		'state', b.state, 'from', p_from, 'reason', b.reason, 'branch', b.branch, 'commit', b.commit))
$$;

create function jibe.settle_lane(p_lane text) returns void language sql as $$
	update jibe.build_lane l set (head, head_priority, head_platform) = (
		select b.id, b.priority, b.platform from jibe.build b
		where b.lane = l.name and b.phase = 'waiting' order by b.priority desc, b.turn, b.seq limit 1)
	where l.name = p_lane
$$;

create function jibe.free_lane(p_lane text, p_build text) returns void language sql as $$
	update jibe.build_lane set running = null where name = p_lane and running = p_build
$$;

-- The states that lead from one to the other: at most one between them; null: none do.
create function jibe.build_way(p_from text, p_to text) returns text[] language sql stable as $$
	select coalesce(
		(select array[p_to] from jibe.transition where from_state = p_from and to_state = p_to),
		(select array[a.to_state, p_to] from jibe.transition a join jibe.transition b on b.from_state = a.to_state
		where a.from_state = p_from and b.to_state = p_to
		order by array_position(array['Building', 'Testing', 'Packaging', 'Uploading'], a.to_state) nulls last limit 1))
$$;

-- What it is once it has gone to a state: {state, stages, events}; null where nothing leads there.
create function jibe.move_build(b jibe.build, p_to text, p_at bigint) returns jsonb language plpgsql stable as $$
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
end $$;

-- Ends a build that waits or runs, without an artifact; its lane must be locked. A state that nothing leads to gives way to one that
-- says as much. Answers the events.
create function jibe.end_build(
	b jibe.build, p_to text, p_reason text, p_detail text, p_phase text, p_at bigint, p_became text default null)
returns jsonb language plpgsql as $$
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
end $$;

-- Somebody or something ends it from outside: one that waits at once, one that runs as soon as its builder has heard of it.
create function jibe.stop_build(b jibe.build, p_why text, p_reason text, p_at bigint) returns jsonb language plpgsql as $$
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
end $$;

-- As `refuse`, where others are answered in the same transaction.
create function jibe.refused(p_code text, p_detail text) returns jsonb language sql immutable as $$
	select jsonb_build_object('answer', jsonb_build_object('refused', p_code, 'detail', p_detail), 'events', '[]'::jsonb)
$$;

-- Lanes of another platform are others: a build there keeps none here.
create function jibe.lane_of(p_job jsonb) returns text language sql immutable as $$
	select (p_job ->> 'lane') || coalesce('@' || (p_job ->> 'platform'), '')
$$;

-- Queues a build; its lane must be locked. `p`: see `Builds.enqueue` in src/state/builds.ts. Answers {answer: {id, already}, events}.
create function jibe.enqueue_build(p jsonb) returns jsonb language plpgsql as $$
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
end $$;

-- What makes this one needless: the same is on its way, or was deployed last, or something that contains it is or was. Null: nothing.
create function jibe.same_build(b jibe.build, p_job jsonb, p_force boolean) returns text language plpgsql stable as $$
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
end $$;

create function jibe.in_ms(p jsonb) returns interval language sql immutable as $$
	select p::integer * interval '1 ms'
$$;

create function jibe.build_job_json(b jibe.build) returns jsonb language sql stable as $$
	select j.job || jsonb_build_object(
		'id', b.id, 'attempt', b.attempt, 'deadline', b.deadline,
		'env', coalesce((
			select jsonb_object_agg(e.name, e.value) from jibe.env e
			where e.app = b.app and e.environment = b.environment and e.value is not null), '{}'),
		-- Read and opened only where there are any.
		'hasSecrets', exists (
			select from jibe.secret s where s.app = b.app and s.environment = b.environment and s.revoked_at is null and s.removed_at is null))
	from jibe.build_job j where j.id = b.id
$$;

-- The next job for a worker that has none: of the lane whose turn it is; null: none. `p`: {worker, platform, leaseMs, limitMs}.
create function jibe.claim_next(p jsonb) returns jsonb language plpgsql as $$
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
end $$;

-- Why it may not be spoken of by this attempt: [code, words], or null.
create function jibe.build_problem(b jibe.build, p_id text, p_attempt integer, p_worker text) returns text[] language plpgsql immutable as $$
begin
	if b.id is null then
		return array['unknown', format('there is no build %s', p_id)];
	end if;
	if b.attempt <> p_attempt or b.worker is distinct from p_worker then
		return array['fenced', format('%s is not attempt %s of %s any more', p_id, p_attempt, p_worker)];
	end if;
	return null;
end $$;

-- The row, if it is still this attempt's; refused if not.
create function jibe.fenced_build(p_id text, p_attempt integer, p_worker text) returns jibe.build language plpgsql as $$
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
end $$;

-- It lives. Answers why it must stop, or null. A beat that is lost with the server's last moment is one of three.
create function jibe.beat_build(p_id text, p_attempt integer, p_worker text, p_lease interval) returns jsonb language plpgsql as $$
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
end $$;

-- The connection on which it lived has ended: if nothing comes on another one, it is gone sooner than its lease.
create function jibe.doubt_build(p_id text, p_attempt integer, p_worker text, p_lease interval) returns void language sql as $$
	update jibe.build set leased_until = least(leased_until, clock_timestamp() + p_lease)
	where id = p_id and attempt = p_attempt and worker = p_worker and phase in ('running', 'gating', 'stopping')
$$;

-- States and steps as the builder goes through them. `p`: {id, attempt, worker, state, at, steps, leaseMs}. What is known is not told again.
create function jibe.report_build(p jsonb) returns jsonb language plpgsql as $$
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
end $$;

-- Lines from number `p_first` on. Answers {next}: which line is wanted next; what is stored already is not stored again.
create function jibe.log_build(
	p_id text, p_attempt integer, p_worker text, p_first integer, p_count integer, p_bytes integer, p_at bigint, p_lines bytea)
returns jsonb language plpgsql as $$
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
end $$;

-- It ended without an artifact, or was compared, or (gating) the last steps are over: then nothing is done before the driver has heard
-- of that (`heard`). Its lane must be locked. `p`: {id, attempt, worker, state, reason, detail, at, became, heard}. Told twice, it has
-- ended once. Answers {answer: {was, state, reason}, events}.
create function jibe.finish_build(p jsonb) returns jsonb language plpgsql as $$
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
end $$;

-- All that a control was asked at about the same time, in one transaction: a commit costs more than a claim. What one of them is refused
-- is its own answer. `p`: {enqueues, ends, claims}; answers the same, each in its order, and whether there were events.
create function jibe.build_turn(p jsonb) returns jsonb language plpgsql as $$
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
end $$;

-- A person or the deployment's end stops it. Answers the build as it is then.
create function jibe.halt_build(p_id text, p_why text, p_by text, p_at bigint) returns jsonb language plpgsql as $$
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
end $$;

-- Takes from workers that are silent what they held: once more, or, after the last attempt, for a person to look at. Stops what took too
-- long. Answers [{id, lane, attempt, worker, outcome}] of what changed: lost, dead, timed-out, released.
create function jibe.sweep_builds(p_attempts integer, p_at bigint) returns jsonb language plpgsql as $$
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
end $$;

-- What an outside autoscaler, the pool and the page want to know.
create function jibe.build_queue() returns jsonb language sql stable as $$
	select jsonb_build_object(
		'waiting', (select count(*) from jibe.build where phase = 'waiting'),
		'claimable', (select count(*) from jibe.build_lane where running is null and head is not null),
		'running', (select count(*) from jibe.build where phase in ('running', 'gating', 'stopping')),
		'dead', (select count(*) from jibe.build where dead),
		'oldestMs', (select (extract(epoch from clock_timestamp()) * 1000 - min(created_at))::bigint from jibe.build where phase = 'waiting'))
$$;

-- As before; and what comes of a build (`p -> build`: {attempt, worker, published, gating, metadata}) takes its id over in the same
-- transaction, if it is still that attempt's. The events of its stages are there already.
-- A new deployment, with its release when that is new. `p`: see NewDeployment. Answers {retry: number} when the number of the
-- release was taken meanwhile, {recheck: true} when the release that `unseen` was counted from is gone.
create or replace function jibe.create_deployment(p jsonb, p_pins bytea, p_unseen bytea) returns jsonb language plpgsql as $$
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
end $$;
