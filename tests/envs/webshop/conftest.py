from __future__ import annotations

import pytest

from stapo.envs.webshop.env import WebShopEnv


@pytest.fixture(scope="session")
def real_shop(shared):
    """The 1,000 products of the original, with room for the longest recorded transcript."""
    return WebShopEnv(products=shared / "data" / "webshop" / "items_shuffle_1000.json", max_steps=1_000)
