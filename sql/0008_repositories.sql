-- Repositories that pushes come from, what their forges told us, and what we have to tell them. Their secrets (what
-- signs webhooks, deploy keys, tokens) are rows of jibe.secret under the app `repository:<name>`, which no app can be.

create table jibe.repository (
	name text primary key,
	forge text not null,
	-- Null: it is pushed here.
	url text,
	api text,
	apps jsonb not null,
	rules jsonb not null,
	-- One up with every change, also of its secrets.
	version integer not null default 1,
	created_at bigint not null,
	changed_at bigint not null,
	by text not null
);

-- What was pushed here: where its branches and tags are, and the packs, in the store, that have all they name. Written before a
-- push is acknowledged; what lies on the disks of controls is made of it.
create table jibe.pushed_repository (
	repository text primary key,
	-- Another one after each change: whoever changes it names the one that was read.
	id text not null,
	refs jsonb not null,
	packs jsonb not null,
	changed_at bigint not null
);

-- What was told, once each: replays find their row. A push is a hint to look at the branch, so that an old one does no harm.
create table jibe.delivery (
	repository text not null,
	id text not null,
	at bigint not null,
	event text not null,
	ref text,
	detail jsonb not null,
	-- waiting, done, ignored, failed
	state text not null,
	-- Whoever claimed it has until then.
	claimed_by text,
	claimed_until bigint,
	attempts integer not null default 0,
	-- Not tried again before.
	next_at bigint not null,
	outcome text,
	ended_at bigint,
	primary key (repository, id)
);
create index delivery_waiting on jibe.delivery (next_at) where state = 'waiting';
create index delivery_at on jibe.delivery (repository, at);

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
	primary key (repository, number)
);

-- What a forge is to show beside a commit, and what it was told last.
create table jibe.commit_status (
	repository text not null,
	commit text not null,
	context text not null,
	state text not null,
	description text not null,
	url text not null,
	-- Of the transition that it tells of: an older one never wins.
	at bigint not null,
	told_at bigint,
	claimed_until bigint,
	attempts integer not null default 0,
	next_at bigint not null,
	problem text,
	primary key (repository, commit, context)
);
create index commit_status_untold on jibe.commit_status (next_at) where told_at is null;

-- Private addresses that control may connect to on behalf of whoever names them.
create table jibe.outbound_allowed (
	address text primary key,
	by text not null,
	at bigint not null
);
