"""Stored bytes read in Python against the server functions' own code, run by Node.js, on random values of every type."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from durafetch import devalue, v8
from scripts.workerd import ROOT, bundle

COUNT = int(os.environ.get("EXAMPLES") or 12) * 500


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("oracle") / "oracle.mjs"
    return bundle(ROOT / "tests" / "conformance" / "values_oracle.ts", out, "--platform=node")


@pytest.mark.parametrize("seed", [1, 20261123])
def test_random_values(oracle: Path, seed: int) -> None:
    done = subprocess.run(
        [ROOT / ".venv/bin/node", "--no-warnings", oracle, str(seed), str(COUNT)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    kinds = {"json": 0, "devalue": 0}
    for line in done.stdout.rstrip("\n").split("\n"):
        case = json.loads(line)
        text, typed = devalue.encode(v8.deserialize(bytes.fromhex(case["stored"])))
        kinds["json" if typed is None else "devalue"] += 1
        assert (text if typed is None else typed) == case.get("json", case.get("devalue")), case["stored"]
    assert min(kinds.values()) > COUNT / 20, kinds


def test_numbers_and_dates_as_javascript_writes_them() -> None:
    numbers = [m * 10.0**e for e in range(-330, 309, 7) for m in (1, 1.5, 9.999999999999999, 1.2345678901234567)]
    numbers += [2.0**n for n in range(-60, 90)] + [2.0**n + 1 for n in range(50, 70)] + [1 / 3, 0.1 + 0.2, 123456.789]
    numbers = [n for number in numbers for n in (number, -number) if abs(number) < float("inf")]
    dates = [0, 1, -1, 1.5, 8.64e15, -8.64e15, 8.64e15 + 1, -62167219200000, -62167219200001, 253402300799999,
             253402300800000, 951782400000, 1709164800000, -1e13, 4e13]  # fmt: skip
    script = (
        "const {numbers, dates} = JSON.parse(require('fs').readFileSync(0));"
        "const iso = (d) => isNaN(d) ? '' : d.toISOString();"
        "console.log(JSON.stringify({numbers: numbers.map((n) => String(Number(n))), dates: dates.map((d) => iso(new Date(d)))}))"
    )
    done = subprocess.run(
        [ROOT / ".venv/bin/node", "-e", script], input=json.dumps({"numbers": [repr(n) for n in numbers], "dates": dates}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = json.loads(done.stdout)
    assert [devalue.js_number(n) for n in numbers] == expected["numbers"]
    assert [devalue.iso_date(d) for d in dates] == expected["dates"]
