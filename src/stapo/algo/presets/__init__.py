"""Named algorithms. A preset is a value, not code: a new one is a line in its family's module.

Other packages bring theirs by an entry point of the group ``stapo.algorithms`` that names an
`AlgorithmConfig`, or by `register_algorithm`.
"""

from __future__ import annotations

from stapo.algo.config import AlgorithmConfig
from stapo.algo.presets import baselines, dynamic, selective
from stapo.errors import ConfigError, unknown_name
from stapo.registry import Registry

ALGORITHM_FAMILIES: dict[str, tuple[AlgorithmConfig, ...]] = {
    "baselines": baselines.PRESETS,
    "STAPO": selective.PRESETS,
    "dynamic sampling": dynamic.PRESETS,
    "ablations and controls": selective.ABLATIONS,
    "beyond the paper": selective.BEYOND,
}
"""The presets of this package by family, in the order in which they are listed to a user."""

ALGORITHMS: dict[str, AlgorithmConfig] = {
    preset.name: preset for family in ALGORITHM_FAMILIES.values() for preset in family
}
"""The presets of this package by name, in the same order."""

_INSTALLED: Registry[AlgorithmConfig] = Registry("algorithm", "stapo.algorithms")


def register_algorithm(algorithm: AlgorithmConfig) -> AlgorithmConfig:
    """Make an algorithm known under its name, in this process; returns it.

    Raises:
        ConfigError: the name is taken.
    """
    if algorithm.name in ALGORITHMS:
        raise ConfigError(f"algorithm '{algorithm.name}' is a preset of stapo; choose another name.")
    _INSTALLED.register(algorithm.name, algorithm)
    return algorithm


def unusable_algorithms() -> list[tuple[str, str]]:
    """What installed packages register as algorithms without effect: (package, what is wrong), for listings."""
    taken = [name for name in _INSTALLED.names() if name in ALGORITHMS]
    return _INSTALLED.unusable() + [("another package", f"registers '{n}', a name of stapo's own") for n in taken]


def algorithm_names() -> list[str]:
    """All known names: the presets of this package, then those of others, sorted."""
    return [*ALGORITHMS, *(name for name in _INSTALLED.names() if name not in ALGORITHMS)]


def get_algorithm(name: str) -> AlgorithmConfig:
    """Return the algorithm called `name`.

    Raises:
        UnknownNameError: no such algorithm; the message proposes the closest name.
        ConfigError: the name comes from an installed package, which holds no such algorithm.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name not in _INSTALLED.names():
        raise unknown_name("algorithm", name, algorithm_names())
    found = _INSTALLED.get(name)
    if not isinstance(found, AlgorithmConfig) or found.name != name:
        what = f"an algorithm named '{found.name}'" if isinstance(found, AlgorithmConfig) else f"{found!r}"
        raise ConfigError(
            f"the entry point '{name}' of group 'stapo.algorithms' gives {what}; expected an AlgorithmConfig of that "
            "name. Correct the package that brings it."
        )
    return found
