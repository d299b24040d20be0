/** What a service manager is told of an installation. */
export interface Service {
	/** What runs: for the description. */
	what: 'control' | 'agent' | 'all';
	/** The command, whichever version is chosen. */
	command: string;
	data: string;
	/** Further words for `jibe up`. */
	words: readonly string[];
	/** Name and uid; null: root, because every app gets a uid of its own. */
	user: { name: string; uid: number } | null;
	/** A file with `NAME="value"` lines, root's alone. */
	environmentFile: string;
}

/** Descriptors: two for each request under way and each idle connection of an edge. */
const MAX_FILES = 1_048_576;
const STOP_LIMIT_S = 15;
const RESTART_AFTER_S = 1;

/**
 * A unit of systemd. One for the whole of an installation, because its supervisor already starts, watches and replaces
 * the programs: systemd watches the supervisor. Told to stop, it leaves what it started, so that a restart of the
 * service, by an update of the system for one, breaks nothing; `jibe down` ends everything.
 */
export function unitText(service: Service): string {
	const { what, command, data, words, user, environmentFile } = service;
	const run = user === null ? 'jibe' : `jibe-${user.uid}`;
	const lines = [
		'# Written by jibe install; jibe uninstall removes it.',
		'[Unit]',
		`Description=Jibe (${WHAT[what]})`,
		'Wants=network-online.target',
		'After=network-online.target time-sync.target',
		'# It waits longer and longer by itself.',
		'StartLimitIntervalSec=0',
		'',
		'[Service]',
		'Type=exec',
		`ExecStart=${[command, 'up', '--service', '--data', data, ...words].map(unitWord).join(' ')}`,
		`WorkingDirectory=${data.replaceAll('%', '%%')}`,
		`EnvironmentFile=-${environmentFile}`,
		...(user === null ? [] : [`User=${user.name}`, `Group=${user.name}`]),
		'# The supervisor alone is told to end, and leaves what it started to the next one. jibe down ends everything.',
		'KillMode=process',
		'KillSignal=SIGUSR2',
		`TimeoutStopSec=${STOP_LIMIT_S}`,
		'Restart=always',
		`RestartSec=${RESTART_AFTER_S}`,
		`LimitNOFILE=${MAX_FILES}`,
		'TasksMax=infinity',
		'UMask=0077',
		'# Agents make the groups of apps beside this one: with accounting on, the slice has the controllers for them.',
		'Slice=jibe.slice',
		'CPUAccounting=yes',
		'MemoryAccounting=yes',
		'TasksAccounting=yes',
		'# Its sockets outlive a restart, as what listens on them does. For the same reason it has no /tmp of its own.',
		`RuntimeDirectory=${run}`,
		`RuntimeDirectoryMode=${user === null ? '0711' : '0700'}`,
		'RuntimeDirectoryPreserve=yes',
		'',
		...hardening(service),
		'',
		'[Install]',
		'WantedBy=multi-user.target',
	];
	return `${lines.join('\n')}\n`;
}

const WHAT = { control: 'control', agent: 'agent and edges', all: 'control, agent and edges' } as const;

/** What an agent needs of root: uids, mount namespaces and limits for apps; to see and to end them; ports below 1024. */
const AGENT_CAPABILITIES = [
	'CAP_CHOWN',
	'CAP_DAC_OVERRIDE',
	'CAP_DAC_READ_SEARCH',
	'CAP_FOWNER',
	'CAP_FSETID',
	'CAP_KILL',
	'CAP_NET_BIND_SERVICE',
	'CAP_SETGID',
	'CAP_SETPCAP',
	'CAP_SETUID',
	'CAP_SYS_ADMIN',
	'CAP_SYS_NICE',
	'CAP_SYS_PTRACE',
	'CAP_SYS_RESOURCE',
];

const FOR_ALL = [
	'NoNewPrivileges=yes',
	'ProtectSystem=strict',
	'ProtectClock=yes',
	'ProtectHostname=yes',
	'ProtectKernelLogs=yes',
	'ProtectKernelModules=yes',
	'ProtectKernelTunables=yes',
	'LockPersonality=yes',
	'RestrictRealtime=yes',
	'RestrictSUIDSGID=yes',
	'SystemCallArchitectures=native',
	'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK',
];

/** Control and edges need nothing of the machine but their directory and their ports. V8 writes code: no MemoryDenyWriteExecute. */
const WITHOUT_APPS = [
	'PrivateDevices=yes',
	'ProtectControlGroups=yes',
	'ProtectProc=invisible',
	'RestrictNamespaces=yes',
	'SystemCallFilter=@system-service',
	'SystemCallErrorNumber=EPERM',
	'AmbientCapabilities=CAP_NET_BIND_SERVICE',
	'CapabilityBoundingSet=CAP_NET_BIND_SERVICE',
];

function hardening({ user, data }: Service): string[] {
	const bound = `CapabilityBoundingSet=${AGENT_CAPABILITIES.join(' ')}`;
	const writable = `ReadWritePaths=${unitWord(data)} /tmp /var/tmp`;
	const atHome = /^\/(home|root|run\/user)(\/|$)/.test(data);
	return [...FOR_ALL, ...(atHome ? [] : ['ProtectHome=yes']), writable, ...(user === null ? [bound] : WITHOUT_APPS)];
}

/** One word of a line of a unit. */
function unitWord(word: string): string {
	const text = word.replaceAll('%', '%%').replaceAll('$', '$$$$');
	return /[\s"'\\;]/.test(text) ? `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"` : text;
}

/** A line of an environment file of systemd. */
export function environmentLine(name: string, value: string): string {
	return `${name}="${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('$', '\\$').replaceAll('`', '\\`')}"`;
}

/** A daemon of launchd, on a Mac. */
export function plistText({ command, data, words, user }: Service, label: string, env: Readonly<Record<string, string>>): string {
	const strings = [command, 'up', '--service', '--data', data, ...words].map((word) => `\t\t<string>${xml(word)}</string>`);
	const variables = Object.entries(env).map(([name, value]) => `\t\t<key>${xml(name)}</key>\n\t\t<string>${xml(value)}</string>`);
	const log = xml(`${data}/logs/launchd.log`);
	return `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by jibe install; jibe uninstall removes it. -->
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>${xml(label)}</string>
	<key>ProgramArguments</key>
	<array>
${strings.join('\n')}
	</array>
	<key>EnvironmentVariables</key>
	<dict>
${variables.join('\n')}
	</dict>
	<key>WorkingDirectory</key>
	<string>${xml(data)}</string>
${user === null ? '' : `\t<key>UserName</key>\n\t<string>${xml(user.name)}</string>\n`}	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<true/>
	<key>AbandonProcessGroup</key>
	<true/>
	<key>SoftResourceLimits</key>
	<dict>
		<key>NumberOfFiles</key>
		<integer>${MAX_FILES}</integer>
	</dict>
	<key>StandardOutPath</key>
	<string>${log}</string>
	<key>StandardErrorPath</key>
	<string>${log}</string>
</dict>
</plist>
`;
}

function xml(text: string): string {
	return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
