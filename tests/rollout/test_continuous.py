"""Episodes that go on as soon as their own response is there (`rollout.vllm.continuous`).

1. No episode waits for another's response: as many moments of generation as the longest episode has tokens.
2. The episodes are those of turns, with environments in this process and in workers, in training as well.
3. An episode that fails is played again, as in turns; whatever ends the rollout leaves no response behind.
4. Environments in workers step while others' responses are generated.
5. Stop texts, and errors of the engine, are those of turns.
"""

from __future__ import annotations

import sys
import threading

import pytest

import fake_vllm
from stapo.agent import AgentConfig
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.envs.guard import EnvFailure
from stapo.envs.pool import LocalPool
from stapo.envs.worker_pool import WorkerPool
from stapo.errors import EngineError, EnvError, FailureLimitError
from stapo.policy import load_policy
from stapo.rollout import StopReason
from stapo.rollout.collect import Collector
from stapo.rollout.config import VllmConfig
from stapo.rollout.continuous import ContinuousCollector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import ContinuousSampler, HFSampler, Sample
from stapo.rollout.vllm import VllmSampler
from stapo.run import RunDirectory
from stapo.training.loop import Trainer
from toy_world import ToyEnv, register_toy, small_policy, toy_settings

POLICY = small_policy(initializer_range=0.3)
ENCODER = PromptEncoder(POLICY.tokenizer)
AGENT = AgentConfig(prompt="compact", response="action", history_length=2, max_prompt_tokens=300, max_response_tokens=8)
TASKS = ["toy/train/red", "toy/train/blue", "toy/train/grey"]
OF_VLLM = {"rollout__engine": "vllm", "eval__greedy": False, "log__transcript_every": 0}


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    for name, module in (("", fake_vllm.module()), (".platforms", fake_vllm.platforms())):
        monkeypatch.setitem(sys.modules, f"vllm{name}", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", fake_vllm.sampling_params())
    monkeypatch.setattr(fake_vllm.LLM, "made", [])
    monkeypatch.setattr(fake_vllm.LLM, "platform", "cpu")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "")


class Scripted:
    """Says a word of as many tokens as the script has for (member, step), a token of each response in a moment."""

    def __init__(self, lengths, fails=()):
        self.lengths, self.fails = lengths, set(fails)
        self.going, self.moments, self.batches, self.abandoned = {}, 0, [], []

    def put(self, slot, prompt, stream, temperature, limits=None):
        assert slot not in self.going
        self.going[slot] = [*stream[-2:], self.lengths[stream[-2]][stream[-1]]]

    def advance(self):
        assert self.going
        self.moments += 1
        self.batches.append(len(self.going))
        for at in self.going.values():
            at[2] -= 1
        return [
            (slot, self._answer(*self.going.pop(slot)[:2])) for slot in sorted(self.going) if not self.going[slot][2]
        ]

    def abandon(self):
        self.abandoned.append(sorted(self.going))
        self.going.clear()

    def sample(self, prompts, streams, temperature):
        self.moments += max(self.lengths[member][step] for *_, member, step in streams)
        return [self._answer(member, step) for *_, member, step in streams]

    def _answer(self, member, step):
        if (member, step) in self.fails:
            self.fails.discard((member, step))
            return EnvFailure("model", "nothing came")
        ids = [*ENCODER.tokenizer.encode("hi"), ENCODER.tokenizer.eos_token_id]
        return Sample(ids, [-0.5] * len(ids), [0.1] * len(ids), True)


def played(kind, sampler, tasks=TASKS, size=2, env=ToyEnv, encoder=ENCODER, **options):
    collector = kind(env, encoder, sampler, AGENT, **options)
    try:
        return collector.collect(tasks, size, 1.0, (0, 1)), collector
    finally:
        collector.pool.close()


def of_vllm():
    return VllmSampler(POLICY, 300, 8, VllmConfig())


# -- 1 -----------------------------------------------------------------------------------------------------------------

LENGTHS = [[2, 9, 3], [8, 2, 2], [1, 1, 7]]


def test_nobody_waits_for_the_longest_response_of_a_turn():
    turns, apart = Scripted(LENGTHS), Scripted(LENGTHS)
    played(Collector, turns, TASKS[:1], 3)
    trajectories, collector = played(ContinuousCollector, apart, TASKS[:1], 3)
    assert isinstance(apart, ContinuousSampler)
    assert turns.moments == 8 + 9 + 7  # the longest of each turn
    assert apart.moments == 2 + 9 + 3  # the longest episode
    # 35 tokens: all three episodes until the third ends, two until the second does.
    assert apart.batches == [3] * 9 + [2] * 3 + [1] * 2
    assert [len(t.steps) for t in trajectories] == [3, 3, 3]
    assert collector.times.generation > 0


def test_progress_counts_finished_episodes():
    told = []
    collector = ContinuousCollector(ToyEnv, ENCODER, Scripted(LENGTHS), AGENT)
    collector.collect(TASKS[:1], 3, 1.0, (0, 1), progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 3)
    assert told[-1] == (3, 3)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_episodes_are_those_of_turns(workers):
    register_toy()
    pools = [WorkerPool("toy", {}, workers, 60.0) if workers else LocalPool(ToyEnv) for _ in range(2)]
    turns, _ = played(Collector, of_vllm(), env=pools[0])
    apart, _ = played(ContinuousCollector, of_vllm(), env=pools[1])
    assert [str(t) for t in apart] == [str(t) for t in turns]
    assert len({len(s.response_ids) for t in apart for s in t.steps}) > 1


