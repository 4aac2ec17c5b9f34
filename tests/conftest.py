from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from durafetch import Mirror
from scripts.workerd import Runtime
from tests.support import Zoo, zoo_worker

# What a shell starts in the background ignores Ctrl-C, and so would all commands that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Zoo]:
    with Runtime(zoo_worker(bundles), tmp_path_factory.mktemp("zoo") / "state") as runtime:
        yield Zoo(runtime).ready()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror.sqlite") as opened:
        yield opened
