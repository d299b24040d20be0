import assert from 'node:assert/strict';
import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { tinyApp } from './fixtures/app.ts';
import { inEmptyRoot, noEmptyRoot, type Told } from './fixtures/empty-root.ts';

/** The package on a machine with nothing on it: installed as a service, used, and taken away again with nothing left. */

const skip = noEmptyRoot();

/** What is on the machine, but for what the kernel shows, and what mount, systemd-analyze and useradd note there for themselves. */
const LOOK = `look() { (cd /; find . -xdev \\( -path ./proc -o -path ./sys -o -path ./dev -o -path ./app -o -path ./run/mount -o -path ./run/systemd -o -path ./run/story -o -name .pwd.lock -o -path './etc/*-' \\) -prune -o -print; find ./usr/local) | sort; }
mounts() { cut -d' ' -f5 /proc/self/mountinfo | sort; }
groups() { find /sys/fs/cgroup -ignore_readdir_race -type d -name "jibe-$(printf %s /var/lib/jibe | sha256sum | cut -c1-10)"; }
capabilities() { sed -n 's/^CapabilityBoundingSet=//p' /etc/systemd/system/jibe.service | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g'; }
`;

const BEFORE = 'look > /tmp/before; mounts > /tmp/mounts; groups > /tmp/groups; cp /etc/passwd /tmp/passwd';
const NOTHING_LEFT = `look > /tmp/after
echo left; diff <(grep -v '^./tmp/' /tmp/before) <(grep -v '^./tmp/' /tmp/after); diff /tmp/mounts <(mounts); diff /tmp/groups <(groups)
diff /tmp/passwd /etc/passwd
[ -z "$(ps -eo args | grep '^jibe ')" ]
echo nothing`;

test('installed as a service of a whole machine, used, upgraded in place, uninstalled: nothing is left', { skip }, async (t) => {
	const told = await story(
		t,
		`${LOOK}
${BEFORE}
/srv/jibe/node_modules/jibe/bin/jibe install all --regions 2 --edge-port 80 --json
[ "$(readlink -f /usr/local/bin/jibe)" != /srv/jibe/node_modules/jibe/bin/jibe ]
if command -v systemd-analyze >/dev/null; then systemd-analyze verify /etc/systemd/system/jibe.service; fi
# What systemd would start, with what it would let it keep.
cd /var/lib/jibe
setpriv --no-new-privs --bounding-set=-all,$(capabilities) jibe up --service --data /var/lib/jibe --regions 2 --edge-port 80 > /tmp/told 2>/tmp/log &
cd /app
touch /tmp/told
until grep -q '"ready"' /tmp/told || grep -q '"failed"' /tmp/told; do sleep 0.1; done
jibe deploy --json
curl -sf -H 'Host: bare.localhost' http://127.0.0.1:80/
ps -eo uid,args | grep '[j]ibe instance' | awk '$1 >= 1000' | head -1
jibe doctor --json || true
# A restart of the service: the supervisor goes, the rest runs on, and the next one takes it over.
ps -eo pid,args | grep '[j]ibe instance .* bare ' | awk '{print $1}' | sort > /tmp/pids
kill -USR2 $(ps -eo pid,args | awk '/[j]ibe up /{print $1}')
wait
curl -sf -H 'Host: bare.localhost' http://127.0.0.1:81/
jibe up --detach --json
[ -z "$(comm -23 /tmp/pids <(ps -eo pid,args | grep '[j]ibe instance .* bare ' | awk '{print $1}' | sort))" ]
# A newer package, without a registry: the supervisor, the programs and everybody's command are of it afterwards.
mkdir /tmp/new
cp -a /srv/jibe/node_modules/jibe /tmp/new/package
for file in up jibe control agent; do echo '// newer' >> /tmp/new/package/dist/$file.js; done
tar -C /tmp/new -czf /tmp/new.tgz package
jibe upgrade /tmp/new.tgz --json
tail -1 $(dirname $(readlink -f /usr/local/bin/jibe))/../dist/up.js
ps -eo args | grep "[j]ibe control .*$(dirname $(dirname $(readlink -f /usr/local/bin/jibe)))/dist"
curl -sf -H 'Host: bare.localhost' http://127.0.0.1:81/
jibe uninstall --json
${NOTHING_LEFT}
`,
	);
	assert.equal(told.code, 0, explain(told));
	const results = objects(told);
	assert.equal(results.find((one) => 'what' in one)?.['user'], 'root');
	assert.deepEqual(results.find((one) => 'what' in one)?.['warnings'], []);
	assert.equal(results.find((one) => 'deployment' in one)?.['state'], 'Deployed');
	assert.equal(told.stdout.match(/from an empty root/g)?.length, 3);
	assert.match(told.stdout, /^ *\d{4,} jibe instance /m, 'instances have a uid of their own within the bounds of the unit');
	assert.match(told.stdout, /^\/\/ newer$/m);
	assert.match(told.stdout, /left\nnothing\n$/);
});

