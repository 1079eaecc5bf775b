"""A ride service in a folder, made once and copied for each test."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.program import Project, copy_of, make_project

# A shell has what it starts in the background ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("cli") / "rides")


@pytest.fixture
def project(made_once: Project, tmp_path: Path) -> Project:
    """A project of this test's own: 30 trips, 20 riders with four fields each are due."""
    return copy_of(made_once, tmp_path / "rides")
