"""requirements.lock: the whole set-up, every file with its hash, from no host by name."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
ENTRY = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+)", re.MULTILINE
)
LOCKED = [match.groups() for match in ENTRY.finditer(LOCK)]
LATER = ("torch", "triton", "nvidia", "cuda")  # which build is right depends on the machine


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path):
    lines = (line.split("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return {canonical(name): rest for name, _, rest in (line.partition("==") for line in lines if line)}


def test_every_line_is_a_version_with_hashes():
    assert len(LOCKED) > 70
    rest = ENTRY.sub("", LOCK)
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert "://" not in LOCK
    assert not [name for name, *_ in LOCKED if name.startswith(LATER)]


def test_it_agrees_with_the_constraints():
    locked = {}
    for name, found, *_ in LOCKED:
        locked.setdefault(name, set()).add(found)
    both = {name: wanted for name, wanted in pins("constraints.txt").items() if name in locked}
    assert len(both) > 20
    assert {name: {wanted} for name, wanted in both.items()} == {name: locked[name] for name in both}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_one_version_of_each_for_every_python(python):
    place = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    chosen = [name for name, _, marker, _ in LOCKED if marker is None or Marker(marker).evaluate(place)]
    assert len(chosen) == len(set(chosen))
    assert {"numpy", "transformers", "tokenizers", "tyro", "pytest", "mypy", "setuptools"} <= set(chosen)


def test_all_that_the_package_needs_is_in_it():
    """Followed from package to package, as far as they are installed here."""
    locked, seen, pending = {name for name, *_ in LOCKED}, set(), [("stapo", "dev")]
    while pending:
        package, extra = pending.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        try:
            needed = [Requirement(text) for text in requires(package) or ()]
            version(package)
        except PackageNotFoundError:
            continue
        for need in needed:
            name = canonical(need.name)
            if name.startswith(LATER) or (need.marker and not need.marker.evaluate({"extra": extra})):
                continue
            assert name in locked, f"{package} needs {name}"
            pending += [(name, ""), *((name, wanted) for wanted in need.extras)]
    assert len(seen) > 40
