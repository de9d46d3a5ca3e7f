"""Prompts for questions that are answered with a search engine, and how responses to them are read.

The observation is a part of the history here: a result belongs to the query that found it. The trajectory-blind prompt
is therefore the constant text of role and format, and nothing else.

`search-r1` is one growing transcript: rules and question, then every response of the agent with the result it led to,
as the beginning of the next response. A past response keeps the tokens that were sampled up to its search, so that the
rows of an episode are read as one sequence where nothing was written behind that. Only the response of a row is
trained: what was retrieved stands in prompts alone. That is the masking of retrieved text; there is nothing else to
mask.
`search-stepwise` is a fresh prompt at every step, which lists the last queries with their results.
`search-compact` is the same in a few short lines with the question last, for tiny models that are trained from scratch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stapo.agent.config import AgentConfig
from stapo.agent.parsing import ParsedResponse, part_spans
from stapo.agent.prompts import Piece, Prompt, PromptFields, role_of, rules_of
from stapo.envs.search.protocols import cut_response, is_single
from stapo.registry import traits
from stapo.texts import first_block

_R1_RULES = (
    "Answer the question. First reason inside <think> and </think>, each time you learn something new. When you lack a "
    "fact, write a query as <search> query </search>: a search engine is asked, and the best passages come back "
    "between <information> and </information>. Search as often as you like. When nothing is missing any more, give the "
    "answer alone, without an explanation, inside <answer> and </answer>. For example, <answer> Lisbon </answer>."
)
_STEPWISE_RULES = (
    "You answer a question with the help of a search engine, one action at a time.",
    "First reason inside <think> </think>. Then do exactly one of two things: search with <search> query </search>, "
    "where a fact is missing; or give the final answer with <answer> answer </answer>, in a few words and without an "
    "explanation.",
)


def _without_query(action: str) -> str:
    block = first_block(action, ("search", "answer"), ignore_case=True)
    return f"<{block.kind}> … </{block.kind}>" if block else ""


@traits(marks=False, hide_query=_without_query)
def growing(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> Prompt:
    """Search-R1's prompt: rules, question, and one transcript that grows."""
    text = " ".join([*role_of(config, ""), *rules_of(config, _R1_RULES)])
    if not hide_goal:
        text += f" Question: {f.goal}\n"
    if hide_history or not f.step:
        return Prompt(text)
    pieces = []
    for number, turn in enumerate(f.history):
        # The first observation of an episode is the question, which stands above.
        if number or len(f.history) < f.steps_taken:
            pieces.append(Piece(turn.observation))
        pieces.append(Piece(turn.action, turn.response_ids))
    pieces.append(Piece(f.observation))
    return Prompt(text, "".join(piece.text for piece in pieces), pieces=tuple(pieces))


@traits(marks=False, hide_query=_without_query)
def stepwise(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    """For a search engine, a fresh prompt at every step, with the last queries and their results."""
    lines = role_of(config, _STEPWISE_RULES[0])
    if not hide_goal:
        lines.append(f"Question: {f.goal}")
    if f.step and not hide_history:
        lines.append(f"You have taken {f.steps_taken} steps. The last of them, oldest first, with what they led to:")
        first = f.steps_taken - len(f.history)
        for number, (action, result) in enumerate(_exchanges(f), start=first + 1):
            lines.append(f"[{number}] {_block(action) or '(no search and no answer)'}\n{result.strip()}".strip())
    lines += rules_of(config, _STEPWISE_RULES[1])
    return "\n\n".join(lines)


@traits(marks=False, hide_query=_without_query, for_chat_models=False)
def compact(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    """For a search engine and tiny models: queries and results, then the question."""
    lines = []
    if f.step and not hide_history:
        for action, result in _exchanges(f):
            lines += [" ".join(_block(action).split()), " ".join(result.split())]
    if not hide_goal:
        lines.append(f.goal)
    return "\n".join([*lines, ">"])


def _exchanges(f: PromptFields) -> Iterator[tuple[str, str]]:
    """Each remembered action with the observation that came of it."""
    results = [turn.observation for turn in f.history[1:]] + [f.observation]
    for turn, result in zip(f.history, results, strict=False):
        yield turn.action, result


def _block(action: str) -> str:
    found = first_block(action, ("search", "answer"), ignore_case=True)
    return action[found.start : found.end] if found else ""


@traits(keeps_thought=True, rules=_STEPWISE_RULES[1])
def search_answer(text: str, listed: Sequence[str], fallback_characters: int) -> ParsedResponse:
    """The text up to the first ``</search>`` or else ``</answer>``, thought included; valid with either."""
    return _read(text, single=False)


@traits(keeps_thought=True, rules=_STEPWISE_RULES[1])
def search_answer_single(text: str, listed: Sequence[str], fallback_characters: int) -> ParsedResponse:
    """Reads as `search_answer` does, and is valid with exactly one search or answer."""
    return _read(text, single=True)


def _read(text: str, single: bool) -> ParsedResponse:
    action = cut_response(text)
    think = part_spans(text).get("think")
    thought = text[slice(*think)].strip() if think else ""
    if first_block(action, ("search", "answer"), ignore_case=single) is None:
        return ParsedResponse(action, thought, False, "no_search_or_answer")
    if single and not is_single(text):
        return ParsedResponse(action, thought, False, "more_than_one_action")
    return ParsedResponse(action, thought, True)
