"""Household scenes of our own design, made on demand: `GeneratedGames`.

Read in this order: `household` (what exists), `sizes` (what a scene holds), `layouts` (families and their
split), `goals`, `scenes` (placing objects), `problem` (the PDDL text), `games` (ids). The tables are YAML files.
"""

from stapo.envs.alfworld.generator.games import GeneratedGames

__all__ = ["GeneratedGames"]
