"""What a rollout is.

1. The tokens kept are the tokens sampled, beside the prompt tokens that the sampler was given.
2. All running episodes generate together; finished ones are asked nothing any more.
3. Every episode ends for exactly one documented reason.
4. An episode depends on its task, its place and the stream alone: not on batch, order or other episodes.
5. A step records what the world did: reward, effect, repetition, anchor.
6. The next prompt shows what was seen and done; a prompt that is too long loses its oldest turns first.
7. Environments are built once, used again, and closed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from stapo.agent import AgentConfig
from stapo.envs import make
from stapo.rollout import StopReason
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler, Sample
from toy_world import ToyEnv, small_policy

ENCODER = PromptEncoder(small_policy().tokenizer)
AGENT = AgentConfig(prompt="compact", response="action", history_length=2, max_prompt_tokens=300, max_response_tokens=8)
TASKS = ["toy/train/red", "toy/train/blue", "toy/train/grey"]


class FakeSampler:
    """Says what a function of (group, member, step) tells it to, and remembers what it was asked."""

    def __init__(self, say, ended=True):
        self.say = say
        self.ended = ended
        self.calls = []

    def sample(self, prompts, streams, temperature):
        self.calls.append((list(map(list, prompts)), list(streams), temperature))
        samples = []
        for *_, group, member, step in streams:
            ids = ENCODER.tokenizer.encode(self.say(group, member, step)) + (
                [ENCODER.tokenizer.eos_token_id] if self.ended else []
            )
            samples.append(Sample(ids, [-0.5 - k for k in range(len(ids))], [0.1] * len(ids), self.ended))
        return samples


def collector(say=lambda g, m, s: "hi", env=ToyEnv, agent=AGENT, ended=True, **options):
    return Collector(env, ENCODER, FakeSampler(say, ended), agent, **options)


def collect(c, tasks=TASKS, size=2, stream=(0, 1), **options):
    return c.collect(tasks, size, 1.0, stream, **options)


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_the_tokens_kept_are_the_tokens_sampled():
    policy = small_policy(architecture="qwen3", initializer_range=0.3)
    real = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 8)
    seen = []

    class Spy:
        def sample(self, prompts, streams, temperature):
            samples = real.sample(prompts, streams, temperature)
            seen.extend((s, list(p), x) for s, p, x in zip(streams, prompts, samples, strict=True))
            return samples

    encoder = PromptEncoder(policy.tokenizer)
    trajectories = Collector(ToyEnv, encoder, Spy(), AGENT).collect(TASKS, 4, 1.0, (0, 1))
    steps = {(0, 1, t.group, t.member, k): s for t in trajectories for k, s in enumerate(t.steps)}
    assert len(seen) == len(steps) == 36
    retokenized = 0
    for stream, prompt, sample in seen:
        step = steps[stream]
        assert (step.prompt_ids, step.response_ids) == (prompt, sample.ids)
        assert (step.logprobs, step.entropies) == (sample.logprobs, sample.entropies)
        assert step.truncated == (sample.ids[-1] not in policy.eos_ids)
        assert step.prompt_ids == encoder.encode(step.prompt)
        assert step.blind_ids == encoder.encode(step.blind_prompt)
        retokenized += encoder.tokenizer.encode(step.response) != [i for i in sample.ids if i not in policy.eos_ids]
    # The point of the exercise: encoding the text anew would have given other tokens.
    assert retokenized > 10


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_finished_episodes_are_asked_nothing():
    """Member 1 of each group says the fatal word in its second step."""
    c = collector(lambda g, m, s: "doom" if (m, s) == (1, 1) else "hi", partial(ToyEnv, fatal="doom"))
    trajectories = collect(c)
    assert [[s[2:] for s in streams] for _, streams, _ in c.sampler.calls] == [
        [(g, m, 0) for g in range(3) for m in range(2)],
        [(g, m, 1) for g in range(3) for m in range(2)],
        [(g, 0, 2) for g in range(3)],
    ]
    assert [len(t.steps) for t in trajectories] == [3, 2] * 3
    assert sum(len(prompts) for prompts, _, _ in c.sampler.calls) == sum(len(t.steps) for t in trajectories)


def test_progress_counts_finished_episodes():
    told = []
    collect(
        collector(lambda g, m, s: "doom" if (m, s) == (1, 1) else "hi", partial(ToyEnv, fatal="doom")),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(0, 6), (3, 6), (6, 6)]


# -- 3 -----------------------------------------------------------------------------------------------------------------


class EndlessEnv(ToyEnv):
    """A world whose observations grow."""

    def step(self, action):
        out = super().step(action)
        return replace(out, text="very much text " * 200)


@pytest.mark.parametrize(
    "say, env, reason, won, steps",
    [
        ("hi", ToyEnv, StopReason.WON, True, 3),
        ("odd", ToyEnv, StopReason.STEP_LIMIT, False, 3),
        ("doom", partial(ToyEnv, fatal="doom"), StopReason.FAILED, False, 1),
        ("hi", EndlessEnv, StopReason.PROMPT_TOO_LONG, False, 1),
    ],
)
def test_stop_reasons(say, env, reason, won, steps):
    for t in collect(collector(lambda g, m, s: say, env)):
        assert (t.stop_reason, t.won, len(t.steps)) == (reason, won, steps)


def test_the_list_of_reasons_is_closed():
    assert [r.value for r in StopReason] == [
        "won", "failed", "step_limit", "token_limit", "time_limit", "prompt_too_long", "error",
    ]  # fmt: skip


def test_a_first_prompt_that_does_not_fit_leaves_an_episode_without_steps():
    c = collector(agent=replace(AGENT, max_prompt_tokens=8))
    trajectories = collect(c)
    assert [t.stop_reason for t in trajectories] == [StopReason.PROMPT_TOO_LONG] * 6
    assert not any(t.steps for t in trajectories)
    assert not any(prompts for prompts, _, _ in c.sampler.calls)


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_trajectories_come_by_group_and_member():
    trajectories = collect(collector(), size=3, first_group=5)
    assert [(t.task_id, t.group, t.member) for t in trajectories] == [
        (task, g, m) for g, task in enumerate(TASKS, start=5) for m in range(3)
    ]
    assert [t.task_type for t in trajectories] == ["warm"] * 3 + ["cold"] * 6
    assert {t.goal for t in trajectories if t.task_id == TASKS[1]} == {"please the blue judge."}


def test_every_response_has_a_stream_of_its_own():
    c = collector()
    collect(c, stream=(3, 1, 7))
    streams = [s for _, part, _ in c.sampler.calls for s in part]
    assert len(set(streams)) == len(streams) == 18
    assert all(s[:3] == (3, 1, 7) for s in streams)


def test_an_episode_does_not_depend_on_its_company():
    policy = small_policy(architecture="qwen3", initializer_range=0.3)

    def play(tasks, size, first_group=0, batch_tokens=10_000):
        sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 8, batch_tokens)
        c = Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, AGENT)
        return c.collect(tasks, size, 1.0, (0, 1), first_group=first_group)

    together = {(t.group, t.member): t for t in play(TASKS, 4)}
    parts = play(TASKS[:1], 4) + play(TASKS[1:], 4, first_group=1)
    small = play(TASKS, 2)
    cut = play(TASKS, 4, batch_tokens=300)
    assert len({tuple(s.action for s in t.steps) for t in together.values()}) == 12
    for t in parts + small + cut:
        twin = together[t.group, t.member]
        assert [s.response_ids for s in t.steps] == [s.response_ids for s in twin.steps]
        assert [s.prompt for s in t.steps] == [s.prompt for s in twin.steps]
        assert (t.won, t.stop_reason, t.score) == (twin.won, twin.stop_reason, twin.score)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_rewards_are_scaled():
    for t in collect(collector(lambda g, m, s: "hi" if m else "odd", reward_scale=10.0)):
        assert [s.reward for s in t.steps] == ([0, 0, 10.0] if t.member else [0, 0, 0])
        assert t.score == (10.0 if t.member else 0)


def test_a_command_given_again_in_the_same_state_is_a_repetition():
    said = {0: ("hi", "hi", "hi"), 1: ("hi", "ho", "ho"), 2: ("odd", "odd", "odd")}
    first, second, third = collect(collector(lambda g, m, s: said[g][s]), size=1)
    # "hi" leads from the opening to "even", where it is said again: only then is the state one that was seen.
    assert [s.repeated for s in first.steps] == [False, False, True]
    assert [s.repeated for s in second.steps] == [False, False, True]
    assert [s.repeated for s in third.steps] == [False, False, True]
    assert first.steps[2].anchor == first.steps[1].anchor != first.steps[0].anchor


def test_invalid_answers_are_played_and_marked():
    trajectory = collect(collector(lambda g, m, s: ("", "a\nb", "fine")[s]), TASKS[:1], 1)[0]
    assert [s.problem for s in trajectory.steps] == ["empty_action", "not_one_line", ""]
    assert [s.valid for s in trajectory.steps] == [False, False, True]
    assert [s.action for s in trajectory.steps] == ["", "a\nb", "fine"]


def test_a_response_cut_by_the_limit_is_marked():
    assert all(s.truncated for t in collect(collector(ended=False)) for s in t.steps)
    assert not any(s.truncated for t in collect(collector()) for s in t.steps)


HOUSE = partial(make, "alfworld", scenes="tiny", games_per_type=1, max_steps=4)
HOUSE_TASK = [t for t in HOUSE().tasks_of("train") if "pick_and_place" in t]
HOUSE_AGENT = replace(AGENT, max_prompt_tokens=900, hidden_commands=("help", "look"))


def house(say, **options):
    return collect(collector(say, HOUSE, options.pop("agent", HOUSE_AGENT), **options), HOUSE_TASK, 1)[0]


def test_the_world_says_what_had_an_effect():
    places = [c for c in HOUSE().reset(HOUSE_TASK[0]).admissible if c.startswith("go to")]
    t = house(lambda g, m, s: ("sing", "look", places[0], places[0])[s])
    assert [s.effect for s in t.steps] == [False, False, True, False]
    assert [s.effect for s in collect(collector())[0].steps] == [None, None, None]


def test_only_offered_commands_count_where_that_is_asked_for():
    for strict, valid in ((False, [True] * 4), (True, [False, True, True, False])):
        agent = replace(HOUSE_AGENT, require_admissible=strict)
        t = house(lambda g, m, s: ("sing", "look", "inventory", "Look")[s], agent=agent)
        assert [s.valid for s in t.steps] == valid
        assert [s.problem for s in t.steps] == ["" if ok else "not_admissible" for ok in valid]


def test_hidden_commands_are_not_listed_but_work():
    t = house(lambda g, m, s: "look")
    listed = [line for s in t.steps for line in s.prompt.splitlines()]
    assert "look" not in listed
    assert "help" not in listed
    assert "inventory" in listed
    assert t.steps[1].observation.startswith("You are in the middle of a room.")


def test_anchors_tell_states_apart_as_configured():
    """ "Nothing happens." is said in the middle of the room and at the fridge alike."""
    goto = next(c for c in HOUSE().reset(HOUSE_TASK[0]).admissible if c.startswith("go to"))

    def say(g, m, s):
        return ("sing", goto, "sing", "sing")[s]

    plain, exact = house(say), house(say, anchor="observation_and_admissible")
    assert plain.steps[1].anchor == plain.steps[3].anchor == "Nothing happens."
    assert exact.steps[1].anchor != exact.steps[3].anchor
    assert exact.steps[3].anchor.startswith("Nothing happens.\n")
    assert [s.anchor for s in plain.steps] == [s.observation for s in plain.steps]
    # Without commands to add, both keys are the same.
    free = [collect(collector(anchor=a))[0].steps[1].anchor for a in ("observation", "observation_and_admissible")]
    assert free[0] == free[1]


def test_parts_are_marked_only_where_asked_for():
    agent = replace(AGENT, response="think_action", max_response_tokens=60)
    for mark in (False, True):
        c = collector(lambda g, m, s: "<think>so</think><action>hi</action>", agent=agent, mark_parts=mark)
        step = collect(c)[0].steps[0]
        assert step.action == "hi"
        if mark:
            text = {part: ENCODER.decode(step.response_ids[a:b]) for part, (a, b) in step.parts.items()}
            assert text == {"think": "so", "action": "hi"}
        else:
            assert step.parts == {}


# -- 6 -----------------------------------------------------------------------------------------------------------------


def test_the_next_prompt_shows_what_was_seen_and_done():
    t = collect(collector(lambda g, m, s: f"say {s}"), TASKS[:1], 1)[0]
    assert "A judge listens." in t.steps[0].prompt
    assert "say 0" in t.steps[1].prompt
    assert "The judge heard something odd." in t.steps[1].prompt
    assert "say 0" in t.steps[2].prompt
    assert "say 1" in t.steps[2].prompt
    for s in t.steps:
        assert "red judge" in s.prompt
        assert "red judge" not in s.blind_prompt
        assert "say" not in s.blind_prompt


@pytest.mark.parametrize("mask, hidden, shown", [("goal", "red judge", "say 0"), ("history", "say 0", "red judge")])
def test_the_blind_prompt_hides_what_the_mask_says(mask, hidden, shown):
    step = collect(collector(lambda g, m, s: f"say {s}", blind_mask=mask), TASKS[:1], 1)[0].steps[1]
    assert hidden not in step.blind_prompt
    assert shown in step.blind_prompt


def test_a_later_observation_that_names_the_goal_is_blind_in_the_blind_prompt():
    class Reminding(ToyEnv):
        def step(self, action):
            out = super().step(action)
            return replace(out, text=f"{out.text} The red judge waits.", blind_text=out.text)

    agent = replace(AGENT, prompt="standard", max_prompt_tokens=3_000)
    for options in ({}, {"blind_mask": "goal"}):
        t = collect(collector(lambda g, m, s: f"say {s}", env=Reminding, agent=agent, **options), TASKS[:1], 1)[0]
        assert "The red judge waits." in t.steps[1].prompt
        assert all("red judge" not in step.blind_prompt for step in t.steps)


def test_a_long_prompt_loses_its_oldest_turns_first():
    whole = collect(collector(lambda g, m, s: f"say {s}"), TASKS[:1], 1)[0].steps[2]
    limit = len(whole.prompt_ids) - 1
    cut = collect(collector(lambda g, m, s: f"say {s}", agent=replace(AGENT, max_prompt_tokens=limit)), TASKS[:1], 1)[0]
    assert len(cut.steps) == 3
    assert len(cut.steps[2].prompt_ids) <= limit
    assert "say 0" not in cut.steps[2].prompt
    assert "say 1" in cut.steps[2].prompt


# -- 7 -----------------------------------------------------------------------------------------------------------------


def test_environments_are_reused_and_closed():
    built = []

    class Counted(ToyEnv):
        def __init__(self):
            super().__init__()
            self.closed = 0
            built.append(self)

        def close(self):
            self.closed += 1

    c = collector(env=Counted)
    collect(c, TASKS, 2)
    collect(c, TASKS[:1], 3)
    assert len(built) == 6
    collect(c, TASKS, 3)
    assert len(built) == 9
    assert not any(env.closed for env in built)
    c.close()
    assert [env.closed for env in built] == [1] * 9


def test_time_is_counted_apart_for_model_and_world():
    c = collector()
    collect(c)
    assert c.times.environment > 0
    assert c.times.generation > 0
