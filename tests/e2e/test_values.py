"""Every type of value that storage accepts: stored bytes against what the mirror kept, and its readable JSON."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from durafetch import Mirror, sync_sources
from scripts.workerd import ROOT, Runtime
from tests.support import WORKERS, Oracle, Zoo, synced, zoo_worker

NAMES = re.findall(r"^  (\w+): \(\) =>", (WORKERS / "values.ts").read_text(), re.MULTILINE)
PROJECTIONS: dict[str, Any] = {
    "null": None, "undefined": None, "true": True, "zero": 0, "negativeZero": 0, "nan": "NaN", "infinity": "Infinity",
    "negativeInfinity": "-Infinity", "large": 2**53 + 2, "tiny": 5e-324, "real": 0.1 + 0.2, "bigint": str(2**70),
    "smallBigint": -5, "string": 'é "quotes" \\ \u2028 😀', "empty": "", "nul": "a\0b", "lone": "x\ufffdy",
    "latin1": "naïve",
    "object": {"email": "ann@example.com", "tags": ["a", "b"], "nested": {"deep": {"er": None}}},
    "withDate": {"email": "ann@example.com", "at": "2023-11-14T22:13:20.123Z"}, "badDate": None,
    "undefinedIn": {"a": None, "b": [None, 1]}, "sparse": [1, None, None, None, None, 2],
    "verySparse": {"4000000000": "far"}, "withProperties": [1, 2],
    "map": {"a": 1, "b": "1970-01-01T00:00:00.000Z"},
    "mapOddKeys": [[1, "one"], [{"k": 1}, "object"], ["s", [1, "2"]]], "set": [1, "two", {"three": 3}],
    "regexp": "/a+\\/b/giu", "boxedNumber": 5, "boxedString": "s", "boxedBoolean": False, "boxedBigint": 9,
    "error": {"name": "TypeError", "message": "broken"}, "rangeError": {"name": "RangeError", "message": "out of range"},
    "arrayBuffer": "AP8B", "dataView": "AwQF", "uint8": "AQL6", "uint8Part": "AgME", "clamped": "Af8=", "int8": "/wE=",
    "int16": [-300, 300], "uint16": [65535], "int32": [-70000], "uint32": [4294967295], "float32": [0.5, "NaN"],
    "float64": [0.1, "-Infinity"], "bigint64": [-(2**63)], "biguint64": [str(2**64 - 1)],
    "shared": {"one": {"a": 1}, "two": {"a": 1}}, "cycle": {"name": "ouroboros", "self": "[...]"},
    "proto": {"__proto__": {"x": 1}, "y": 2}, "numericKeys": {"1": "a", "2": "b", "-1": "c"},
    "long": "0123456789" * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("cls", ["Zoo", "Old"])
def test_every_value_arrives_without_loss(zoo: Zoo, mirror: Mirror, cls: str) -> None:
    # storage.put() refuses undefined, storage.kv.put() takes it.
    steps = [["put", name, f"${name}"] for name in NAMES if name != "undefined"]
    if cls == "Zoo":
        steps.append(["kv.put", "undefined", "$undefined"])
    id, results = zoo.call(cls, "values", *steps, ["sync"])
    assert not [r for r in results if r and "error" in r]
    synced(mirror, zoo.source())
    entries = mirror.dump(mirror.find(cls, "values")).entries
    oracle = Oracle(zoo.file(cls, id))
    assert [key for key, _, _ in entries] == list(oracle.entries)
    cases = [
        {"key": key, "stored": oracle.entries[key].hex(), "val": val, "devalue": devalue}
        for key, val, devalue in entries
    ]
    done = subprocess.run(
        [ROOT / ".venv/bin/node", "--no-warnings", ROOT / "tests/e2e/compare_values.mjs"],
        input=json.dumps(cases), capture_output=True, text=True, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["differing"] == {}
    assert set(report["skipped"]) == {"error", "rangeError"}
    for key, val, _ in entries:
        if key != "deep":
            assert json.loads(val) == PROJECTIONS[key], key


def test_every_projection_can_be_queried(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "queried", *[["put", name, f"${name}"] for name in NAMES])
    synced(mirror, zoo.source())
    query = "SELECT key, val ->> '$.email' FROM kv WHERE name = 'queried' AND val ->> '$.email' IS NOT NULL ORDER BY 1"
    assert list(mirror.query(query)) == [("object", "ann@example.com"), ("withDate", "ann@example.com")]
    assert list(mirror.query("SELECT count(*) FROM kv WHERE NOT json_valid(val)")) == [(0,)]


def test_an_error_keeps_its_parts(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "error", ["put", "error", "$error"])
    synced(mirror, zoo.source())
    [(_, _, devalue)] = mirror.dump(mirror.find("Zoo", "error")).entries
    assert devalue is not None
    parts = json.loads(devalue)
    assert {"TypeError", "broken", "cause"} <= {part for part in parts if isinstance(part, str)}
    assert any(isinstance(part, dict) and parts[part.get("code", 0)] == 7 for part in parts)
    assert any(isinstance(part, str) and "worker.js" in part for part in parts), "the stack"


@pytest.mark.parametrize("cls", ["Zoo", "Old"])
def test_keys(zoo: Zoo, mirror: Mirror, cls: str) -> None:
    keys = ["", "a\0b", "ünï", "😀", "\ue000", "é" * 500, "'quote\"", "../x", "sqlite_x", "z" * 2000]
    id, _ = zoo.call(cls, "keys", *[["put", key, key] for key in keys], ["sync"])
    synced(mirror, zoo.source())
    assert [key for key, _, _ in mirror.dump(mirror.find(cls, "keys")).entries] == sorted(keys)
    assert sorted(Oracle(zoo.file(cls, id)).entries) == sorted(keys)


@pytest.mark.parametrize("cls", ["Zoo", "Old"])
def test_changed_entries_move_little(zoo: Zoo, mirror: Mirror, cls: str) -> None:
    zoo.run(cls, "many", ["many", 3000, 100], ["sync"])
    first = synced(mirror, zoo.source())
    zoo.run(cls, "many", ["put", "k001500", "changed"], ["delete", "k002000"], ["put", "k0015005", "between"], ["sync"])
    second = synced(mirror, zoo.source())
    assert (second.total("upserted"), second.total("deleted")) == (2, 1)
    assert second.total("bytes") < first.total("bytes") / 5
    assert mirror.find(cls, "many").entries == 3000
    zoo.run(cls, "many", ["deleteAll"])
    third = synced(mirror, zoo.source())
    assert third.total("deleted") == 3000
    assert mirror.find(cls, "many").entries == 0


@pytest.mark.parametrize("cls", ["Zoo", "Old"])
def test_alarms(zoo: Zoo, mirror: Mirror, cls: str) -> None:
    zoo.run(cls, "alarm", ["setAlarm", 4102444800123])
    synced(mirror, zoo.source())
    assert mirror.find(cls, "alarm").alarm_at == "2100-01-01T00:00:00.123Z"
    zoo.run(cls, "alarm", ["deleteAlarm"])
    synced(mirror, zoo.source())
    assert mirror.find(cls, "alarm").alarm_at is None


def test_a_value_that_the_runtime_cannot_read(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    """The object fails with a message that says where, the others go on, and the app can go on writing."""
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        zoo = Zoo(runtime)
        zoo.run("Zoo", "poisoned", ["put", "a", 1], ["put", "b", "$unreadable"], ["put", "c", 1])
        zoo.run("Zoo", "fine", ["put", "a", 1])
        result = sync_sources(mirror, [zoo.source()])
        assert (result.total("failed"), result.total("changed")) == (1, 1)
        assert 'The entry after "a" holds a value' in result.sources[0].failures[0].message
        assert zoo.run("Zoo", "poisoned", ["put", "d", 1], ["get", "d"]) == [None, 1]
        zoo.run("Zoo", "poisoned", ["delete", "b"])
        synced(mirror, zoo.source())
        assert [key for key, _, _ in mirror.dump(mirror.find("Zoo", "poisoned")).entries] == ["a", "c", "d"]


def test_long_texts_of_pairs(zoo: Zoo, mirror: Mirror) -> None:
    """Characters of four bytes, so that one of them stands wherever the server looks at a text piece by piece."""
    texts = {f"{n}": "x" * n + "😀" * 10_000 for n in range(3)}
    zoo.run("Zoo", "pairs", *[["put", key, text] for key, text in texts.items()])
    synced(mirror, zoo.source())
    entries = mirror.dump(mirror.find("Zoo", "pairs")).entries
    assert {key: json.loads(val) for key, val, _ in entries} == texts
