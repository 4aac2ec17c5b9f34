"""The command line: each command says what to do and prints what happened."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings

import click

from durafetch.errors import DurafetchError
from durafetch.version import __version__

COMMANDS = {
    "dev": "dev", "init": "init", "sync": "syncing", "log": "log", "watch": "watch", "discover": "discover", "query": "reading", "ls": "reading", "show": "reading", "schema": "reading",
    "verify": "syncing", "doctor": "doctor",
}  # fmt: skip
"""Each command and the module of this package that has it; imported when the command is used."""

EXIT_STATUSES = """
Exit statuses: 0 all well; 1 failure; 2 usage; 3 partly done (some objects or Workers failed); 4 not authorized;
5 unreachable; 6 incompatible; 7 mirror locked, full or damaged; 130 interrupted.
"""


class LazyGroup(click.Group):
    """Imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"durafetch.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_STATUSES)
@click.version_option(__version__, message="durafetch %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
def cli(debug: bool) -> None:
    """Mirror every Cloudflare Durable Object you have into one SQLite database, and query it with SQL."""
    click.get_current_context().obj = debug


def main() -> None:
    """The entry point: runs the command line and ends the process with its exit status."""
    from durafetch.cli import output

    debug = "--debug" in sys.argv[1:]
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
        status = 0
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = 2
    except (KeyboardInterrupt, click.Abort):
        if not debug:
            # What was interrupted half-way complains when it is cleared away; nobody can do anything about that.
            sys.unraisablehook = lambda _: None
            warnings.simplefilter("ignore")
        output.say("\nInterrupted. What was committed before stays; run the command again to go on.")
        status = 130
    except BrokenPipeError:
        # The reader of our output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except DurafetchError as error:
        if debug:
            traceback.print_exc()
        output.print_error(error)
        status = error.exit_status
    except Exception as error:
        if debug:
            traceback.print_exc()
        output.print_error(
            DurafetchError(
                f"This is a defect of Durafetch: {type(error).__name__}: {error}",
                "Please report it, with what `durafetch --debug ...` prints.",
            )
        )
        status = 1
    sys.exit(status)
