"""Everything that can go wrong, as one tree. Each error has a stable code, a message, a hint and an exit status."""

from __future__ import annotations

from typing import ClassVar


class DurafetchError(Exception):
    """Something failed; the root of the tree: catch it to catch all that Durafetch raises on purpose.

    `code` is stable and made to be compared; `message` says what happened to what; `hint` names the command or the
    line that mends it (it may be empty); `exit_status` is the status with which the CLI ends.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, hint: str = "") -> None:
        """`message` and `hint` are shown to a person; neither may hold a secret."""
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint


class UsageError(DurafetchError):
    """The command, an argument or an option makes no sense."""

    code = "usage"
    exit_status = 2


class ConfigError(UsageError):
    """durafetch.toml, or a file it names, cannot be used."""

    code = "config"


class InsecureUrlError(UsageError):
    """Plain HTTP to another machine would show the token to the network."""

    code = "insecure_url"
    default_hint = "Use the Worker's https:// address; plain http:// is for localhost only."


class NoTokenError(DurafetchError):
    """No token was found to authorize with."""

    code = "no_token"
    exit_status = 4


class NotAuthorizedError(DurafetchError):
    """The Worker refused the token."""

    code = "not_authorized"
    exit_status = 4
    default_hint = "Set DURAFETCH_TOKEN to the secret that the Worker has: `wrangler secret put DURAFETCH_TOKEN`."


class UnreachableError(DurafetchError):
    """The Worker cannot be reached, or does not stay reachable."""

    code = "unreachable"
    exit_status = 5
    default_hint = "Check the address, and that the Worker runs: `durafetch doctor URL` looks at each step."


class RedirectedError(UnreachableError):
    """The address answers with a redirect, which is not followed: the token is for the address given alone."""

    code = "redirected"


class NotDurafetchError(DurafetchError):
    """Something answers at the address, but it is not durafetch-server."""

    code = "not_durafetch"
    exit_status = 6
    default_hint = (
        "Wrap the Worker's default export in durafetchWorker(), and set its secret DURAFETCH_TOKEN "
        "(32 characters or more): without a token all its Durafetch routes answer 404."
    )


class ProtocolError(DurafetchError):
    """The Worker's reply breaks the protocol; nothing of it was applied."""

    code = "protocol"
    exit_status = 6
    default_hint = "Update durafetch and durafetch-server to releases that belong together."


class NoDirectoryError(DurafetchError):
    """The Worker has no DurafetchDirectory."""

    code = "no_directory"
    default_hint = (
        'Export it from the entry file (`export { DurafetchDirectory } from "durafetch-server";`) and add the '
        'migration { "tag": "durafetch", "new_sqlite_classes": ["DurafetchDirectory"] }, or run `durafetch init`.'
    )


class ServerError(DurafetchError):
    """The Worker answered with an error of its own."""

    code = "server"


class NoStateError(DurafetchError):
    """A project has no local objects, since its Worker has not run yet."""

    code = "no_state"
    default_hint = (
        "Start the Worker once (`npx wrangler dev`) and use it; where that has --persist-to, give the same here."
    )


class UnreadableFileError(DurafetchError):
    """A file of an object's local state is damaged, or is no SQLite database."""

    code = "unreadable_file"


class NothingFoundError(DurafetchError):
    """A class, a name or an id matches nothing in the mirror."""

    code = "nothing_found"


class QueryError(DurafetchError):
    """SQLite refused a query."""

    code = "query"


class DifferentError(DurafetchError):
    """The mirror differs from what it mirrors."""

    code = "different"
    default_hint = "Run `durafetch sync` and verify again; `durafetch sync --full` fetches everything anew."


class PartlyDoneError(DurafetchError):
    """Some objects, or some Workers, could not be mirrored; all others were."""

    code = "partly_done"
    exit_status = 3
    default_hint = "Run the same command again: what failed is tried anew. `durafetch ls --failed` lists it."


class MirrorError(DurafetchError):
    """The mirror file cannot be used."""

    code = "mirror"
    exit_status = 7


class MirrorMissingError(MirrorError):
    """There is no mirror file yet."""

    code = "mirror_missing"
    default_hint = "Run `durafetch sync` first, or name the file with --db."


class NotAMirrorError(MirrorError):
    """The file is something else than a mirror."""

    code = "not_a_mirror"
    default_hint = "Name another file with --db; this one was left as it is."


class MirrorTooNewError(MirrorError):
    """The mirror was made by a later version of Durafetch."""

    code = "mirror_too_new"
    default_hint = "Update: `pip install --upgrade durafetch`."


class MirrorLockedError(MirrorError):
    """Another process holds the mirror's write lock for too long."""

    code = "mirror_locked"
    default_hint = "End the process that is writing to it (an open transaction in a SQLite shell?), then try again."


class MirrorFullError(MirrorError):
    """The disk has no room for the mirror to grow. What was committed before stays."""

    code = "mirror_full"
    default_hint = "Make room on the disk, or name a file on another one with --db, then run the command again."


class MirrorDamagedError(MirrorError):
    """The file is damaged, or its disk fails."""

    code = "mirror_damaged"
    default_hint = "Delete the file and sync again: everything in it can be fetched anew."


class WorkerNameTakenError(MirrorError):
    """The mirror already holds another Worker of this name."""

    code = "worker_name_taken"


def all_errors() -> list[type[DurafetchError]]:
    """Every class of the tree, sorted by exit status and code."""
    found: list[type[DurafetchError]] = [DurafetchError]
    for error in found:
        found += error.__subclasses__()
    return sorted(found, key=lambda error: (error.exit_status, error.code))
