/** Named, immutable bytes somewhere else: what a store that several controls share is made of. One file per kind. */
export interface Objects {
	/** Where they are, for messages: `s3://bucket/prefix`. */
	readonly place: string;
	/** Resolves once it is stored, and was seen to be. @throws StoreUnavailable, StoreRefused, StoreUnfaithful, StoreFull */
	put(name: string, bytes: Uint8Array): Promise<void>;
	/** The object, or what lies there of it within the range; null: there is none. @throws StoreUnavailable, StoreRefused */
	get(name: string, range?: { from: number; bytes: number }): Promise<Buffer | null>;
	/** Those whose names begin with the prefix and come after `after`, in order. @throws StoreUnavailable, StoreRefused */
	list(prefix: string, after: string): AsyncIterable<StoredObject>;
	/** Unknown ones are fine. @throws StoreUnavailable, StoreRefused */
	delete(names: readonly string[]): Promise<void>;
}

export interface StoredObject {
	name: string;
	bytes: number;
}
