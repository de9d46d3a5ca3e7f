"""SFT's learning rate: a linear warmup of its own length, then a cosine to a tenth."""

from __future__ import annotations

import pytest

from stapo.config.training import SFTConfig
from stapo.errors import ConfigError
from stapo.training.sft import _schedule


def test_warmup_has_the_length_that_is_set():
    config = SFTConfig(steps=30, warmup_steps=10)
    assert [_schedule(step, config, None) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert _schedule(20, config, None) == pytest.approx(0.55)
    assert _schedule(30, config, None) == pytest.approx(0.1)


def test_without_warmup_it_begins_at_the_peak():
    assert _schedule(0, SFTConfig(steps=30, warmup_steps=0), None) == pytest.approx(1.0)


def test_a_negative_warmup_is_refused():
    with pytest.raises(ConfigError, match=r"sft\.warmup_steps is -1"):
        SFTConfig(warmup_steps=-1)
