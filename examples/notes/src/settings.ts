/** Everything the app learns from its environment, read once. */
export const settings = {
	/** Jibe sets it: writable, and kept from release to release. */
	dataDirectory: process.env['JIBE_DATA_DIR'] ?? './data',
	release: process.env['JIBE_RELEASE'] ?? 'dev',
	region: process.env['JIBE_REGION'] ?? 'local',
	pageLength: Number(process.env['NOTES_PAGE_LENGTH'] ?? 20),
};
