"""The question-answering environment: one question an episode, answered with the help of a search engine."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from stapo.checks import DAY_S, check_choice, check_integer, check_number
from stapo.envs.protocol import Observation, StepResult, begun, going_on
from stapo.envs.search import scoring
from stapo.envs.search.demonstrator import Demonstrator, plan
from stapo.envs.search.judge import SearchJudge
from stapo.envs.search.protocols import PROTOCOLS, Act, cut_response, shorten
from stapo.envs.search.questions import Question, QuestionSet
from stapo.envs.search.sources import open_questions, open_search
from stapo.envs.tasks import HasTasks
from stapo.errors import RetrieverError
from stapo.progress import note
from stapo.retrieval.wire import Shape

REWARDS = ("em", "sub_em", "format")
FORMAT_SCORED = ("policy", "transcript")

_WAITING = "A question is waiting. Nothing was looked up yet."
_UNREACHABLE = "No result: the search engine could not be reached."
_EMPTY = "No result."
_RESULT = "<information></information>"


class SearchEnv(HasTasks):
    """Questions that are answered with a search engine, one episode at a time.

    Args:
        questions: None plays a generated world; else a .jsonl or .parquet file, a folder of them, or several, separated
            by commas.
        corpus: passages to search, a .jsonl file; None with a generated world, or with a server that has its own.
        retriever: "bm25", "tantivy", "dense" (by the embedding model minilm, which 'stapo models fetch minilm' brings),
            or the address of a server, "http://HOST:PORT".
        request: how a server is asked, "batch" (Search-R1's servers) or "single" (verl-agent's); None takes the
            protocol's.
        retriever_seconds: for one search of a server, with every further try; then the turn is used up.
        topk: passages a search returns.
        protocol: "search-r1" (four searches, then an answer; one growing transcript) or "stepwise" (verl-agent's: four
            turns, a prompt for each).
        reward: "em" (exact match), "sub_em" (a right answer is contained) or "format" (exact match, with a share for
            form).
        max_steps: turns of an episode; None takes the protocol's.
        result_tokens: words and marks of a result that are shown at most; None takes the protocol's, 0 shows all.
        result_characters: characters of a result that are shown at most; 0 shows all.
        structure_score: with reward "format", for a well-formed sequence.
        final_score: with reward "format", for an answer at all.
        retrieval_score: with reward "format", for a right answer in a result.
        format_scored: with reward "format", "policy" looks for the answer in what the policy wrote, and for right
            answers in what was retrieved; "transcript" takes everything for either, as published: a passage can answer,
            and the notice about an invalid turn counts as an answer.
        demonstrator_haste: share of turns in which the demonstrator does not look any further and guesses: SFT
            that can search, but has yet to learn that it pays.
        heldout: share of the questions of split train that become a split heldout.
        size: of the generated world, "tiny" or "standard".
        seed: of the generated world.

    Raises:
        ConfigError: an option that cannot be used.
        GameFileError: questions or passages that cannot be read.
    """

    name = "search"
    default_presets: Mapping[str, str] = {"scratch": "search-tiny", "pretrained": "smollm2/search"}
    chat_settings: Mapping[str, Any] = {
        "prompt": "search-stepwise", "response": "search_answer",
        "max_prompt_tokens": 4096, "max_response_tokens": 512,
    }  # fmt: skip

    def __init__(
        self,
        questions: str | os.PathLike[str] | Sequence[str] | None = None,
        corpus: str | os.PathLike[str] | None = None,
        retriever: str = "bm25",
        request: str | None = None,
        retriever_seconds: float = 60.0,
        topk: int = 3,
        protocol: str = "search-r1",
        reward: str = "em",
        max_steps: int | None = None,
        result_tokens: int | None = None,
        result_characters: int = 0,
        structure_score: float = 0.2,
        final_score: float = 0.1,
        retrieval_score: float = 0.0,
        format_scored: str = "policy",
        demonstrator_haste: float = 0.0,
        heldout: float = 0.0,
        size: str = "tiny",
        seed: int = 0,
    ) -> None:
        self._protocol = PROTOCOLS[check_choice("protocol", protocol, PROTOCOLS)]
        self.max_steps = self._protocol.max_steps if max_steps is None else check_integer("max_steps", max_steps, 1)
        self._topk = check_integer("topk", topk, 1)
        limit = (
            self._protocol.result_tokens if result_tokens is None else check_integer("result_tokens", result_tokens, 0)
        )
        self._token_limit = limit or None
        self._character_limit = check_integer("result_characters", result_characters, 0) or None
        self._haste = check_number("demonstrator_haste", demonstrator_haste, 0, 1)
        self._reward = check_choice("reward", reward, REWARDS)
        self._scores_transcript = check_choice("format_scored", format_scored, FORMAT_SCORED) == "transcript"
        scores = {"structure": structure_score, "final": final_score, "retrieval": retrieval_score}
        self._scores = {part: check_number(f"{part}_score", score, 0, 1) for part, score in scores.items()}
        self._tasks: QuestionSet = open_questions(questions, heldout=heldout, size=size, seed=seed)
        for text in self.notes:
            note(text)
        if request is not None:
            check_choice("request", request, get_args(Shape))
        self._search = open_search(
            questions,
            corpus,
            retriever,
            request=request or self._protocol.request,
            seconds=check_number("retriever_seconds", retriever_seconds, 0, DAY_S, open_low=True),
            size=size,
            seed=seed,
        )
        self._question: Question | None = None
        self._transcript: list[str] = []
        self._responses: list[str] = []
        self._form: list[str] = []
        self._results: list[str] = []
        self._done = False

    @property
    def notes(self) -> list[str]:
        """What is odd about the questions: those that several splits ask, and right answers that cannot be scored."""
        return list(self._tasks.notes)

    def task_type(self, task_id: str) -> str:
        """The data set that a question belongs to."""
        return self._tasks.question(task_id).source

    def reset(self, task_id: str) -> Observation:
        """Start the episode of a question. Raises UnknownNameError for an id that does not exist."""
        self._question = question = self._tasks.question(task_id)
        self._transcript, self._responses, self._done = [], [], False
        self._form, self._results = [], []
        return Observation(text=f"Question: {question.text}", goal=question.text, blind_text=_WAITING)

    def step(self, action: str) -> StepResult:
        """Take a response, as the agent wrote it: it searches, answers, or wastes the turn.

        The keys of `info`: "truncated", "kind" ("search", "answer" or "invalid"), "valid" (by the rules of the
        protocol), "retriever_error" (what the search engine failed with), "evidence" (how many of the passages on the
        way to the answer the result holds, where the way is known); at the end "answer", "em" and "sub_em".
        """
        question = going_on(self._question, self._done)
        text = action if isinstance(action, str) else ""
        act = self._protocol.read(text)
        self._responses.append(self._protocol.written(text))
        self._transcript.append(cut_response(text))
        self._form.append(cut_response(text))
        last = len(self._responses) >= self.max_steps
        info: dict[str, Any] = {"kind": act.kind, "valid": act.valid}
        if act.kind == "answer" or last:
            return self._finish(question, act, info)
        seen = self._look_up(act, info) if act.kind == "search" else self._protocol.invalid
        self._transcript.append(seen)
        # Tags in a result must neither break the form nor mend it.
        self._form.append(_RESULT if act.kind == "search" else seen)
        if act.kind == "search":
            self._results.append(seen)
        return StepResult(seen, None, 0.0, False, False, {**info, "truncated": False, "effect": act.kind == "search"})

    def close(self) -> None:
        """End the episode; the environment can be reset again."""
        self._question = None

    # -- beyond the protocol ---------------------------------------------------------------------

    @property
    def question(self) -> Question:
        """The question of the current episode. Raises EnvError before reset."""
        return begun(self._question, "question")

    def answers_like(self, key: str) -> tuple[str, ...]:
        """Every name that is an answer where `key` is asked last, sorted; for a guess of the right kind."""
        return self._tasks.answers_to(key)

    @property
    def shown(self) -> str:
        """What the last action has shown; "" before the first."""
        return self._transcript[-1] if self._transcript else ""

    def demonstrator(self, rng: random.Random) -> Demonstrator:
        """A player for the question just reset that looks up one name after the other.

        Raises:
            ConfigError: the way to the answer is not known: the question is not of a generated world.
        """
        return Demonstrator(self, rng, self._haste)

    def judge(self) -> SearchJudge:
        """A judge of the turns of the episode just reset; see `stapo.envs.protocol.Judge`.

        Raises:
            EnvError: before reset.
        """
        return SearchJudge(self)

    def meaning(self, action: str) -> tuple[str, str]:
        """What a response would do by the protocol ("search", "answer" or "invalid"), and with which text."""
        act = self._protocol.read(action)
        return act.kind, act.text

    def expert_plan(self) -> list[str] | None:
        """What the demonstrator would do from here if every search found what it looks for; None if that is unknown."""
        whole = plan(self.question)
        return None if whole is None else whole[min(len(self._responses), len(whole) - 1) :]

    # --------------------------------------------------------------------------------------------

    def _look_up(self, act: Act, info: dict[str, Any]) -> str:
        """The result of a search as the agent sees it; a failing search engine is a fact of `info`, no exception."""
        try:
            passages = self._search.search([act.text], self._topk)[0]
        except RetrieverError as err:
            info |= {"retriever_error": str(err), "retriever_error_kind": err.kind}
            return self._protocol.results(_UNREACHABLE)
        info["evidence"] = sum(hop.passage in {p.id for p in passages} for hop in self.question.hops)
        page = self._protocol.page(passages) or _EMPTY
        return self._protocol.results(shorten(page, self._token_limit, self._character_limit))

    def _finish(self, question: Question, act: Act, info: dict[str, Any]) -> StepResult:
        # Retrieved text takes no part in finding the answer: a passage cannot answer for the agent.
        answer = scoring.extract_answer("".join(self._responses))
        em = answer is not None and scoring.exact_match(answer, question.golds)
        sub_em = answer is not None and scoring.sub_exact_match(answer, question.golds)
        won = sub_em if self._reward == "sub_em" else em
        if self._reward == "format":
            reward = self._format_reward(question, answer)
        else:
            reward = float(won)
        self._done = True
        truncated = act.kind != "answer" and not won
        info |= {"truncated": truncated, "effect": act.kind == "answer", "answer": answer, "em": em, "sub_em": sub_em}
        return StepResult("", None, float(reward), True, won, info)

    def _format_reward(self, question: Question, answer: str | None) -> float:
        if self._scores_transcript:
            whole = "<|im_start|>assistant\n" + "".join(self._transcript)
            return scoring.format_reward(whole, question.golds, **self._scores, least=1)
        found = any(scoring.retrieval_correct(result, question.golds) for result in self._results)
        return scoring.form_reward(
            right=answer is not None and scoring.exact_match(answer, question.golds),
            answered=answer is not None,
            well_formed=scoring.is_well_formed("".join(self._form)),
            found=found,
            **self._scores,
        )
