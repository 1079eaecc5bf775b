"""The services that keyrings ask: started once, and only for the tests that need them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crypto.services import Aws, Hsm, running_aws, running_hsm


@pytest.fixture(scope="session")
def aws_server() -> Iterator[Aws]:
    with running_aws() as aws:
        yield aws


@pytest.fixture
def aws(aws_server: Aws) -> Iterator[Aws]:
    """moto's AWS, which neither fails nor waits, and has counted nothing yet."""
    aws_server.seen.clear()
    aws_server.contexts.clear()
    yield aws_server
    aws_server.fault = lambda _: None
    aws_server.gate.set()


@pytest.fixture(scope="session")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hsm]:
    with running_hsm(tmp_path_factory) as made:
        yield made
