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
COG_FILES = ["PROTOCOL.md", "docs/cli.md", "docs/errors.md", "docs/config.md", "docs/cost.md", "docs/performance.md"]


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


def results_table() -> str:
    """What `make bench` measured last."""
    measured = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    machine = measured["machine"]
    rows = ["| benchmark | what | value | limit | ratio | aim | spread |", "|---|---|---|---|---|---|---|"]
    rows += [
        f"| `{r['name']}` | {r['what']} | {r['value']:.3g} {r['unit']} | {r['limit']:.3g} | {r['ratio']:.3g} "
        f"| {r['aim'].replace('<=', '≤')} | {r['spread']:.0%} |"
        for r in measured["benchmarks"]
    ]
    where = f"{machine['cpus']} cores, Python {machine['python']}, SQLite {machine['sqlite']}"
    return "\n".join([f"Measured on {where}, a machine that other work shares.", "", *rows])


ROWS, WRITES, ACTIVE_S, BATCH, PAGE = 100, 20, 0.02, 100, 10_000
"""Of docs/cost.md's example: rows of an object, the app's writes to one that changes, how long a pull keeps it active;
objects in one pull request and in one page of the listing."""


def price_table() -> str:
    """Cloudflare's prices, as src/durafetch/cost.py has them."""
    from durafetch.cost import MEMORY_GB, PRICES_DATE, PRICES_SOURCE, USD_PER_MILLION

    names = {
        "worker_requests": "requests to the Worker", "do_requests": "requests to Durable Objects",
        "rows_read": "rows read (SQLite-backed)", "rows_written": "rows written",
        "read_units": "read units of 4 kB (KV-backed)",
        "duration_s": f"seconds of an active object ({MEMORY_GB * 1000:.0f} MB at $12.50 per million GB-s)",
    }  # fmt: skip
    rows = [f"| {names[name]} | ${price:g} |" for name, price in USD_PER_MILLION.items()]
    return "\n".join([f"As of {PRICES_DATE}, from <{PRICES_SOURCE}>:", "", "| a million | costs |", "|---|---|", *rows])


def cost_table() -> str:
    """What syncs of 1,000 to 10,000,000 objects cost, by the same code that says it after a sync."""
    from durafetch.cost import USD_PER_MILLION, Cost, dollars

    def listing(objects: int, *, news: bool) -> Cost:
        cost = Cost(worker_requests=max(1, -(-objects // PAGE)))
        cost.listed(objects, 1, news=news)
        return cost

    def pulls(objects: int, rows: int) -> Cost:
        cost = Cost(worker_requests=-(-objects // BATCH), duration_s=objects * ACTIVE_S)
        cost.asked(objects)
        cost.read("sqlite", objects * rows)
        return cost

    found = ["| | 1,000 objects | 100,000 objects | 10,000,000 objects |", "|---|---|---|---|"]
    rows: dict[str, list[str]] = {}
    for objects in (1_000, 100_000, 10_000_000):
        changed = objects // 100
        first = listing(objects, news=False) + pulls(objects, ROWS)
        again = listing(changed, news=True) + pulls(changed, ROWS)
        quiet = listing(0, news=True)
        log = changed * WRITES * USD_PER_MILLION["rows_written"] / 1e6
        for name, usd in (
            ("first sync", first.usd), ("a sync when nothing changed", quiet.usd),
            ("a sync when 1% of the objects changed", again.usd), ("the same each hour, for 30 days", again.usd * 720),
            (f"a change log instead: a row more for each of {WRITES} writes to an object that changes, for 30 days", log * 720),
        ):  # fmt: skip
            rows.setdefault(name, []).append(dollars(usd))
    return "\n".join(found + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


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
