"""Which tokens a policy may draw from: all of them in training, fewer where an evaluation is to be as deployed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingLimits:
    """Limits that go together: of what `top_k` and `min_p` leave, the most probable tokens up to `top_p`.

    Attributes:
        top_p: the most probable ones that together have at least this probability; 1 leaves all.
        top_k: this many of the most probable ones; 0 leaves all.
        min_p: those with at least this share of the largest probability; 0 leaves all.
    """

    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __bool__(self) -> bool:
        return (self.top_p, self.top_k, self.min_p) != (1.0, 0, 0.0)

    def __str__(self) -> str:
        given = (("top_p", self.top_p, 1.0), ("top_k", self.top_k, 0), ("min_p", self.min_p, 0.0))
        return "".join(f", {name} {value:g}" for name, value, off in given if value != off)


NO_LIMITS = SamplingLimits()
