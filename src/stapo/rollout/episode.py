"""One episode in progress: memory, what the world showed last, and the trajectory that grows.

It never calls an environment: what an environment returns is handed in, and the action to take is handed out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

from stapo.agent import (
    AgentConfig,
    BlindMask,
    Memory,
    Prompt,
    PromptFields,
    Turn,
    cut_commands,
    cut_text,
    in_page_order,
    part_spans,
    render_prompt,
)
from stapo.envs import CommandShapes, Observation, StepResult
from stapo.envs.guard import EnvFailure, raised, short
from stapo.envs.offers import is_template, offers
from stapo.envs.protocol import NO_SHAPES
from stapo.errors import ConfigError, EnvError
from stapo.rollout.config import AnchorKey, LimitsConfig
from stapo.rollout.constraints import Grammars
from stapo.rollout.encoding import Encoder
from stapo.rollout.faults import Boundary
from stapo.rollout.sampler import Sample
from stapo.rollout.stopping import StopRule
from stapo.rollout.trie import Grammar
from stapo.rollout.types import Step, StopReason, Trajectory
from stapo.texts import replace_surrogates


@dataclass(eq=False, repr=False)
class Episode:
    """Plays one task: `begin`, then `prompt`, `answer` and `observe` in turn until `done`."""

    encoder: Encoder
    agent: AgentConfig
    trajectory: Trajectory
    _: KW_ONLY
    blind_mask: BlindMask
    anchor: AnchorKey
    reward_scale: float
    mark_parts: bool = False
    masks: Sequence[BlindMask] = ()
    grammars: Grammars | None = None
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        agent = self.agent
        self.grammar: Grammar | None = None
        self.memory = Memory(None if agent.keeps_turns else agent.history_length, agent.command_history)
        self.observation = self.blind_observation = self._whole_observation = ""
        self.admissible: list[str] | None = None
        self.shapes = NO_SHAPES
        self.done = False
        self._tried: set[tuple[str, str]] = set()
        self._prompt: tuple[Prompt, list[int], Prompt, list[int]] = (Prompt(""), [], Prompt(""), [])
        self._masked: dict[str, list[int]] = {}
        self._listed: tuple[str, ...] | None = None
        self._step: Step | None = None
        self._goal_cut = False
        self._forgotten = 0
        self._told = ""
        self._stop = StopRule(agent.stop, self.encoder) if agent.stop else None
        self._began = 0.0

    def begin(self, first: Observation, shapes: CommandShapes = NO_SHAPES) -> None:
        """Take in what the episode begins with, and how its commands and pages look."""
        self._began = time.monotonic()
        self.shapes = shapes
        self._goal_cut = len(first.goal) > self.agent.max_observation_characters
        self.trajectory.goal = cut_text(first.goal, self.agent.max_observation_characters)
        self._see(first)

    def prompt(self) -> list[int] | None:
        """Render the prompts of this step and return the full one's tokens, or None if it cannot fit."""
        self._listed = listed_commands(self.admissible, self.agent, self.blind_observation, self.shapes)
        self.grammar = None if self.grammars is None else self.grammars.of(self._listed or ())
        self._forgotten = 0
        for history, commands in self._histories():
            fields = PromptFields(
                goal=self.trajectory.goal,
                step=len(self.trajectory.steps),
                steps_taken=self.memory.steps_taken,
                history=history,
                observation=self.observation,
                blind_observation=self.blind_observation,
                admissible=self._listed,
                earlier=commands,
                shapes=self.shapes,
            )
            full = render_prompt(fields, self.agent)
            ids = self.encoder.encode(full)
            tokens = self.encoder.length(ids)
            if tokens <= self.agent.max_prompt_tokens:
                blind = render_prompt(fields, self.agent, self.blind_mask)
                self._prompt = (full, ids, blind, self.encoder.encode(blind))
                self._masked = {
                    mask: self.encoder.encode(render_prompt(fields, self.agent, mask)) for mask in self.masks
                }
                return ids
        self.trajectory.stop_reason, self.trajectory.too_long = StopReason.PROMPT_TOO_LONG, tokens
        self.done = True
        return None

    def _histories(self) -> Iterator[tuple[tuple[Turn, ...], tuple[str, ...]]]:
        """Turns and commands to show, less each time that a prompt with them was too long."""
        turns, earlier = self.memory.recall(), self.memory.recall_commands()
        if self.agent.keeps_turns:
            yield turns, ()
            while self.memory.turns:
                # Half of them at once: one a step would begin a new sequence at every step.
                self._forgotten += self.memory.forget_half()
                yield self.memory.recall(), ()
        else:
            # The commands alone go first, then the oldest turns.
            if earlier:
                yield turns, earlier
            for kept in range(len(turns), -1, -1):
                yield turns[len(turns) - kept :], ()

    def answer(self, sample: Sample) -> str | EnvFailure:
        """Take in a sampled response; returns the action to take, or why there is none."""
        wrong = _wrong_sample(sample)
        if wrong:
            return EnvFailure(Boundary.MODEL, f"the sampler answered with {wrong}")
        try:
            allowed = None if self.grammar is None else self.grammar.along(sample.ids)
        except ValueError as err:
            return EnvFailure(Boundary.MODEL, f"the sampler answered with a response that is not offered: {err}")
        try:
            sample = self._stop.cut(sample) if self._stop else sample
            response = self.encoder.decode(sample.ids)
            tools = (self.shapes.tools,) if self.agent.calls_tools else ()
            parsed = self.encoder.parse(sample.ids, self.agent, self._listed or (), *tools)
            opening = self.encoder.opening(sample.ids) if self.mark_parts else ""
            parts = (
                token_parts(sample.ids, lambda ids: opening + self.encoder.decode(ids), self.agent.response)
                if self.mark_parts
                else {}
            )
        except Exception as err:
            return replace(raised(err, f"reading the response {short(sample.ids)}"), boundary=Boundary.PARSER)
        valid, problem, self._told = parsed.valid, parsed.problem, parsed.told
        offered = self.admissible if self.agent.require_admissible else None
        if valid and offered is not None and not offers(offered, parsed.action):
            valid, problem = False, "not_admissible"
        full, ids, blind, blind_ids = self._prompt
        markers = self.encoder.markers(full)
        anchor = self.observation
        if anchor != self._whole_observation:
            # States that differ only behind the cut are two states.
            anchor += hashlib.sha256(replace_surrogates(self._whole_observation).encode()).hexdigest()
        if self.anchor == "observation_and_admissible" and self.admissible is not None:
            anchor += "\n" + "\n".join(self.admissible)
        self._step = Step(
            prompt_ids=ids,
            blind_ids=blind_ids,
            response_ids=sample.ids,
            logprobs=sample.logprobs,
            entropies=sample.entropies,
            prompt=full.shown,
            blind_prompt=blind.shown,
            response=response,
            action=parsed.action,
            valid=valid,
            problem=problem,
            anchor=anchor,
            observation=self.observation,
            truncated=not sample.ended,
            repeated=(anchor, parsed.action) in self._tried,
            parts=parts,
            masked=self._masked,
            cut_texts=self._cut_texts(),
            foreign_markers=markers.foreign,
            broken_markers=markers.broken,
            forgotten_turns=self._forgotten,
            first_message=full.system,
            allowed=allowed,
            blind_observation=self.blind_observation,
            admissible=None if self.admissible is None else tuple(self.admissible),
        )
        return parsed.action

    def observe(self, out: StepResult) -> None:
        """Take in what the action led to, and append the step.

        Raises:
            EnvError: no action was asked for.
        """
        step, self._step = self._step, None
        if step is None:
            raise EnvError("observe was called without an action in between; call prompt and answer first.")
        step.reward = out.reward * self.reward_scale
        step.rewards = {name: value * self.reward_scale for name, value in (out.info.get("rewards") or {}).items()}
        step.effect = out.info.get("effect")
        if out.info.get("retriever_error"):
            step.retriever_error = str(out.info.get("retriever_error_kind", "failed"))
        self.trajectory.steps.append(step)
        self._tried.add((step.anchor, step.action))
        self.memory.add(
            Turn(
                self.observation,
                self.blind_observation,
                step.action,
                step.response,
                tuple(step.response_ids),
                self._listed,
            )
        )
        if self._told:
            blind = None if out.blind_text is None else f"{self._told}\n{out.blind_text}"
            out = replace(out, text=f"{self._told}\n{out.text}", blind_text=blind)
        self._see(out)
        if out.done:
            self.done = True
            self.trajectory.won = out.won
            self.trajectory.task_score = out.info.get("task_score")
            if out.won:
                self.trajectory.stop_reason = StopReason.WON
            elif out.info.get("truncated"):
                self.trajectory.stop_reason = StopReason.STEP_LIMIT
            else:
                self.trajectory.stop_reason = StopReason.FAILED
        elif reached := self._limit_reached():
            self.done, self.trajectory.stop_reason = True, reached

    def _limit_reached(self) -> StopReason | None:
        limits = self.limits
        if limits.tokens and sum(len(step.response_ids) for step in self.trajectory.steps) >= limits.tokens:
            return StopReason.TOKEN_LIMIT
        if limits.seconds and time.monotonic() - self._began >= limits.seconds:
            return StopReason.TIME_LIMIT
        return None

    def _see(self, seen: Observation | StepResult) -> None:
        """Take in what the world shows, as much of it as prompts may hold."""
        limit = self.agent.max_observation_characters
        self._whole_observation = seen.text
        self.observation, self.blind_observation = cut_text(seen.text, limit), cut_text(seen.blind, limit)
        self.admissible = seen.admissible

    def _cut_texts(self) -> int:
        """How many of goal, observation and list of commands this step's prompt does not show whole."""
        choice = self.agent.numbered
        shown = (c for c in self.admissible or () if c not in self.agent.hidden_commands)
        offered = sum(not (choice and is_template(c)) for c in shown)
        commands = self._listed is not None and len(self._listed) < offered
        return self._goal_cut + (self.observation != self._whole_observation) + commands


