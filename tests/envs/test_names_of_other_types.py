"""Names that are no text, in every environment: the error for an unknown name, as for a text that names nothing."""

from __future__ import annotations

import pytest

from stapo.algo import get_algorithm
from stapo.envs.protocol import tasks_in
from stapo.envs.registry import make
from stapo.errors import UnknownNameError

SMALL = {
    "alfworld": {"scenes": "tiny", "games_per_type": 2},
    "search": {},
    "sokoban": {"levels": 20},
    "webshop": {"size": "tiny", "catalog_products": 10},
}
NO_TEXTS = (3, None, ["train"], {"a": 1})


@pytest.mark.parametrize("name", SMALL)
def test_tasks_and_splits_that_are_no_texts_are_unknown(name):
    env = make(name, **SMALL[name])
    for wrong in NO_TEXTS:
        with pytest.raises(UnknownNameError, match=r"unknown (task|generated game)"):
            env.reset(wrong)
        with pytest.raises(UnknownNameError, match="unknown split"):
            env.tasks_of(wrong)
        if wrong is not None:
            with pytest.raises(UnknownNameError, match="unknown split"):
                tasks_in(env, wrong)


@pytest.mark.parametrize("wrong", NO_TEXTS)
def test_names_in_registries_that_are_no_texts_are_unknown(wrong):
    with pytest.raises(UnknownNameError, match=f"unknown environment .*which is {type(wrong).__name__}, not a text"):
        make(wrong)
    with pytest.raises(UnknownNameError, match="unknown algorithm"):
        get_algorithm(wrong)
