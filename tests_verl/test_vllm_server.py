"""`stapo verl` with verl's own vLLM server, on vLLM's build for a CPU: weights go there and come back as samples.

Needs vLLM in the environment of verl (`make test-verl`); without it this is left out.
"""

from __future__ import annotations

import pytest

from started import Started, assert_healthy, metrics_of

pytest.importorskip("vllm", reason="vLLM's build for a CPU is not in this environment")


def test_iterations_with_verls_own_server(tmp_path):
    log = Started(tmp_path, server="vllm").finish()
    for step in (1, 2):
        assert_healthy(metrics_of(log, step))
