"""Demonstrations: what the environment's own expert does, as prompts and answers.

The demonstrator is the environment's own (`env.demonstrator`). A good one looks for what it has not seen and otherwise
goes the shortest way; imitating an all-knowing expert instead teaches a policy not to look, since whatever it wants is
always where it arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from stapo.agent import (
    AgentConfig,
    BlindMask,
    Memory,
    Prompt,
    PromptFields,
    Turn,
    cut_text,
    render_prompt,
    write_response,
)
from stapo.config.training import SFTConfig
from stapo.envs import CommandShapes, Observation, StepResult
from stapo.envs.guard import EnvFailure, EpisodeLost, Started
from stapo.envs.offers import is_template
from stapo.envs.pool import EnvPool, about, insist
from stapo.envs.protocol import NO_SHAPES
from stapo.envs.slot import About, Question
from stapo.errors import ConfigError, FailureLimitError
from stapo.rollout.episode import listed_commands
from stapo.rollout.faults import Attempts, TaskFailed
from stapo.rollout.record import RecordedEpisode, RecordedStep
from stapo.texts import counted


@dataclass(frozen=True, slots=True)
class DemoStep:
    """One demonstrated step.

    Attributes:
        goal: the task sentence in the prompt.
        prompt: the full prompt.
        short_prompt: it without history and without commands that lead elsewhere.
        blind_prompt: the trajectory-blind one.
        action: the response.
        command: the part of the response that the demonstrator gave; "" where its tags are part of it.
        ended: the response has an end token; one that was cut off is learned without.
    """

    goal: str
    prompt: Prompt
    short_prompt: Prompt
    blind_prompt: Prompt
    action: str
    command: str = ""
    ended: bool = True


def demonstrate(
    pool: EnvPool,
    agent: AgentConfig,
    config: SFTConfig,
    split: str,
    blind_mask: BlindMask,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    attempts: Attempts | None = None,
    left_out: Collection[int] = (),
    slot: int = 0,
) -> list[DemoStep]:
    """Let the environment's expert play tasks of `split`, and write its steps as prompts and answers.

    The arguments are those of `demonstrated`, and `blind_mask`, which says what the blind prompt hides.

    Raises:
        ConfigError: the environment offers no expert, or the demonstrations hold no step.
        FailureLimitError: too many in a row failed, or all.
        EnvError: the environment cannot say which tasks it has.
    """
    played, shapes = demonstrated(
        pool, agent, config, split, seed, progress, attempts=attempts, left_out=left_out, slot=slot
    )
    demos = [step for episode in played for step in imitated(episode, agent, blind_mask, shapes)]
    if not demos:
        raise ConfigError(
            f"sft.episodes is {config.episodes}, and the {counted(len(played), 'demonstration')} of split "
            f"'{split}' hold no step to imitate; expected more demonstrations, or less wandering (sft.wander)."
        )
    return demos


def demonstrated(
    pool: EnvPool,
    agent: AgentConfig,
    config: SFTConfig,
    split: str,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    attempts: Attempts | None = None,
    left_out: Collection[int] = (),
    slot: int = 0,
) -> tuple[list[RecordedEpisode], CommandShapes]:
    """Let the environment's expert play tasks of `split` and record its steps; also returns how its commands look.

    A demonstration that fails is played again from its start with the same random numbers, in a fresh environment, and
    left out when it fails every time.

    Args:
        pool: has the environment.
        agent: prompts and response format.
        config: how many, of which tasks.
        split: where the tasks are from.
        seed: of the choice of tasks and of everything that is drawn.
        progress: called with (finished, all) demonstrations.
        attempts: counts failures; left out, the first that fails for good ends it all.
        left_out: numbers of demonstrations that are not to be played: they failed when the run began.
        slot: of the pool.

    Raises:
        ConfigError: the environment offers no expert.
        FailureLimitError: too many in a row failed, or all.
        EnvError: the environment cannot say which tasks it has.
    """
    pool.grow(slot + 1)
    tries = Attempts(0, 1) if attempts is None else attempts
    require_demonstrator(pool, slot, tries.retries)
    rng = np.random.default_rng([seed, 11])
    tasks = _pick_tasks(pool, slot, config, split, rng, tries.retries)
    played, shapes = list[RecordedEpisode](), NO_SHAPES

    def play(task: str) -> tuple[RecordedEpisode, CommandShapes]:
        before = rng.bit_generator.state
        try:
            return _play(pool, slot, agent, config, task, rng)
        except TaskFailed:
            rng.bit_generator.state = before
            pool.discard(slot)
            raise

    for number, task in enumerate(tasks):
        found = None if number in left_out else tries.until_done(partial(play, task), task, number)
        if found is not None:
            played.append(found[0])
            shapes = found[1]
        if progress is not None:
            progress(number + 1, len(tasks))
    if not played and tries.failures:
        last = tries.failures[-1]
        raise FailureLimitError(
            f"every demonstration failed ({len(tasks):,} in all), the last one in its {last.boundary} (task "
            f"'{last.task_id}'): {last.error}. Repair the environment, or set sft.steps to 0."
        )
    return played, shapes


def require_demonstrator(pool: EnvPool, slot: int = 0, retries: int = 1) -> None:
    """Check that the environment can demonstrate.

    Raises:
        ConfigError: it cannot.
    """
    pool.grow(slot + 1)
    what = about(pool, slot, retries)
    if not what.demonstrates:
        raise ConfigError(
            f"environment '{what.name}' has no demonstrator(rng): SFT imitates it, and a small model's tokenizer is "
            "made from what it shows. Give it one (docs/environments/custom.md), or start from a pretrained model "
            "without SFT: --model.path MODEL --sft.steps 0."
        )


def _pick_tasks(
    pool: EnvPool, slot: int, config: SFTConfig, split: str, rng: np.random.Generator, retries: int
) -> list[str]:
    by_type: dict[str, list[str]] = {}
    every = insist(pool, slot, "tasks", split, retries)
    for task, task_type in zip(every, insist(pool, slot, "types", every, retries), strict=True):
        by_type.setdefault(task_type, []).append(task)
    unknown = set(config.scarce_types) - set(by_type)
    if unknown:
        raise ConfigError(f"sft.scarce_types names {sorted(unknown)}, but split '{split}' has {sorted(by_type)}.")
    if not by_type:
        raise ConfigError(f"split '{split}' holds no task to demonstrate; choose another with env.split.")
    share = config.episodes / len(by_type)
    picked: list[str] = []
    for task_type, tasks in sorted(by_type.items()):
        count = round(share * (config.scarce_fraction if task_type in config.scarce_types else 1.0))
        order = rng.permutation(len(tasks))
        picked += [tasks[order[i % len(tasks)]] for i in range(count)]
    return picked


def _play(
    pool: EnvPool, slot: int, agent: AgentConfig, config: SFTConfig, task: str, rng: np.random.Generator
) -> tuple[RecordedEpisode, CommandShapes]:
    def ask(question: Question, argument: Any, step: int) -> Any:
        out = pool.ask(slot, question, argument)
        if isinstance(out, EnvFailure | EpisodeLost):
            raise TaskFailed(out, step)
        return out

    (begun,) = pool.reset([(slot, task)])
    if not isinstance(begun, Started):
        raise TaskFailed(begun, 0)
    seen: Observation | StepResult = begun.observation
    limit, shapes, won, steps = agent.max_observation_characters, begun.shapes, False, list[RecordedStep]()
    ask("expert", int(rng.integers(2**63)), 0)
    for step in range(About(*ask("about", None, 0)).max_steps):
        action = ask("advice", None, step)
        if action is None:
            break
        thought = ask("thought", None, step) if agent.has_parts else ""
        ready = [c for c in seen.admissible or () if not is_template(c)]
        wandering = bool(ready) and rng.random() < config.wander
        if wandering:
            action, thought = ready[int(rng.integers(len(ready)))], ""
        blind = cut_text(seen.blind, limit)
        listed = listed_commands(seen.admissible, agent, blind, shapes) or ()
        has_number = not agent.numbered or action in listed
        said = write_response(action, agent.response, listed, thought) if has_number else action
        offered = None if seen.admissible is None else tuple(seen.admissible)
        imitate = has_number and not wandering
        steps.append(RecordedStep(cut_text(seen.text, limit), blind, offered, action, said, imitate=imitate))
        (out,) = pool.step([(slot, action)])
        if not isinstance(out, StepResult):
            raise TaskFailed(out, step)
        ask("played", [action, bool(out.info.get("effect", True))], step + 1)
        seen, won = out, out.won
        if out.done:
            break
    return RecordedEpisode(task, cut_text(begun.observation.goal, limit), won, tuple(steps)), shapes


def imitated(
    episode: RecordedEpisode, agent: AgentConfig, blind_mask: BlindMask, shapes: CommandShapes
) -> list[DemoStep]:
    """The steps of an episode that SFT imitates, under the prompts that they would have in RL.

    Args:
        episode: demonstrated or recorded.
        agent: prompts and response format.
        blind_mask: what the blind prompt hides.
        shapes: how the commands and pages of the environment look.
    """
    memory = Memory(None if agent.keeps_turns else agent.history_length, agent.command_history)
    demos: list[DemoStep] = []
    for number, step in enumerate(episode.steps):
        fields = PromptFields(
            episode.goal, number, memory.steps_taken, memory.recall(), step.observation, step.blind,
            listed_commands(step.admissible, agent, step.blind, shapes),
            memory.recall_commands(), shapes,
        )  # fmt: skip
        if step.imitate:
            demos.append(
                DemoStep(
                    episode.goal,
                    render_prompt(fields, agent),
                    render_prompt(replace(fields, admissible=_nearby(fields, agent)), agent, "history"),
                    render_prompt(fields, agent, blind_mask),
                    step.response,
                    "" if agent.keeps_thought else step.action,
                    step.ended,
                )
            )
        said = step.response if agent.keeps_turns else ""
        memory.add(Turn(step.observation, step.blind, step.action, said, listed=fields.admissible))
    return demos


def _nearby(fields: PromptFields, agent: AgentConfig) -> tuple[str, ...] | None:
    """The commands that act on what is at hand: without those that lead elsewhere, unless numbers count them."""
    if agent.numbered or fields.admissible is None:
        return fields.admissible
    return tuple(c for c in fields.admissible if not c.startswith(fields.shapes.distant))


def tokenizer_texts(demos: list[DemoStep]) -> Iterator[str]:
    """Texts that a small model's tokenizer is trained on.

    The task sentence is given word by word: whole sentences would become tokens that no held-out task ever uses.
    """
    for demo in demos:
        if not demo.goal:  # chat messages, of which nobody knows the task
            yield demo.prompt.shown
        elif not demo.prompt.turns:
            head, _, goal = demo.prompt.shown.partition(demo.goal)
            yield head
            yield goal
        else:
            yield f"{demo.prompt.text}\n>"
        yield demo.action
        yield from (f" {word}" for word in demo.goal.rstrip(".").split())
