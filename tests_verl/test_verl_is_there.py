"""Where verl is missing, this says why everything else here is left out."""

import pytest


def test_verl_is_there():
    pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")
