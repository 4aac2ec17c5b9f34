"""Writes what is generated from one source: limits, error codes, the CLI reference.

`python scripts/generate.py` rewrites the generated parts; `--check` fails where one is stale. Parts of Markdown
files stand between cog's marks (https://cog.readthedocs.io).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS = ROOT / "protocol" / "limits.json"
COG_FILES = ["PROTOCOL.md", "docs/cli.md", "docs/errors.md", "docs/config.md"]


def limits() -> dict[str, dict[str, str | int]]:
    """The protocol's limits: name to {value, unit, what}."""
    loaded: dict[str, dict[str, str | int]] = json.loads(LIMITS.read_text())
    return loaded


def typescript_limits() -> str:
    lines = ["// Generated from protocol/limits.json by scripts/generate.py. Do not edit.", ""]
    for name, limit in limits().items():
        unit = f" ({limit['unit']})" if limit["unit"] else ""
        lines += [f"/** {str(limit['what'])[0].upper()}{str(limit['what'])[1:]}{unit}. */"]
        lines += [f"export const {name} = {limit['value']};"]
    return "\n".join(lines) + "\n"


def python_limits() -> str:
    lines = ['"""The protocol\'s limits. Generated from protocol/limits.json by scripts/generate.py."""', ""]
    for name, limit in limits().items():
        unit = f" ({limit['unit']})" if limit["unit"] else ""
        lines += [
            f"{name} = {limit['value']:_}",
            f'"""{str(limit["what"])[0].upper()}{str(limit["what"])[1:]}{unit}."""',
        ]
    return "\n".join(lines) + "\n"


def markdown_limits() -> str:
    rows = ["| limit | value | what |", "|---|---|---|"]
    rows += [f"| `{n}` | {limit['value']} {limit['unit']} | {limit['what']} |" for n, limit in limits().items()]
    return "\n".join(rows)


def cli_reference() -> str:
    """What every command's --help says."""
    import click

    from durafetch.cli import COMMANDS, cli

    parts = []
    context = click.Context(cli, info_name="durafetch", terminal_width=100, max_content_width=100)
    parts.append(f"```text\n{cli.get_help(context)}\n```")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, terminal_width=100, max_content_width=100)
        parts.append(f"## durafetch {name}\n\n```text\n{command.get_help(inner)}\n```")
    return "\n\n".join(parts)


def error_table() -> str:
    """Every error of the tree."""
    from durafetch.errors import all_errors

    rows = ["| code | exit status | means |", "|---|---|---|"]
    rows += [f"| `{e.code}` | {e.exit_status} | {(e.__doc__ or '').splitlines()[0]} |" for e in all_errors()]
    return "\n".join(rows)


def config_table() -> str:
    """Every setting of durafetch.toml."""
    from durafetch.config import SETTINGS

    return "\n".join(
        ["| setting | what |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in SETTINGS.items())]
    )


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale: list[str] = []
    for path, text in (
        (ROOT / "server" / "src" / "limits.ts", typescript_limits()),
        (ROOT / "src" / "durafetch" / "limits.py", python_limits()),
    ):
        if not path.exists() or path.read_text() != text:
            if check:
                stale.append(str(path.relative_to(ROOT)))
            else:
                path.write_text(text)
    files = [name for name in COG_FILES if (ROOT / name).exists()]
    arguments = ["--check", "--diff"] if check else ["-r"]
    command = [sys.executable, "-m", "cogapp", "-I", str(ROOT / "scripts"), *arguments, *files]
    status = subprocess.run(command, cwd=ROOT).returncode
    for name in stale:
        print(f"stale: {name} (run: make generate)", file=sys.stderr)
    return 1 if stale or status else 0


if __name__ == "__main__":
    sys.exit(main())
