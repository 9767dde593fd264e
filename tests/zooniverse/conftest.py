"""A small sandbox, a log-in that does not wait long, and a switch for faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.zooniverse.session import Session


@pytest.fixture
def box(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox(galaxies=3)


@pytest.fixture
def session(box: Sandbox) -> Session:
    return Session(box.urls["panoptes"], timeout=5, pause=0.01)


@pytest.fixture
def fault(box: Sandbox) -> Callable[..., None]:
    def switch_on(**rule: Any) -> None:
        requests.post(f"{box.urls['panoptes']}/sandbox/faults", json=rule, timeout=5)

    return switch_on
