"""Household scenes of our own design, made on demand: `GeneratedGames`.

Read in this order: `household` (what exists), `rooms` and `sizes` (what a scene holds), `layouts`
(families and their split), `goals`, `scenes` (placing objects), `problem` (the PDDL text), `games`
(ids).
"""

from stapo.envs.alfworld.generator.games import GeneratedGames

__all__ = ["GeneratedGames"]
