/**
 * 32 well-mixed bits of a text: FNV-1a over its UTF-16 units, then murmur3's finalizer, because FNV alone leaves the
 * high bits of short texts (addresses, counters) uneven. Stable for ever: which side a user is on depends on it.
 */
export function hash32(text: string, seed = 0): number {
	let h = 0x811c9dc5 ^ seed;
	for (let i = 0; i < text.length; i++) {
		const unit = text.charCodeAt(i);
		h = Math.imul(h ^ (unit & 0xff), 0x01000193);
		if (unit > 0xff) h = Math.imul(h ^ (unit >>> 8), 0x01000193);
	}
	h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
	h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
	return (h ^ (h >>> 16)) >>> 0;
}
