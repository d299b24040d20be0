import type { UpSettings } from './installation.ts';
import { main } from './main.ts';

/** What the bundle `up.js` begins with. */
const settings = JSON.parse(process.env['JIBE_PROGRAM'] ?? '{}') as UpSettings;
delete process.env['JIBE_PROGRAM'];
await main(settings);