def listed_commands(
    admissible: Sequence[str] | None, agent: AgentConfig, page: str, shapes: CommandShapes
) -> tuple[str, ...] | None:
    """The offered commands that a prompt lists, None for free text; where a number is the answer, the complete ones.

    Raises:
        ConfigError: a number is the answer, or decoding is constrained, and there is nothing to choose from.
    """
    shown = None if admissible is None else tuple(c for c in admissible if c not in agent.hidden_commands)
    if agent.constrained and not shown:
        raise ConfigError(
            "agent.decode is 'constrained', but the environment offers "
            + ("no list of commands" if shown is None else "none at this step")
            + ". Set agent.decode to 'free'."
        )
    if not agent.numbered:
        return None if shown is None else cut_commands(shown, agent.max_commands, agent.max_observation_characters)
    complete = tuple(c for c in shown or () if not is_template(c))
    if not complete:
        raise ConfigError(
            f"agent.response is '{agent.response}', but the environment offers "
            + ("no list of commands" if shown is None else "no complete command to choose")
            + ". Use another response format."
            + (f" Or: {shapes.choice_hint}" if shapes.choice_hint else "")
        )
    return in_page_order(cut_commands(complete, agent.max_commands, agent.max_observation_characters), page, shapes)


def _wrong_sample(sample: Sample) -> str:
    """What is wrong with a response, "" for nothing. NaN passes here as well: training stops on it."""
    try:
        tokens, logprobs, entropies = len(sample.ids), len(sample.logprobs), len(sample.entropies)
    except Exception:
        return f"{short(sample)}, expected a Sample with lists"
    if tokens == 0:
        return "no tokens, expected at least one (the end token)"
    if not tokens == logprobs == entropies:
        return (
            f"{tokens} tokens, {logprobs} log-probabilities and {entropies} entropies, expected one of each per token"
        )
    return ""


