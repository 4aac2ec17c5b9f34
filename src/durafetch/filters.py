"""What is mirrored: which classes, objects, tables and keys, by patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec

from durafetch.errors import UsageError

WHATS: Final = ("class", "object", "table", "key")


@lru_cache(maxsize=1000)
def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    """`*` is any text, `?` any one character, all else itself; the same as `server/src/filters.ts`."""
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


class Rule(msgspec.Struct, frozen=True):
    """What is included (everything, where there is no pattern), less what is excluded."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def matches(self, text: str, *, ignore_case: bool = False) -> bool:
        """Whether a text is let through."""
        included = not self.include or any(_compiled(p, ignore_case).fullmatch(text) for p in self.include)
        return included and not any(_compiled(p, ignore_case).fullmatch(text) for p in self.exclude)


class Filters(msgspec.Struct, frozen=True):
    """What of a source is mirrored. An object without a known name is matched by its id."""

    classes: Rule = Rule()
    objects: Rule = Rule()
    tables: Rule = Rule()
    keys: Rule = Rule()

    @classmethod
    def parse(cls, include: Iterable[str], exclude: Iterable[str]) -> Filters:
        """From texts such as `class=Room` and `key=item:*`. Raises UsageError."""
        rules: dict[str, tuple[list[str], list[str]]] = {what: ([], []) for what in WHATS}
        for place, texts in enumerate((include, exclude)):
            for text in texts:
                what, equals, pattern = text.partition("=")
                if not equals or what not in WHATS or not pattern:
                    raise UsageError(
                        f"{text} is not a filter.",
                        "It looks like class=Room, object=lobby*, table=messages or key=item:*",
                    )
                rules[what][place].append(pattern)
        made = [Rule(tuple(sorted(set(i))), tuple(sorted(set(e)))) for i, e in rules.values()]
        return cls(*made)

    def __bool__(self) -> bool:
        return any((self.classes, self.objects, self.tables, self.keys))

    def object_matches(self, class_name: str, id_: str, name: str | None) -> bool:
        """Whether an object is mirrored."""
        return self.classes.matches(class_name) and self.objects.matches(name if name is not None else id_)

    def table_matches(self, name: str) -> bool:
        """Whether a table is mirrored; SQLite's names have no case."""
        return self.tables.matches(name, ignore_case=True)

    @property
    def objects_text(self) -> str:
        """What tells one choice of objects from another; "" for all."""
        return msgspec.json.encode([self.classes, self.objects]).decode() if self.classes or self.objects else ""

    @property
    def contents_text(self) -> str:
        """What tells one choice within objects from another; "" for all."""
        return msgspec.json.encode([self.tables, self.keys]).decode() if self.tables or self.keys else ""

    def wire(self) -> dict[str, Any] | None:
        """`filter` of a pull request; None where nothing is left out."""
        return {"tables": self.tables, "keys": self.keys} if self.contents_text else None


ALL: Final = Filters()
