"""A generated world of made-up people, towns and companies, as a corpus with questions."""

from stapo.envs.search.world.generate import QuestionCorpus, generate_world

__all__ = ["QuestionCorpus", "generate_world"]
