"""Named algorithms. A preset is a value, not code: a new one is a line in its family's module.

Other packages bring theirs by an entry point of the group ``stapo.algorithms`` that names an
`AlgorithmConfig`, or by `register_algorithm`.
"""

from __future__ import annotations

from dataclasses import replace

from stapo.algo.config import AlgorithmConfig
from stapo.algo.presets import baselines, dynamic, selective
from stapo.documents import shown
from stapo.errors import ConfigError
from stapo.registry import Registry

ALGORITHM_FAMILIES: dict[str, tuple[AlgorithmConfig, ...]] = {
    "baselines": baselines.PRESETS,
    "credit assignment": baselines.CREDIT,
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


def _no_algorithm(obj: object, name: str) -> str | None:
    if isinstance(obj, AlgorithmConfig) and obj.name == name:
        return None
    found = f"an algorithm named '{obj.name}'" if isinstance(obj, AlgorithmConfig) else shown(obj)
    return f"{found}; expected an AlgorithmConfig of that name"


ALGORITHM_REGISTRY: Registry[AlgorithmConfig] = Registry("algorithm", "stapo.algorithms", _no_algorithm, ALGORITHMS)


def register_algorithm(algorithm: AlgorithmConfig) -> AlgorithmConfig:
    """Make an algorithm known under its name, in this process; returns it.

    Raises:
        ConfigError: the name is taken, or this is not an `AlgorithmConfig`.
    """
    if not isinstance(algorithm, AlgorithmConfig):
        raise ConfigError(f"the algorithm is {shown(algorithm)}, expected an AlgorithmConfig.")
    return ALGORITHM_REGISTRY.register(algorithm.name)(algorithm)


def algorithm_names() -> list[str]:
    """All known names: the presets of this package, then those of others, sorted."""
    return ALGORITHM_REGISTRY.names()


def get_algorithm(name: str) -> AlgorithmConfig:
    """Return the algorithm called `name`.

    "A+B" is the method of credit B with the flags of A and its terms on flagged steps: "stapo+pgpo".

    Raises:
        UnknownNameError: no such algorithm; the message proposes the closest name.
        ConfigError: the name comes from an installed package, which holds no such algorithm; or A has no flags, or more
            than flags, or B has flags of its own.
    """
    if isinstance(name, str) and "+" in name and name not in ALGORITHMS and name not in algorithm_names():
        return _composed(name)
    return ALGORITHM_REGISTRY.get(name)


def _composed(name: str) -> AlgorithmConfig:
    flags, credit = (ALGORITHM_REGISTRY.get(part) for part in name.split("+", 1))
    stapo = ALGORITHMS["stapo"]
    if not flags.selective_on or _without_flags(flags) != _without_flags(stapo):
        raise ConfigError(
            f"algorithm '{name}': '{flags.name}' is not STAPO with other flags or terms alone; expected STAPO or such "
            "a variant of it before the '+', for instance 'stapo+pgpo'."
        )
    if credit.selective_on:
        raise ConfigError(
            f"algorithm '{name}': '{credit.name}' has flags of its own; expected a method without behind the '+', for "
            "instance 'stapo+pgpo'."
        )
    return replace(
        credit,
        name=name,
        paper=f"{flags.paper}; {credit.paper}",
        description=f"{credit.description} With the flags and terms of {flags.name}.",
        outlier=flags.outlier,
        selective=flags.selective,
    )


def _without_flags(algorithm: AlgorithmConfig) -> AlgorithmConfig:
    plain = AlgorithmConfig(name="none", paper="")
    kept = {group: getattr(algorithm, group) for group in ("advantage", "modulation", "loss", "critic", "sampling")}
    return replace(plain, **kept)
