"""Household scenes of our own design, made on demand: `GeneratedGames`.

Read in this order: `sizes` (what exists, what a scene holds), `layouts` (families and their split), `goals`, `games`
(ids, placing objects, the PDDL text). The tables are YAML files.
"""

from stapo.envs.alfworld.generator.games import GeneratedGames

__all__ = ["GeneratedGames"]
