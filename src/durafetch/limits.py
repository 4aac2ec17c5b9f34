"""The protocol's limits. Generated from protocol/limits.json by scripts/generate.py."""

PROTOCOL_VERSION = 1
"""The version of this protocol."""
MIN_TOKEN_LENGTH = 32
"""A shorter `DURAFETCH_TOKEN` counts as none (characters)."""
MAX_REQUEST_BYTES = 33_554_432
"""The body of one `pull` request (bytes)."""
MAX_BATCH_OBJECTS = 500
"""The objects in one `pull` request (objects)."""
MAX_CHANGES_PAGE = 10_000
"""The objects in one `changes` reply; a larger `limit` is lowered to it (objects)."""
MAX_WATCH_PAGE = 1_000
"""The objects in one message of `watch` (objects)."""
WATCHER_TIMEOUT_MS = 60_000
"""A watcher that has not acknowledged a message for so long is dropped (ms)."""
MAX_DISCOVER_OBJECTS = 1_000
"""The names and ids in one `discover` request (objects)."""
MAX_LINE_BYTES = 67_108_864
"""One frame, its line end included (bytes)."""
MAX_TABLES = 10_000
"""The tables of one object (tables)."""
MAX_DEPTH = 500
"""The nesting of a value sent as plain JSON; deeper ones are sent as devalue text (levels)."""
SMALL_REPLY_BYTES = 1_048_576
"""An object whose frames fit is read in one synchronous turn (bytes)."""
MIN_CHUNK_BYTES = 4_096
"""The aim for a chunk at the start of a table (bytes)."""
MAX_CHUNK_BYTES = 262_144
"""The aim for a chunk in a large table (bytes)."""
OBJECT_TIMEOUT_MS = 30_000
"""How long the Worker waits for one object's first answer (ms)."""
