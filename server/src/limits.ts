// Generated from protocol/limits.json by scripts/generate.py. Do not edit.

/** The version of this protocol. */
export const PROTOCOL_VERSION = 1;
/** A shorter `DURAFETCH_TOKEN` counts as none (characters). */
export const MIN_TOKEN_LENGTH = 32;
/** The body of one `pull` request (bytes). */
export const MAX_REQUEST_BYTES = 33554432;
/** The objects in one `pull` request (objects). */
export const MAX_BATCH_OBJECTS = 500;
/** The objects in one `changes` reply; a larger `limit` is lowered to it (objects). */
export const MAX_CHANGES_PAGE = 10000;
/** The objects in one message of `watch` (objects). */
export const MAX_WATCH_PAGE = 1000;
/** A watcher that has not acknowledged a message for so long is dropped (ms). */
export const WATCHER_TIMEOUT_MS = 60000;
/** The names and ids in one `discover` request (objects). */
export const MAX_DISCOVER_OBJECTS = 1000;
/** One frame, its line end included (bytes). */
export const MAX_LINE_BYTES = 67108864;
/** The tables of one object (tables). */
export const MAX_TABLES = 10000;
/** The nesting of a value sent as plain JSON; deeper ones are sent as devalue text (levels). */
export const MAX_DEPTH = 500;
/** An object whose frames fit is read in one synchronous turn (bytes). */
export const SMALL_REPLY_BYTES = 1048576;
/** The aim for a chunk at the start of a table (bytes). */
export const MIN_CHUNK_BYTES = 4096;
/** The aim for a chunk in a large table (bytes). */
export const MAX_CHUNK_BYTES = 262144;
/** How long the Worker waits for one object's first answer (ms). */
export const OBJECT_TIMEOUT_MS = 30000;
