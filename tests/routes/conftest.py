"""A server with the repository's models and the sample user folders, which the tests of the routes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import MODELS, PROCESSES, ROUTES


@pytest.fixture(scope="package")
def server() -> Iterator[InProcessServer]:
    with serving(models=MODELS, processes=PROCESSES, routes=ROUTES) as started:
        yield started
