import { main } from '#control/main.ts';

/** Control as a process of its own, from source: the bench `fanout` measures its memory. */
const settings: unknown = JSON.parse(process.env['JIBE_PROGRAM'] ?? '{}');
delete process.env['JIBE_PROGRAM'];
await main(settings);
