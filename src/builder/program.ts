import { main } from './main.ts';

/** What the bundle `builder.js` begins with. */
const settings: unknown = JSON.parse(process.env['JIBE_PROGRAM'] ?? '{}');
delete process.env['JIBE_PROGRAM'];
await main(settings);
