"""How fast this machine is with the model of a run: some five seconds of the code that the run will use.

The model is loaded or built. Demonstrated responses are played in the environment; meanwhile the sampler is timed on
the prompts, with as many rows as time allows. Of a small model whole steps of SFT and a whole update are timed; of a
large one forward and backward of a piece of a row, which is what its time goes to. Times are those that this thread
computes: time that other processes take is not counted, and the thread takes part in all that torch's do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch

from stapo.algo import score_tokens
from stapo.cli.expected_episodes import Episodes
from stapo.config.run_config import RunConfig
from stapo.config.training import SFTConfig
from stapo.estimate.costs import Workload
from stapo.estimate.whole import Speed
from stapo.policy import Policy, RowTokens, build_policy, copy_of, head_of, hidden_states, load_policy
from stapo.policy.hardware import using_threads
from stapo.policy.sequences import chained
from stapo.rollout.sampler import HFSampler, Sample
from stapo.rollout.trie import Grammar
from stapo.rollout.types import Trajectory
from stapo.training.batch import build_batch, rows_of
from stapo.training.demonstrations import DemoStep, tokenizer_texts
from stapo.training.factories import collector_of
from stapo.training.loop import build_collector
from stapo.training.sft import SFT
from stapo.training.update import Updater

LARGEST = 1_000_000_000
"""Weights of a model that is still loaded for a probe."""
_PART_S = 0.8
"""Seconds that each part may take, about."""
_EPISODES = 16
_PIECE = 256
_STEP_TOKENS = 64


@dataclass(frozen=True)
class Probed:
    """What was measured.

    Attributes:
        speed: of the model.
        step_seconds: of everything but the model, for a step of an episode; 0 where none was played.
        encode_seconds: to cut a demonstrated step into tokens.
    """

    speed: Speed
    step_seconds: float = 0.0
    encode_seconds: float = 0.0


def probe(config: RunConfig, seen: Episodes, work: Workload) -> Probed:
    """Time the model of a run on this machine's CPU.

    Args:
        config: the settings, without `auto`.
        seen: what is expected of its episodes, with the demonstrations that were played.
        work: what an iteration asks of the model.

    Raises:
        StapoError: the model cannot be loaded, or an episode cannot be played.
    """
    threads = 0 if config.log.threads == "auto" else config.log.threads
    with using_threads(threads), torch.random.fork_rng(devices=[]):
        policy = _policy(config, seen.demos)
        return _Probe(config, seen, work, policy).measure()


def _policy(config: RunConfig, demos: Sequence[DemoStep]) -> Policy:
    if config.model.path is not None:
        return load_policy(config.model.path, config.model)
    longest = config.agent.max_prompt_tokens + config.agent.max_response_tokens
    return build_policy(config.model, tokenizer_texts(list(demos)), longest, config.seed)


class _Probe:
    def __init__(self, config: RunConfig, seen: Episodes, work: Workload, policy: Policy) -> None:
        self.config, self.seen, self.work, self.policy = config, seen, work, policy
        self.collector = build_collector(config, policy)
        self.demos = list(seen.demos)
        encoder = self.collector.encoder
        few = self.demos[:_PIECE]
        self.rows = [RowTokens(encoder.encode(d.prompt), encoder.encode_response(d.action, d.command)) for d in few]  # type: ignore[attr-defined]
        if not self.rows:
            self.rows = [RowTokens([7] * round(work.prompt), [7] * max(1, round(work.response)))]
        longest = max(self.rows, key=lambda row: row.length)
        for length in (16, _PIECE // 2, _PIECE):
            piece = RowTokens(longest.prompt_ids[-length:], longest.response_ids[:length])
            self.piece, self.read = piece, _least(lambda: self._pass(piece, grad=False)) / piece.length  # noqa: B023
            if length > 16 and length * self.read > _PART_S / 3:
                break

    def measure(self) -> Probed:
        sampling, step_seconds, trajectories = self._play()
        whole = 3 * self.read * self.seen.imitated * self.config.sft.batch_size
        small = bool(self.demos) and whole < _PART_S
        sft, encode = self._sft() if small and self.config.sft.steps else (0.0, 0.0)
        train, score = self._update(trajectories) if small and trajectories else (0.0, 0.0)
        if not train:
            train, score = _least(lambda: self._pass(self.piece, grad=True)) / self.piece.length, self.read
        speed = replace(sampling, train=train, score=score, sft=sft)
        return Probed(speed, step_seconds, encode)

    def _pass(self, row: RowTokens, *, grad: bool) -> None:
        model = self.policy.model
        with torch.set_grad_enabled(grad):
            hidden_nh, targets_n, _ = hidden_states(model, [row], self.policy.tokenizer.pad_token_id)
            weight_vh, bias_v = head_of(model)
            logp_n, _ = score_tokens(hidden_nh, weight_vh, targets_n, temperature=1.0, bias_v=bias_v, entropy=False)
        if grad:
            (-logp_n.mean()).backward()

    def _play(self) -> tuple[Speed, float, list[Trajectory]]:
        """Speeds of the sampler; seconds of a step besides; the episodes that were played."""
        fresh = self.work.new or self.work.prompt
        affordable = int(_PART_S / max(1e-9, self.read * fresh))
        # A step of decoding takes about as long as a pass over so many tokens.
        more = max(4, min(8, round(self.work.response), int(_PART_S / (_STEP_TOKENS * self.read))))
        count = max(1, min(int(self.work.together), affordable))
        timed = _TimedSampler(self.collector.sampler, self.rows, count, more, self.work.new > 0)
        if not self.demos:
            timed.sample([row.prompt_ids for row in self.rows], [(0, 0, 0)], self.config.rollout.temperature)
            return timed.speed(self.read), 0.0, []
        limit = 2 * self.seen.steps
        episodes = int(2 * _PART_S / max(1e-9, limit * self.seen.step_seconds))
        episodes = max(2, min(_EPISODES, self.work.episodes, episodes))
        self.collector.close()
        collector = collector_of(self.config, self.collector.encoder, timed)
        starts = list[float]()  # the first turn builds environments, once in a run, and does not count
        try:
            tasks = collector.tasks_of(self.config.env.split)
            trajectories = collector.collect(
                tasks[: max(1, episodes // 2)], 2, self.config.rollout.temperature, (0, 1),
                lambda done, total: starts.append(time.thread_time() - timed.spent),
            )  # fmt: skip
        finally:
            collector.close()
        if not timed.found:  # every response was the only one that is allowed
            timed.sample([row.prompt_ids for row in self.rows], [(0, 0, 0)] * len(self.rows), 1.0)
        # The median turn: one of them may find the garbage of all imports to collect.
        answered = [sum(len(t.steps) > turn for t in trajectories) for turn in range(1, len(starts))]
        spent = [later - before for before, later in pairwise(starts)]
        each = [seconds / steps for seconds, steps in zip(spent, answered, strict=True) if steps]
        besides = median(each) if each else self.seen.step_seconds
        return timed.speed(self.read), besides, trajectories

    def _sft(self) -> tuple[float, float]:
        """Seconds of a step of SFT, and those for cutting a demonstrated step into tokens."""
        config = self.config.sft
        encode, found = 0.0, list[float]()
        for curriculum, share in ((0.0, 1 - config.curriculum), (1.0, config.curriculum)):
            if share:
                step, encode = _steps(
                    self.policy, replace(config, curriculum=curriculum, stop_at=1.0, steps=10**6), self.demos
                )
                found.append(share * step)
        return sum(found), encode

    def _update(self, trajectories: list[Trajectory]) -> tuple[float, float]:
        """Seconds for a token of an update, and of a forward pass that is scored; 0 where nothing is trained."""
        config, policy = self.config, self.policy
        for t in trajectories:
            # Advantages that are not 0, as those of a group that neither wins nor loses whole.
            t.won, t.steps[-1].reward = t.member % 2 == 0, float(t.member % 2 == 0)
        rows, chains = rows_of(trajectories, merge=config.optim.merge)
        algorithm = config.algorithm.resolved(config.agent.max_response_tokens, config.model.dtype)
        policy.attach(config.model.lora, config.seed)
        reference = copy_of(policy, on_cpu=True) if algorithm.needs_reference and policy.adapter is None else None
        batch = build_batch(trajectories, algorithm, seed=(0, 3, 1), chains=chains)
        updater = Updater(policy, reference, algorithm, config.optim, config.rollout.temperature)
        tokens = sum(rows[chain[-1]].length for chain in chained(range(len(rows)), chains.chain_b))
        found = dict[str, float]()
        for number in range(2):
            began, wall = time.thread_time(), time.perf_counter()
            _, seconds = updater.update(batch, 1e-6, seed=(0, 2, number))
            busy = (time.thread_time() - began) / (time.perf_counter() - wall)
            found = {name: busy * value / tokens for name, value in seconds.items()}
        return found["update"], found["reference"] or self.read


class _TimedSampler:
    """Answers with demonstrated responses, and times the run's own sampler on the prompts of the first two turns."""

    def __init__(self, sampler: Any, rows: Sequence[RowTokens], count: int, more: int, grows: bool) -> None:
        self.timed: HFSampler = sampler
        self.responses = [row.response_ids for row in rows]
        # First tokens of copies; a prompt of which only the length is known has one token alone.
        vocabulary = range(head_of(sampler.model)[0].shape[0])
        self.others = list(dict.fromkeys([*rows[0].prompt_ids, *vocabulary[: count + 1]]))
        self.count, self.more, self.rng = count, more, np.random.default_rng(0)
        self.grows = grows
        self.spent = 0.0
        self.found: list[tuple[int, int, float, float]] = []
        self.few: tuple[int, float] | None = None

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[tuple[int, ...]],
        temperature: float,
        constraints: Sequence[Grammar | None] | None = None,
    ) -> list[Sample]:
        """Answer as was demonstrated, or at random among what is allowed."""
        grammars = constraints or [None] * len(prompts)
        if len(self.found) < 2 and len(prompts) > (0 if not self.found else 1):
            began = time.thread_time()
            forced = [_forced(grammar) for grammar in grammars]
            # What has no choice in it takes no pass of the model.
            chosen = [i for i, count in enumerate(forced) if count is not None]
            if chosen:
                self._time(
                    [prompts[i] for i in chosen],
                    [streams[i] for i in chosen],
                    temperature,
                    None if constraints is None else [constraints[i] for i in chosen],
                    max(forced[i] or 0 for i in chosen),
                )
            self.spent += time.thread_time() - began
        answers = list[Sample]()
        for grammar in grammars:
            ids = self.responses[self.rng.integers(len(self.responses))] if grammar is None else self._walk(grammar)
            answers.append(Sample(list(ids), [-1.0] * len(ids), [1.0] * len(ids), True))
        return answers

    def _walk(self, grammar: Grammar) -> list[int]:
        walk, ids = grammar.walk(), list[int]()
        while not walk.complete:
            allowed = walk.allowed
            choices = allowed.ids or allowed.free.ids  # type: ignore[union-attr]
            ids.append(int(choices[self.rng.integers(len(choices))]))
            walk.take(ids[-1])
        return ids

    def _time(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[tuple[int, ...]],
        temperature: float,
        constraints: Sequence[Grammar | None] | None,
        forced: int,
    ) -> None:
        """Time one turn; `forced` is the largest number of tokens that responses begin with without a choice."""
        places = [(copy, i) for copy in range(-(-self.count // len(prompts))) for i in range(len(prompts))][
            : self.count
        ]

        def once(chosen: Sequence[tuple[int, int]], limit: int) -> tuple[int, float, int]:
            """Prompt tokens read, seconds, and tokens of the longest response."""
            self.timed.max_new_tokens = limit
            if not self.grows:
                self.timed.forget()
            before, began = self.timed.counts.prefilled, time.thread_time()
            bound: dict[str, Any] = {} if constraints is None else {"constraints": [constraints[i] for _, i in chosen]}
            named = [(copy, *streams[i]) for copy, i in chosen]
            # Prompts that are alike are read once: copies begin with tokens of their own.
            asked = [
                [self.others[copy % len(self.others)], *prompts[i][1:]] if copy else prompts[i] for copy, i in chosen
            ]
            answers = self.timed.sample(asked, named, temperature, **bound)
            took = time.thread_time() - began
            return self.timed.counts.prefilled - before, took, max(len(answer.ids) for answer in answers)

        def pieces(chosen: Sequence[tuple[int, int]]) -> tuple[int, float, float]:
            """Prompt tokens of a turn, seconds to read them, and seconds of one decoding step."""
            # The first token of a response's own takes the pass that reads the prompt, and what is forced before it.
            (read, first, _), (again, second, longest) = once(chosen, forced + 1), once(chosen, forced + 1 + self.more)
            share = again / max(1, read)
            if share < 0.5:
                second = min(second, once(chosen, forced + 1 + self.more)[1])
            own = max(1, longest - forced)
            step = max(1e-9, (second - share * first) / max(1.0, own - share))
            # For each token of a response, forced ones among them.
            return read, max(0.0, first - step), step * own / (own + forced)

        eos, self.timed.eos_ids = self.timed.eos_ids, []
        if not self.found:
            once(places[:1], 2)  # what is compiled or allocated at the first call says nothing about speed
            self.timed.forget()
        self.found.append((len(places), *pieces(places)))
        if self.few is None and len(places) > 4:
            few = [(copy + self.count, i) for copy, i in places[: max(1, len(places) // 8)]]
            self.few = len(few), pieces(few)[2]
        self.timed.eos_ids = eos

    def speed(self, read: float) -> Speed:
        """What was found; `read` is the time for a token of a forward pass."""
        rows, tokens, reading, step = self.found[0]
        each, turn = reading / max(1, tokens), 0.0
        if len(self.found) > 1:
            _, later, reading_later, step = self.found[1]
            if later < tokens / 2:
                turn = max(0.0, (reading_later - later * each) / rows)
            else:
                each = (reading + reading_later) / max(1, tokens + later)
        answered = read
        if self.few is not None:
            answered = max(0.0, (step - self.few[1]) / (rows - self.few[0]))
        return Speed(each, 3 * read, max(0.0, step - rows * answered), answered, turn=turn)


def _forced(grammar: Grammar | None) -> int | None:
    """How many tokens a response begins with that are the only one allowed; None where all are."""
    if grammar is None:
        return 0
    walk, count = grammar.walk(), 0
    while not walk.complete:
        if walk.allowed.choice:
            return count
        walk.take(walk.allowed.ids[0])
        count += 1
    return None


class _Enough(Exception):
    """The time of a part is up."""


def _steps(policy: Policy, config: SFTConfig, demos: list[DemoStep]) -> tuple[float, float]:
    """Seconds of a step of SFT, and those for cutting a demonstrated step into tokens."""
    times, read = [time.thread_time()], list[float]()

    def after_step() -> None:
        times.append(time.thread_time())
        if len(times) > 3 and times[-1] - times[0] > _PART_S:
            raise _Enough

    with suppress(_Enough):
        SFT(policy, config, 0).run(demos, after_step=after_step, read=lambda rows: read.append(time.thread_time()))
    spent = np.diff(times)[1:]
    return float(np.mean(spent)), (read[0] - times[0]) / len(demos)


def _least(once: Callable[[], Any], times: int = 3) -> float:
    """Seconds for the fastest of a few calls; of calls that take long, one or two."""
    found = list[float]()
    for _ in range(times):
        began = time.thread_time()
        once()
        found.append(time.thread_time() - began)
        if sum(found) > _PART_S / 2 and len(found) > 1:
            break
    return min(found)
