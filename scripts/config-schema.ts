import { writeFileSync } from 'node:fs';
import { configJsonSchema } from '#wire/config-file.ts';

/** Writes docs/jibe.schema.json, which a test holds against the code. */
writeFileSync(new URL('../docs/jibe.schema.json', import.meta.url), `${JSON.stringify(configJsonSchema(), null, '\t')}\n`);
