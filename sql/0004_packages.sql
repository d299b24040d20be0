-- Packages of Jibe that joined servers go over to, which they are to run, and what they say that they run.

create table jibe.package (
	-- sha256:<hex> of the tarball.
	digest text primary key,
	version text not null,
	bytes bytea not null,
	added_at bigint not null
);

create table jibe.server_package (
	server text primary key,
	-- Digest of the package that it is to run; null: whatever it has.
	wanted text,
	-- Of the package that it runs, its first digits; null: it came by other means.
	runs text,
	version text,
	-- Why it does not run what it is to.
	problem text,
	said_at bigint
);
