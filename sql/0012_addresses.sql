-- Where no name leads to an app, `url` is a server's address, and `host` what the request's Host header has to say.

alter table jibe.deployment add column host text;

create or replace function jibe.deployment_json(d jibe.deployment) returns jsonb language sql stable as $$
	select jsonb_build_object(
		'id', d.id, 'app', d.app, 'environment', d.environment, 'kind', d.kind, 'release', d.release, 'previous', d.previous,
		'artifact', d.artifact, 'commit', d.commit, 'branch', d.branch, 'dirty', d.dirty,
		'state', d.state, 'reason', d.reason, 'detail', d.detail, 'cause', d.cause, 'by', d."by", 'why', d.why,
		'createdAt', d.created_at, 'endedAt', d.ended_at, 'watchUntil', d.watch_until,
		'regions', d.regions, 'stages', d.stages, 'timings', d.timings, 'canary', d.canary, 'modules', d.modules,
		'coldStarts', d.cold_starts, 'url', d.url, 'host', d.host)
$$;
