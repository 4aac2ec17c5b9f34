"""A wrangler project: its configuration, its classes, and what `durafetch init` changes in it."""

from __future__ import annotations

import json
import re
import secrets
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from durafetch import jsonc
from durafetch.config import CONFIG_FILE, TOKEN_VARIABLE
from durafetch.errors import UsageError

CONFIG_NAMES: Final = ("wrangler.jsonc", "wrangler.json", "wrangler.toml")
DIRECTORY_CLASS: Final = "DurafetchDirectory"
PACKAGE: Final = "durafetch-server"
PACKAGE_RANGE: Final = "^0.1.0"
MIGRATION_TAG: Final = "durafetch"
DEV_URL: Final = "http://localhost:8787"


@dataclass
class Change:
    """One file to be written: its new text, and what that does."""

    path: Path
    text: str
    what: str
    secret: bool = False


@dataclass
class Plan:
    """What `init` would do: files to write, and lines for a person to change in the entry file."""

    changes: list[Change] = field(default_factory=list)
    entry: Path | None = None
    entry_lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Project:
    """A folder with a wrangler configuration."""

    folder: Path
    config_path: Path
    text: str
    config: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Project:
        """Reads the wrangler configuration in a folder. Raises UsageError where there is none that can be read."""
        for name in CONFIG_NAMES:
            path = folder / name
            if not path.is_file():
                continue
            try:
                text = path.read_text(encoding="utf-8")
                config = tomllib.loads(text) if path.suffix == ".toml" else jsonc.loads(text)
            except (ValueError, OSError) as error:
                raise UsageError(f"{path} cannot be read: {error}.") from None
            if not isinstance(config, dict):
                raise UsageError(f"{path} is not a wrangler configuration.")
            return cls(folder, path, text, config)
        raise UsageError(
            f"{folder} has no wrangler configuration ({', '.join(CONFIG_NAMES)}).",
            "Run it in the Worker's project, or name that folder: durafetch init DIR",
        )

    @property
    def name(self) -> str:
        """The Worker's name."""
        name = self.config.get("name")
        return name if isinstance(name, str) and name else self.folder.resolve().name

    @property
    def classes(self) -> list[str]:
        """The Durable Object classes that the configuration names, Durafetch's own apart."""
        found: dict[str, None] = {}
        for migration in self._migrations:
            for kind in ("new_sqlite_classes", "new_classes"):
                found.update(dict.fromkeys(migration.get(kind, [])))
            for old in migration.get("deleted_classes", []):
                found.pop(old, None)
            for renamed in migration.get("renamed_classes", []):
                found.pop(renamed.get("from"), None)
                found[renamed.get("to")] = None
        for binding in self.config.get("durable_objects", {}).get("bindings", []):
            if "script_name" not in binding:
                found[binding.get("class_name")] = None
        return [name for name in found if isinstance(name, str) and name != DIRECTORY_CLASS]

    @property
    def kv_classes(self) -> set[str]:
        """The classes on the KV backend, as the migrations tell."""
        found: set[str] = set()
        for migration in self._migrations:
            found.update(name for name in migration.get("new_classes", []) if isinstance(name, str))
            for renamed in migration.get("renamed_classes", []):
                if renamed.get("from") in found:
                    found.add(renamed.get("to"))
        return found

    @property
    def _migrations(self) -> list[dict[str, Any]]:
        migrations = self.config.get("migrations", [])
        return [m for m in migrations if isinstance(m, dict)] if isinstance(migrations, list) else []

    @property
    def has_directory(self) -> bool:
        """Whether a migration makes the directory."""
        return any(DIRECTORY_CLASS in migration.get("new_sqlite_classes", []) for migration in self._migrations)

    def plan(self) -> Plan:
        """What has to change for Durafetch. Raises UsageError where a file cannot be read."""
        plan = Plan()
        self._plan_migration(plan)
        self._plan_dependency(plan)
        self._plan_token(plan)
        self._plan_config(plan)
        self._plan_entry(plan)
        return plan

    def _plan_migration(self, plan: Plan) -> None:
        if self.has_directory:
            return
        migration = {"tag": MIGRATION_TAG, "new_sqlite_classes": [DIRECTORY_CLASS]}
        if self.config_path.suffix == ".toml":
            import tomlkit  # only what edits a file needs it, and it takes longer to import than to use

            document = tomlkit.parse(self.text)
            table = tomlkit.table()
            table.update(migration)
            if "migrations" in document:
                document["migrations"].append(table)
            else:
                array = tomlkit.aot()
                array.append(table)
                document.append("migrations", array)
            text = tomlkit.dumps(document)
        elif isinstance(self.config.get("migrations"), list):
            text = jsonc.add(self.text, ["migrations"], None, migration)
        else:
            text = jsonc.add(self.text, [], "migrations", [migration])
        plan.changes.append(Change(self.config_path, text, f"adds the migration for {DIRECTORY_CLASS}"))

    def _plan_dependency(self, plan: Plan) -> None:
        path = self.folder / "package.json"
        if not path.is_file():
            plan.notes.append(f"There is no package.json here: npm install {PACKAGE}")
            return
        text = path.read_text(encoding="utf-8")
        try:
            package = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{path} cannot be read: {error}.") from None
        if PACKAGE in {**package.get("dependencies", {}), **package.get("devDependencies", {})}:
            return
        if isinstance(package.get("dependencies"), dict):
            text = jsonc.add(text, ["dependencies"], PACKAGE, PACKAGE_RANGE)
        else:
            package["dependencies"] = {PACKAGE: PACKAGE_RANGE}
            text = json.dumps(package, indent=2, ensure_ascii=False) + "\n"
        plan.changes.append(Change(path, text, f"adds the dependency {PACKAGE}"))
        plan.notes.append("Then: npm install")

    def _plan_token(self, plan: Plan) -> None:
        path = self.folder / ".dev.vars"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not re.search(rf"^\s*(?:export\s+)?{TOKEN_VARIABLE}\s*=", text, re.MULTILINE):
            text = text if text.endswith("\n") or not text else text + "\n"
            text += f'{TOKEN_VARIABLE}="{secrets.token_hex(32)}"\n'
            plan.changes.append(Change(path, text, "adds a random token for development", secret=True))
        ignore = self.folder / ".gitignore"
        ignored = ignore.read_text(encoding="utf-8") if ignore.is_file() else ""
        lines = {line.strip().lstrip("/") for line in ignored.splitlines()}
        missing = [name for name in (".dev.vars", "*.sqlite", "*.sqlite-*") if name not in lines]
        if ".dev.vars*" in lines and ".dev.vars" in missing:
            missing.remove(".dev.vars")
        if missing:
            start = ignored if ignored.endswith("\n") or not ignored else ignored + "\n"
            what = "keeps the token and the mirror out of git"
            plan.changes.append(Change(ignore, start + "\n".join(missing) + "\n", what))

    def _plan_config(self, plan: Plan) -> None:
        path = self.folder / CONFIG_FILE
        if path.exists():
            return
        import tomlkit

        document = tomlkit.document()
        document.add(tomlkit.comment("Where `durafetch sync` fetches from, and into which file."))
        document["db"] = "durafetch.sqlite"
        source = tomlkit.table()
        source["url"] = DEV_URL
        source["name"] = self.name
        source["token_file"] = ".dev.vars"
        sources = tomlkit.table(is_super_table=True)
        sources["dev"] = source
        document["sources"] = sources
        plan.changes.append(Change(path, tomlkit.dumps(document), "names the development server as a source"))

    def _plan_entry(self, plan: Plan) -> None:
        main = self.config.get("main")
        if not isinstance(main, str):
            plan.notes.append("The wrangler configuration names no entry file (main).")
            return
        plan.entry = self.folder / main
        text = plan.entry.read_text(encoding="utf-8") if plan.entry.is_file() else ""
        plan.entry_lines = entry_lines(text, self.classes)


