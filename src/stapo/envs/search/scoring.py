"""Scoring of answers: pure functions of texts, nothing here raises on any text.

They follow the two published scorers. Search-R1 (arXiv 2503.09516) scores the whole sequence, prompt included; its
prompt shows one example answer, so a sequence has to hold two answers before the last one counts (`least=2`).
verl-agent scores what the model wrote, where one is enough. Everything else is the same in both.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from stapo.texts import blocks

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ASSISTANT = re.compile(r"<\|im_start\|>assistant\s*")
_TAG = re.compile(r"(</?(?:think|search|information|answer)>)")
# What each tag needs before it and leaves behind it. Text stands inside a pair of tags alone.
_MOVES = {
    ("start", "<think>"): "in think",
    ("informed", "<think>"): "in think",
    ("in think", "</think>"): "thought",
    ("thought", "<search>"): "in search",
    ("in search", "</search>"): "searched",
    ("searched", "<information>"): "in information",
    ("in information", "</information>"): "informed",
    ("thought", "<answer>"): "in answer",
    ("in answer", "</answer>"): "end",
}


def normalize_answer(text: str) -> str:
    """Lower case, ASCII punctuation deleted, the words a, an and the deleted, blanks collapsed; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, golds: str | Sequence[str]) -> bool:
    """Is the normalized prediction equal to a normalized gold answer?"""
    wanted = normalize_answer(prediction)
    return any(normalize_answer(gold) == wanted for gold in _all(golds))


def sub_exact_match(prediction: str, golds: str | Sequence[str]) -> bool:
    """Does the normalized prediction contain a normalized gold answer?"""
    said = normalize_answer(prediction)
    return any(normalize_answer(gold) in said for gold in _all(golds))


def extract_answer(solution: str, least: int = 1) -> str | None:
    """The text of the last ``<answer>`` block, stripped; None where there are fewer than `least` blocks.

    A block reaches from an opening tag to the next closing tag, so an opening tag inside it belongs to its text. Tags
    are lower-case.
    """
    answers = [block.text for block in blocks(solution, "answer")]
    return answers[-1].strip() if len(answers) >= max(1, least) else None


def is_valid_sequence(solution: str) -> bool:
    """Is what follows the first ``<|im_start|>assistant`` a well-formed sequence? Without that marker: no.

    Well-formed is think, then any number of (search, information, think), then answer; with blanks alone between the
    blocks, before them and behind them.
    """
    marker = _ASSISTANT.search(solution)
    return marker is not None and is_well_formed(solution[marker.end() :])


def is_well_formed(sequence: str) -> bool:
    """As `is_valid_sequence`, for a sequence that is the model's and the search engine's alone."""
    state = "start"
    for part in _TAG.split(sequence):
        if _TAG.fullmatch(part):
            following = _MOVES.get((state, part))
            if following is None:
                return False
            state = following
        elif part.strip() and not state.startswith("in "):
            return False
    return state == "end"


def retrieval_correct(solution: str, golds: str | Sequence[str]) -> bool:
    """Does an ``<information>`` block contain a gold answer, both normalized?"""
    results = [normalize_answer(block.text) for block in blocks(solution, "information")]
    return any(normalize_answer(gold) in result for gold in _all(golds) for result in results)


def format_reward(
    solution: str,
    golds: str | Sequence[str],
    *,
    structure: float = 0.2,
    final: float = 0.1,
    retrieval: float = 0.0,
    least: int = 2,
) -> float:
    """Search-R1's reward with a share for form.

    ========================  =========================================  ===================
    answer                    well-formed                                not well-formed
    ========================  =========================================  ===================
    right                     1                                          1 - structure
    wrong                     structure, + retrieval if a gold answer    final
                              was found
    fewer than `least`        as wrong                                   0
    ========================  =========================================  ===================

    Args:
        solution: the whole sequence, with ``<|im_start|>assistant`` before what the model wrote.
        golds: right answers.
        structure: for a well-formed sequence.
        final: for an answer at all.
        retrieval: for a gold answer inside an information block.
        least: answer blocks that are needed: two where the sequence begins with a prompt that shows one.
    """
    answer = extract_answer(solution, least)
    return form_reward(
        right=answer is not None and exact_match(answer, golds),
        answered=answer is not None,
        well_formed=is_valid_sequence(solution),
        found=bool(retrieval) and retrieval_correct(solution, golds),
        structure=structure,
        final=final,
        retrieval=retrieval,
    )


def form_reward(
    *, right: bool, answered: bool, well_formed: bool, found: bool, structure: float, final: float, retrieval: float
) -> float:
    """The table of `format_reward`."""
    if right:
        return 1.0 if well_formed else 1.0 - structure
    if well_formed:
        return structure + (retrieval if found else 0.0)
    return final if answered else 0.0


def _all(golds: str | Sequence[str]) -> Sequence[str]:
    return [golds] if isinstance(golds, str) else [str(gold) for gold in golds]
