/** Names of real regions that a local installation takes, in this order. */
export const LOCAL_REGIONS = [
	'fra', 'ams', 'lhr', 'cdg', 'mad', 'arn', 'waw', 'iad', 'ord', 'dfw', 'sea', 'lax',
	'sjc', 'yyz', 'gru', 'scl', 'jnb', 'bom', 'sin', 'hkg', 'nrt', 'icn', 'syd', 'akl',
] as const; // prettier-ignore