def entry_lines(text: str, classes: list[str]) -> list[str]:
    """The lines to change in an entry file, as a diff: "+ " adds, "- " takes away. None where all is done."""
    lines: list[str] = []
    wanted = [
        name
        for name, used in (
            ("durafetchObject", any(not _wrapped(text, name) for name in classes)),
            ("durafetchWorker", "durafetchWorker(" not in text),
        )
        if used
    ]
    missing = [name for name in wanted if not re.search(rf"import[^;]*\b{name}\b", text)]
    if missing:
        lines.append(f'+ import {{ {", ".join(missing)} }} from "{PACKAGE}";')
    if DIRECTORY_CLASS not in text:
        lines.append(f'+ export {{ {DIRECTORY_CLASS} }} from "{PACKAGE}";')
    for name in classes:
        if _wrapped(text, name):
            continue
        declared = re.search(
            rf"^[ \t]*export\s+(?:abstract\s+)?class\s+{re.escape(name)}\b([^{{\n]*)", text, re.MULTILINE
        )
        lines.append("")
        if declared:
            lines.append(f"- {declared[0].strip()} {{")
            lines.append(f"+ class {name}Base{declared[1].rstrip()} {{")
        elif passed_on := re.search(
            rf"^[ \t]*export\s*\{{[^}}]*\b{re.escape(name)}\b[^}}]*\}}\s*from\s*(['\"][^'\"]+['\"])", text, re.MULTILINE
        ):
            lines.append(f"- export {{ {name} }} from {passed_on[1]};")
            lines.append(f"+ import {{ {name} as {name}Base }} from {passed_on[1]};")
        else:
            lines.append(f"  (where {name} is declared: call it {name}Base and do not export it as {name})")
        lines.append(f"+ export const {name} = durafetchObject({name}Base);")
    if "durafetchWorker(" not in text:
        lines.append("")
        default = re.search(r"^[ \t]*export\s+default\s+([^\n]*)", text, re.MULTILINE)
        value = default[1].strip() if default else ""
        if value.startswith("class"):
            named = re.match(r"class\s+(?!extends\b)(\w+)", value)
            known = named[1] if named else "App"
            lines += [
                f"- export default {value}",
                f"+ {value}" if named else f"+ {value.replace('class', f'class {known}', 1)}",
            ]
            lines.append(f"+ export default durafetchWorker({known});")
        elif value.startswith("{") or not value:
            lines += ["- export default { ... }", "+ export default durafetchWorker({ ... });"]
        else:
            lines += [f"- export default {value}", f"+ export default durafetchWorker({value.rstrip(';')});"]
    return lines[1:] if lines and lines[0] == "" else lines


def _wrapped(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\s*=\s*durafetchObject\(", text) is not None
