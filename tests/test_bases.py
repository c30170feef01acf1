"""Every base keeps the contract, and what it makes of a prompt and of audio is what its own processor makes."""

from __future__ import annotations

from typing import Any

import pytest
from bases import BASES, CHECKS

NEW = {name: make for name, make in BASES.items() if name != "qwen2_5_omni"}  # test_conformance.py has that one


@pytest.fixture(scope="module", params=NEW)
def base(request: pytest.FixtureRequest) -> Any:
    return NEW[request.param]()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_base_keeps_the_contract(base: Any, check: Any) -> None:
    check(base)
