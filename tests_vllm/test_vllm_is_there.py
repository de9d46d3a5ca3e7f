"""Where vLLM is missing, this says why everything else here is left out."""

import pytest


def test_vllm_is_there():
    pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")
