"""An object in memory: does what a Durable Object would do with the steps of tests/workers/zoo.ts."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from tests.oracle.state import State, of_tables
from tests.oracle.values import Request, ValueOracle

Step = list[Any]


class ModelObject:
    """Entries in a dict, tables in a SQLite database in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, Request] = {}
        self.alarm: int | None = None
        self.db = self._empty()

    @staticmethod
    def _empty() -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.text_factory = bytes
        # As workerd has it: https://github.com/cloudflare/workerd/blob/main/src/workerd/util/sqlite.c++
        db.execute("PRAGMA foreign_keys = ON")
        return db

    def run(self, *steps: Step) -> list[bool]:
        """Does steps; says of each whether it succeeded."""
        return [self._step(step) for step in steps]

    def _step(self, step: Step) -> bool:
        match step:
            case ["put", dict(pairs)]:
                for key, value in pairs.items():
                    self._put(key, value)
            case ["put", key, value]:
                self._put(key, value)
            case ["delete", key]:
                self.entries.pop(key, None)
            case ["many", count, size, prefix]:
                for n in range(count):
                    self._put(f"{prefix}{n:06d}", "x" * size + str(n))
            case ["sql", text, *arguments]:
                try:
                    self.db.execute(text, [_bound(argument) for argument in arguments]).fetchall()
                except sqlite3.Error:
                    return False
            case ["transaction", steps, ending]:
                return self._transaction(steps, ending)
            case ["setAlarm", at]:
                self.alarm = at
            case ["deleteAlarm"]:
                self.alarm = None
            case ["deleteAll"]:
                self.entries.clear()
                self.alarm = None
                self.db.close()
                self.db = self._empty()
            case ["sync" | "get" | "getAlarm", *_]:
                pass
            case _:
                raise AssertionError(step)
        return True

    def _put(self, key: str, value: Any) -> None:
        special = isinstance(value, str) and value.startswith("$")
        self.entries[key] = ("name", value[1:]) if special else ("json", json.dumps(value))

    def _transaction(self, steps: list[Step], ending: str) -> bool:
        before = dict(self.entries), self.alarm
        self.db.execute("SAVEPOINT model")
        # What fails in a transaction is thrown out of it, as `ending` may be.
        thrown = not all(self._step(step) for step in steps) or ending == "throw"
        if thrown or ending != "commit":
            self.entries, self.alarm = before
            self.db.execute("ROLLBACK TO model")
        self.db.execute("RELEASE model")
        return not thrown

    def state(self, values: ValueOracle) -> State:
        """All that it holds."""
        keys = sorted(self.entries, key=str.encode)
        texts = values.texts([self.entries[key] for key in keys])
        return State(tuple(zip(keys, texts, strict=True)), *of_tables(self.db), self.alarm)


def _bound(argument: Any) -> Any:
    if isinstance(argument, dict):
        return bytes.fromhex(argument["hex"]) if "hex" in argument else float(argument["real"])
    return argument