test('control alone runs as a user of its own, within what its unit leaves it', { skip }, async (t) => {
	const told = await story(
		t,
		`${LOOK}
${BEFORE}
/srv/jibe/node_modules/jibe/bin/jibe install control --json
if command -v systemd-analyze >/dev/null; then systemd-analyze verify /etc/systemd/system/jibe.service; fi
grep -x User=jibe /etc/systemd/system/jibe.service
# What systemd would do: the run directory, the user, the capabilities.
run=/run/$(sed -n 's/^RuntimeDirectory=//p' /etc/systemd/system/jibe.service)
mkdir -m 700 $run; chown jibe:jibe $run
cd /var/lib/jibe
setpriv --reuid=jibe --regid=jibe --clear-groups --no-new-privs --bounding-set=-all,$(capabilities) \\
	--inh-caps=-all,$(capabilities) --ambient-caps=-all,$(capabilities) \\
	env HOME=/var/lib/jibe jibe up --service --data /var/lib/jibe --regions none > /tmp/told 2>/tmp/log &
touch /tmp/told
until grep -q '"ready"' /tmp/told || grep -q '"failed"' /tmp/told; do sleep 0.1; done
cat /tmp/told | tail -1
ps -eo user,args | grep '[j]ibe control' | awk '{print "control runs as", $1}'
curl -sf http://127.0.0.1:7070/readyz
jibe token list --json
jibe uninstall --keep-data --json
ls /var/lib/jibe/postgres/cluster/PG_VERSION
wait
# Again, and by hand: it is still not root's.
/srv/jibe/node_modules/jibe/bin/jibe install control --json
jibe up --detach --regions none --json
ps -eo user,args | grep '[j]ibe control' | awk '{print "control runs as", $1}'
jibe uninstall --json
${NOTHING_LEFT}
`,
	);
	assert.equal(told.code, 0, explain(told));
	assert.equal(told.stdout.match(/^control runs as jibe$/gm)?.length, 2);
	assert.match(told.stdout, /left\nnothing\n$/);
});

/** As much of systemd as a service needs: it runs what the unit says, again when it ends, and tells it to end as the unit says. */
const SYSTEMD = `mkdir -p /run/systemd/system /run/story
cat > /usr/local/bin/systemctl <<'EOF'
#!/bin/bash
unit=/etc/systemd/system/jibe.service
echo "$*" >> /run/story/asked
stop() {
	rm -f /run/story/wanted
	[ -e /run/story/main ] || return 0
	kill -s $(sed -n 's/^KillSignal=SIG//p' $unit) $(cat /run/story/main) 2>/dev/null
	while [ -e /run/story/main ]; do sleep 0.05; done
}
start() {
	touch /run/story/wanted
	setsid bash -c 'cd /var/lib/jibe; while [ -e /run/story/wanted ]; do
		$(sed -n s/^ExecStart=//p '$unit') & echo $! > /run/story/main; wait $!; sleep 0.1
	done; rm -f /run/story/main' </dev/null >/run/story/journal 2>&1 &
	while [ ! -e /run/story/main ]; do sleep 0.05; done
}
case $1 in
	restart) stop; start;;
	stop) stop;;
esac
EOF
chmod +x /usr/local/bin/systemctl
programs() { ps -eo pid,args | grep '[j]ibe \\(control\\|agent\\|edge\\|up\\) ' | awk '{print $1}' | sort; }
ready() { until jibe doctor --json >/dev/null 2>&1 && curl -sf http://127.0.0.1:7070/readyz >/dev/null; do sleep 0.2; done; }
`;

test('a service manager starts it, restarts its supervisor alone, and is asked by upgrade, down and uninstall', { skip }, async (t) => {
	const told = await story(
		t,
		`${LOOK}
${SYSTEMD}
${BEFORE}
/srv/jibe/node_modules/jibe/bin/jibe install all --json
ready
cd /app
jibe deploy --json
programs > /tmp/one
# Killed, it is started again; restarted by a person, too. Nothing else is.
kill -9 $(ps -eo pid,args | awk '/[j]ibe up /{print $1}')
sleep 0.5
ready
systemctl restart jibe.service
ready
programs > /tmp/two
echo "supervisors replaced: $(comm -13 /tmp/one /tmp/two | wc -l), programs ended: $(comm -23 /tmp/one /tmp/two | wc -l)"
mkdir /tmp/new
cp -a /srv/jibe/node_modules/jibe /tmp/new/package
for file in up control agent edge; do echo '// newer' >> /tmp/new/package/dist/$file.js; done
tar -C /tmp/new -czf /tmp/new.tgz package
jibe upgrade /tmp/new.tgz --json
echo "of the version before: $(ps -eo args | grep '[j]ibe \\(control\\|agent\\|edge\\|up\\) ' | grep -vc $(readlink -f /opt/jibe/current))"
curl -sf -H 'Host: bare.localhost' http://127.0.0.1:8080/
jibe down --json
[ -z "$(ps -eo args | grep '^jibe ')" ]
systemctl restart jibe.service
ready
jibe uninstall --json
cat /run/story/asked
${NOTHING_LEFT}
`,
	);
	assert.equal(told.code, 0, explain(told));
	assert.match(told.stdout, /"started":true/);
	assert.match(told.stdout, /^supervisors replaced: 1, programs ended: 1$/m);
	assert.match(told.stdout, /^of the version before: 0$/m);
	assert.match(told.stdout, /^from an empty root$/m);
	assert.match(told.stdout, /^daemon-reload\nenable --quiet jibe.service\nrestart jibe.service\n/m);
	assert.match(told.stdout, /^disable --quiet jibe.service\ndaemon-reload\nreset-failed jibe.service\n/m);
	assert.match(told.stdout, /left\nnothing\n$/);
});

async function story(t: { after(done: () => void): void }, script: string): Promise<Told> {
	const place = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-root-')));
	t.after(() => rmSync(place, { recursive: true, force: true }));
	using app = tinyApp('bare', `export default { fetch: () => new Response('from an empty root\\n') };\n`);
	return await inEmptyRoot(place, app.dir, script);
}

function objects({ stdout }: Told): Record<string, unknown>[] {
	return stdout.split('\n').flatMap((line) => (line.startsWith('{') ? [JSON.parse(line) as Record<string, unknown>] : []));
}

function explain({ stdout, stderr }: Told): string {
	return `${stdout.slice(-6_000)}\n--- stderr\n${stderr.slice(-6_000)}`;
}
