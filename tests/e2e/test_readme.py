"""The README's library example runs, and its promises about files hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from scripts.workerd import ROOT
from tests.support import TOKEN, Zoo


def test_the_library_example(zoo: Zoo, tmp_path: Path) -> None:
    zoo.run("Zoo", "readme", ["put", "a", 1])
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    env = {**os.environ, "WORKER_URL": zoo.url, "DURAFETCH_TOKEN": TOKEN}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Zoo 1" in done.stdout and "1 of 1" in done.stdout


def test_links_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "examples" / "chat" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
