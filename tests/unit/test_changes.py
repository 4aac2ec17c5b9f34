"""How a change is shown: only what differs, on one line, harmless to a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durafetch.cli.changes import Filter, Style, difference, show_changes
from durafetch.mirror import Change

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=2), inner, max_size=4)),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ({"ann": "away"}, {"ann": "here"}, '{"ann": "away" → "here"}'),
        ({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "d": 3}, '{"a": {"c": 2 → 4}}'),
        ({"old": 1, "same": 2}, {"same": 2, "new": [3]}, '{-"old", +"new": [3]}'),
        ([1, 2, 3], [1, 3], "[-1]"),
        ([1, 2], [1, 2, 3], "[+2: 3]"),
        ([{"n": 1}, {"n": 2}], [{"n": 1}, {"n": 5}], '[1: {"n": 2 → 5}]'),
        (1, "1", '1 → "1"'),
        (1, 1.0, "1 → 1.0"),
        (1, True, "1 → true"),
        ({"a": 1}, [1], '{"a": 1} → [1]'),
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, '{"a": 1, "b": 2} → {"b": 2, "a": 1}'),
    ],
)
def test_only_what_differs(before: Any, after: Any, shown: str) -> None:
    assert difference(before, after) == shown


@given(JSON, JSON)
def test_something_is_shown_where_something_differs(before: Any, after: Any) -> None:
    same = json.dumps(before) == json.dumps(after)
    assert (difference(before, after) == "") == same
    assert difference(before, before) == ""


def change(kind: str, key: Any, before: Any, after: Any, **other: Any) -> Change:
    operation = "insert" if before is None else "delete" if after is None else "update"
    fields = {
        "change_id": 1, "at": "2026-11-23T12:04:31.220Z", "worker_name": "w", "class_name": "Room", "id": "ab" * 32,
        "name": "lobby", "kind": kind, "table_name": None, "key": key, "operation": operation,
        "before": None if before is None else json.dumps(before), "after": None if after is None else json.dumps(after),
        "do_id": 1, **other,
    }  # fmt: skip
    return Change(**fields)


def shown(*changes: Change, width: int = 100, **options: Any) -> list[str]:
    return list(show_changes(changes, Style(False, width), **options))[1:]


def test_lines() -> None:
    lines = shown(
        change("table", 41, None, {"id": 41, "author": "ann", "text": "hi there", "at": 1795435471000, "n": None}, table_name="messages"),
        change("table", 41, {"id": 41, "text": "a", "json": '{"x": 1, "y": 2}'}, {"id": 41, "text": "b", "json": '{"x": 1, "y": 3}'}, table_name="messages"),
        change("table", '["a",1]', {"k": 1}, None, table_name="messages"),
        change("kv", "typing:ann", True, None),
        change("kv", "blob", None, {"hex": "00FF"}),
        change("alarm", None, None, "2026-11-23T12:05:31.220Z"),
        change("alarm", None, "2026-11-23T12:05:31.220Z", None),
        change("schema", "by_at", None, "CREATE INDEX by_at\n  ON messages(at)", table_name="messages"),
    )  # fmt: skip
    assert lines == [
        '  + messages  #41         author=ann  text="hi there"  at=2026-11-23T12:04:31Z  n=null',
        '  ~ messages  #41         text=a → b  json={"y": 2 → 3}',
        '  - messages  ["a",1]',
        "  - kv        typing:ann",
        "  + kv        blob        x'00ff'",
        "  ⏰ alarm     in 60 s",
        "  ⏰ alarm     off",
        "  + schema    by_at       CREATE INDEX by_at ON messages(at)",
    ]


def test_control_characters_are_harmless_and_long_lines_cut() -> None:
    nasty = "\x1b]0;title\x07\x9b31m\u202e\r\n\t"
    lines = show_changes(
        [change("kv", nasty, None, nasty, name=nasty, class_name=nasty), change("kv", "long", None, "é日" * 200)],
        Style(False, 60),
    )
    for line in lines:
        assert not [c for c in line if c in "\x1b\x07\x9b\u202e\r\n\t"], line
        assert len(line) <= 60 or "title" in line


def test_many_lines_are_counted() -> None:
    many = [change("kv", f"k{n}", None, n) for n in range(1000)]
    assert len(shown(*many)) == 40 and shown(*many)[-1] == "  … and 961 more"
    assert len(shown(*many, all_lines=True)) == 1000


def test_filter() -> None:
    one = change("table", 41, None, {}, table_name="Messages")
    for text, matches in (
        ("", True), ("room", True), ("LOBBY", True), ("messages", True), ("41", True), ("abab", True), ("m*s", True),
        ("cart", False), ("*x*", False),
    ):  # fmt: skip
        assert Filter(text).matches(one) == matches, text
