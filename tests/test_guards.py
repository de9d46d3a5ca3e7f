"""`make guards` can still take out every guard: a change that moves one has to move its line there as well."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_guards.py"
spec = importlib.util.spec_from_file_location("check_guards", SCRIPT)
module = importlib.util.module_from_spec(spec)
sys.modules["check_guards"] = module
spec.loader.exec_module(module)


@pytest.mark.parametrize("guard", module.GUARDS, ids=lambda guard: f"{guard.number} {guard.what}")
def test_its_text_is_there_once(guard):
    text = (module.ROOT / "src" / "stapo" / guard.file).read_text()
    assert text.count(guard.present) == 1, guard.file
    assert guard.absent != guard.present
    assert (module.ROOT / "tests" / "reliability" / guard.tests.split(" ")[0]).is_file()