_UNFINISHED = "\ufffd"


def token_parts(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str], response_format: str = "think_action"
) -> dict[str, tuple[int, int]]:
    """Token range of each part of a response: part -> (first, end).

    A part without text has no tokens and is left out, as is one whose tags are missing. A token that carries the
    bracket of a tag together with text of the part counts.

    Args:
        ids: the sampled tokens.
        decode: turns tokens into text; has to be the one that the response was read with.
        response_format: says where the parts are.
    """
    ranges = {}
    text = decode(ids)
    for part, (start, end) in part_spans(text, response_format).items():
        if start == end:
            continue
        first, last = _tokens_for(text[:start], ids, decode), _tokens_for(text[:end], ids, decode)
        if first and len(decode(ids[:first])) > start:
            first -= 1
        if first < last:
            ranges[part] = (first, last)
    return ranges


def _tokens_for(beginning: str, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """The least number of tokens whose text starts with `beginning`; all of them where no fewer do.

    Bisection, with a trap in it: of a character that is cut into several tokens, the first ones decode to replacement
    characters, and some decoders also replace finished characters next to it. Such a text answers nothing, so the
    search steps back to where the last character is whole.
    """
    low, high = 0, len(ids)
    while low < high:
        middle = count = (low + high) // 2
        text = decode(ids[:count])
        while count > low and text.endswith(_UNFINISHED) and not text.startswith(beginning):
            count -= 1
            text = decode(ids[:count])
        if text.startswith(beginning):
            high = count
        else:
            low = middle + 1
    return low
