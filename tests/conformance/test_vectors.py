"""The cases of protocol/vectors, run by the client; server/test/vectors.test.ts runs the same files."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import zlib
from typing import Any

import msgspec
import pytest

from durafetch import frames
from durafetch.errors import ProtocolError
from durafetch.filters import Rule
from durafetch.values import ValueFormatError, projection
from scripts.workerd import ROOT
from tests.support import TOKEN, Zoo


def vectors(name: str) -> Any:
    return json.loads((ROOT / "protocol" / "vectors" / f"{name}.json").read_text())


@pytest.mark.parametrize("case", vectors("values")["values"], ids=lambda case: case["name"])
def test_values(case: dict[str, Any]) -> None:
    text = projection(case["devalue"]) if "devalue" in case else case["json"]
    assert json.loads(text) == case["projection"]


@pytest.mark.parametrize("text", vectors("values")["not_devalue"])
def test_what_is_not_devalue(text: str) -> None:
    with pytest.raises(ValueFormatError):
        projection(text)


@pytest.mark.parametrize("line", vectors("frames")["lines"])
def test_frames(line: str) -> None:
    frame = frames.decode_frame(line.encode())
    assert json.loads(msgspec.json.encode(frame)).items() >= json.loads(line).items()


@pytest.mark.parametrize("line", vectors("frames")["not_frames"])
def test_what_is_not_a_frame(line: str) -> None:
    with pytest.raises(ProtocolError):
        frames.decode_frame(line.encode())


@pytest.mark.parametrize(("text", "checksum"), vectors("frames")["checksums"])
def test_checksums(text: str, checksum: int) -> None:
    assert zlib.crc32(text.encode()) == checksum


@pytest.mark.parametrize(("cell", "value"), vectors("cells")["cells"])
def test_cells(cell: list[Any], value: Any) -> None:
    expected = bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
    found = frames.untag(cell)
    assert (found, cell[0] == "text") == (expected, isinstance(found, str | frames.InvalidText))


@pytest.mark.parametrize("cell", vectors("cells")["not_cells"])
def test_what_is_not_a_cell(cell: list[Any]) -> None:
    with pytest.raises(ProtocolError):
        frames.untag(cell)


@pytest.mark.parametrize("case", vectors("patterns")["patterns"], ids=lambda case: f"{case['pattern']} {case['text']}")
def test_patterns(case: dict[str, Any]) -> None:
    assert Rule(include=(case["pattern"],)).matches(case["text"]) == case["matches"]
    assert Rule(exclude=(case["pattern"],)).matches(case["text"]) != case["matches"]


def test_keys() -> None:
    keys = vectors("keys")["in_order"]
    assert sorted(keys) == keys


@pytest.mark.parametrize("case", vectors("requests")["refused"], ids=lambda case: case["name"])
def test_requests_that_are_refused(zoo: Zoo, case: dict[str, Any]) -> None:
    token = None if case["token"] is None else case["token"].replace("TOKEN", TOKEN)
    request = urllib.request.Request(
        f"{zoo.url}/__durafetch/{case['path']}",
        case["body"].encode() if "body" in case else None,
        {} if token is None else {"Authorization": f"Bearer {token}"},
        method=case["method"],
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    error = json.loads(caught.value.read())["error"]
    assert (caught.value.code, error["code"]) == (case["status"], case["code"])
    assert error["message"] and TOKEN not in error["message"]


def test_a_body_that_is_too_large(zoo: Zoo) -> None:
    body = b'{"seed":"0123456789abcdef","objects":[' + b" " * (33 * 1024 * 1024) + b"]}"
    request = urllib.request.Request(f"{zoo.url}/__durafetch/v1/pull", body, {"Authorization": f"Bearer {TOKEN}"})
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as caught:
        urllib.request.urlopen(request)
    if isinstance(caught.value, urllib.error.HTTPError):
        assert json.loads(caught.value.read())["error"]["code"] == "too_large"
