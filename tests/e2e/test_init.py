"""`durafetch init` on projects of every kind of configuration: comments and form stay, and twice is once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from durafetch import jsonc
from durafetch.project import DIRECTORY_CLASS
from tests.support import cli

ENTRY = """import { DurableObject } from "cloudflare:workers";
export class Room extends DurableObject<Env> {
}
export { Cart } from "./cart";
export default {
  async fetch(request, env) { return new Response("hi"); },
};
"""
JSONC = """{
  // the Worker
  "name": "shop", /* inline */
  "main": "src/index.ts",
  "compatibility_date": "2026-11-01",
  "vars": { "URL": "https://example.com/x,]" },
  "migrations": [
    { "tag": "v1", "new_sqlite_classes": ["Room"] }, // first
    { "tag": "v2", "new_classes": ["Cart"] }%s
  ]
}
"""
TOML = """# the Worker
name = "shop"
main = "src/index.ts"   # the entry
compatibility_date = "2026-11-01"

[[migrations]]
tag = "v1"
new_sqlite_classes = ["Room"]

[[migrations]]
tag = "v2"
new_classes = ["Cart"]
"""
CONFIGS = {
    "wrangler.jsonc": JSONC % "",
    "trailing/wrangler.jsonc": (JSONC % ",").replace('"compat', '"unused": null,\n  "compat'),
    "none/wrangler.jsonc": '{\n\t"name": "shop",\n\t"main": "src/index.ts"\n}\n',
    "wrangler.json": json.dumps({"name": "shop", "main": "src/index.ts", "migrations": []}),
    "wrangler.toml": TOML,
    "none/wrangler.toml": 'name = "shop"\nmain = "src/index.ts"\n',
}


@pytest.mark.parametrize("config", CONFIGS)
def test_init(tmp_path: Path, config: str) -> None:
    path = tmp_path / Path(config).name
    path.write_text(CONFIGS[config])
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "index.ts").write_text(ENTRY)
    (tmp_path / "package.json").write_text(
        '{\n    "name": "shop",\n    "dependencies": {\n        "hono": "^4"\n    }\n}\n'
    )
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    dry = cli("init", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0 and {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    done = cli("init", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    parsed = tomllib.loads(text) if path.suffix == ".toml" else jsonc.loads(text)
    assert parsed["migrations"][-1] == {"tag": "durafetch", "new_sqlite_classes": [DIRECTORY_CLASS]}
    # Nothing but the addition: taking its lines away leaves every line that was there, comma apart.
    kept = [line.strip().rstrip(",") for line in CONFIGS[config].splitlines() if path.suffix != ".json"]
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    assert all(line in lines for line in kept)
    package = (tmp_path / "package.json").read_text()
    assert '\n        "hono": "^4",\n        "durafetch-server": ' in package and json.loads(package)
    token = (tmp_path / ".dev.vars").read_text()
    assert len(token.split('"')[1]) == 64
    assert token.split('"')[1] not in done.stdout + done.stderr
    assert ".dev.vars" in (tmp_path / ".gitignore").read_text()
    source = tomllib.loads((tmp_path / "durafetch.toml").read_text())["sources"]["dev"]
    assert source == {"url": "http://localhost:8787", "name": "shop", "token_file": ".dev.vars"}
    if "none" not in config and path.suffix != ".json":
        assert "- export class Room extends DurableObject<Env> {" in done.stdout
        assert "+ class RoomBase extends DurableObject<Env> {" in done.stdout
        assert "+ export const Room = durafetchObject(RoomBase);" in done.stdout
        assert '+ import { Cart as CartBase } from "./cart";' in done.stdout
    assert "+ export default durafetchWorker({ ... });" in done.stdout
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert cli("init", cwd=tmp_path).returncode == 0
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == after


def test_init_where_all_is_done(tmp_path: Path) -> None:
    from scripts.workerd import ROOT

    for name in ("wrangler.jsonc", "package.json", "src/index.ts"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / "examples" / "chat" / name).read_text())
    cli("init", cwd=tmp_path)
    assert "Everything is in place." in cli("init", cwd=tmp_path).stdout


@pytest.mark.parametrize("text", ["", "[]", "{", "nonsense", '{"migrations": 5}'])
def test_broken_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "wrangler.jsonc").write_text(text)
    done = cli("init", cwd=tmp_path)
    assert done.returncode in (0, 2) and (done.returncode == 0 or "error:" in done.stderr)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, /* c */ "b": [1, 2,], // x\n}', {"a": 1, "b": [1, 2]}),
        ('{"s": "// no comment, }"}', {"s": "// no comment, }"}),
        ('\ufeff{"a": "\\"],"}', {"a": '"],'}),
    ],
)
def test_jsonc(text: str, value: object) -> None:
    assert jsonc.loads(text) == value