def trained(tmp_path, model, continuous):
    settings = toy_settings(model, **OF_VLLM, rollout__vllm={"continuous": continuous})
    config = from_data(RunConfig, settings)
    run = RunDirectory.create(tmp_path / str(continuous), {}, [])
    trainer = Trainer(config, load_policy(str(model), config.model), run)
    trainer.train()
    return trainer, run.rows("metrics")


def test_a_training_is_that_of_turns(tmp_path, toy_model):
    (turns, of_turns), (apart, of_apart) = (trained(tmp_path, toy_model, flag) for flag in (False, True))
    assert type(turns.collector) is Collector
    assert isinstance(apart.collector, ContinuousCollector)
    assert len(of_apart) == 2
    for one, other in zip(of_apart, of_turns, strict=True):
        for part in ("update", "entropy", "outlier", "prefill", "return", "success_rate"):
            assert one.get(part) == other.get(part)
        assert one["update"]["grad_norm"] > 0


# -- 3 -----------------------------------------------------------------------------------------------------------------


class Breaks(ToyEnv):
    """Breaks once, at the second step of its first episode."""

    broken = 0

    def step(self, action):
        if len(self.said) == 1 and not Breaks.broken:
            Breaks.broken += 1
            raise RuntimeError("it breaks")
        return super().step(action)


@pytest.mark.parametrize("kind", [Collector, ContinuousCollector])
def test_failed_episodes_are_played_again(kind, monkeypatch):
    monkeypatch.setattr(Breaks, "broken", 0)
    expected, _ = played(Collector, of_vllm())
    again, collector = played(kind, of_vllm(), env=Breaks)
    assert sorted(t.attempts for t in again) == [1] * 5 + [2]
    assert [[s.response_ids for s in t.steps] for t in again] == [[s.response_ids for s in t.steps] for t in expected]
    assert [failure.boundary for failure in collector.take_failures()] == ["environment"]
    sampler = Scripted(LENGTHS, fails=[(1, 1)])
    of_model, collector = played(kind, sampler, TASKS[:1], 3)
    assert [t.attempts for t in of_model] == [1, 2, 1]
    assert [failure.boundary for failure in collector.take_failures()] == ["model"]


class Fatal(ToyEnv):
    def step(self, action):
        raise EnvError("it never works")


def test_what_ends_the_rollout_leaves_no_response_behind():
    sampler = Scripted([[1, 1, 1], [9, 9, 9]])
    with pytest.raises(FailureLimitError, match="it never works"):
        played(ContinuousCollector, sampler, TASKS[:1], 2, Fatal, retries=0, max_failures=1)
    assert sampler.abandoned == [[1]]
    sampler = of_vllm()
    with pytest.raises(FailureLimitError):
        played(ContinuousCollector, sampler, env=Fatal, retries=0, max_failures=1)
    engine = fake_vllm.LLM.made[-1].llm_engine
    assert engine.going == {}
    # The stand-in refuses this while a response is still asked for.
    again, _ = played(Collector, sampler)
    assert all(t.stop_reason is not StopReason.ERROR for t in again)


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_generation_goes_on_while_workers_step():
    """The first step of member 0 is not done before member 1 has generated three more tokens."""
    generated = threading.Event()

    class Watched(Scripted):
        def advance(self):
            answers = super().advance()
            if self.moments >= 4:
                generated.set()
            return answers

    class Pool:
        """Not the one of this process, so that it is asked in a thread."""

        def __init__(self):
            self.local, self.waited = LocalPool(ToyEnv), []

        def __getattr__(self, name):
            return getattr(self.local, name)

        def step(self, requests):
            if not self.waited:
                self.waited.append(generated.wait(timeout=60))
            return self.local.step(requests)

    pool = Pool()
    trajectories, _ = played(ContinuousCollector, Watched([[1, 1, 1], [9, 1, 1]]), TASKS[:1], 2, env=pool)
    assert pool.waited == [True]
    assert [len(t.steps) for t in trajectories] == [3, 3]


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_stop_texts_end_responses_as_in_turns(toy_model, tmp_path):
    def steps(continuous):
        settings = toy_settings(toy_model, **OF_VLLM, agent__stop=["e"], rollout__vllm={"continuous": continuous})
        config = from_data(RunConfig, settings)
        run = RunDirectory.create(tmp_path / str(continuous), {}, [])
        trainer = Trainer(config, load_policy(str(toy_model), config.model), run)
        found = trainer.collector.collect(TASKS, 3, 1.0, (0, 1))
        return [(s.response_ids, s.logprobs, s.truncated) for t in found for s in t.steps]

    assert steps(True) == steps(False)


@pytest.mark.parametrize("call", ["step", "add_request"])
def test_an_engine_that_fails_is_one_error(monkeypatch, call):
    def broken(*args, **kwargs):
        raise ValueError("1 validation error\n  prompt is too long")

    sampler = of_vllm()
    monkeypatch.setattr(fake_vllm.LLM.made[0].llm_engine, call, broken)
    with pytest.raises(EngineError, match="vLLM failed while it generated: 1 validation error prompt is too long"):
        played(ContinuousCollector, sampler)


def test_only_a_sampler_that_can_is_asked_so():
    plain = HFSampler(POLICY.model, POLICY.eos_ids, POLICY.tokenizer.pad_token_id, 8)
    assert not isinstance(plain, ContinuousSampler)
    assert isinstance(of_vllm(), ContinuousSampler)
