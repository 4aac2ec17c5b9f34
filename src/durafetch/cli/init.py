"""`durafetch init`: adds Durafetch to a wrangler project."""

from __future__ import annotations

from pathlib import Path

import click

from durafetch.cli import output
from durafetch.errors import DurafetchError
from durafetch.project import Plan, Project


@click.command(
    short_help="Add Durafetch to a wrangler project.",
    epilog="""\b
Examples:
  durafetch init              in the Worker's project
  durafetch init ../chat --dry-run
""",
)
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False, exists=True), default=".")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def init(folder: Path, dry_run: bool) -> None:
    """Add Durafetch to the wrangler project in DIR (default: this folder).

    Adds the dependency, the migration, a token for development and durafetch.toml, and prints the lines to change in
    the entry file. Comments and formatting stay as they are; running it again changes nothing more.
    """
    project = Project.open(folder)
    plan = project.plan()
    for change in plan.changes:
        verb = "would write" if dry_run else "wrote"
        if not dry_run:
            try:
                change.path.write_text(change.text, encoding="utf-8")
                if change.secret:
                    change.path.chmod(0o600)
            except OSError as error:
                raise DurafetchError(f"{change.path} cannot be written: {error.strerror}.") from None
        click.echo(f"{verb} {change.path}: {change.what}")
    _print_rest(plan)


def _print_rest(plan: Plan) -> None:
    if not plan.changes and not plan.entry_lines:
        click.echo("Everything is in place.")
    if plan.entry_lines:
        click.echo(f"\nNow change these lines in {plan.entry}:\n")
        for line in plan.entry_lines:
            click.echo(output.safe(f"  {line}".rstrip()))
    if plan.notes:
        click.echo("")
    for note in plan.notes:
        click.echo(note)
    if plan.changes or plan.entry_lines:
        click.echo(
            "\nStart the Worker (npx wrangler dev), use it once, then: durafetch sync"
            "\nIn production: npx wrangler secret put DURAFETCH_TOKEN, and a source with its address in durafetch.toml."
        )
