"""Sampling with vLLM, by a stand-in with its calls that really samples.

1. Token ids go in, responses come back in the order of their prompts, and end as those of `HFSampler` do.
2. Log-probabilities are those of the policy at the temperature; greedy responses are those of `HFSampler`.
3. A response depends on its prompt and its stream, not on the others.
4. Weights are renewed when they moved, adapters merged in, and what was computed with the old ones is dropped.
5. Weights that did not arrive, numbers that are not finite, a missing package or GPU: one clear error each.
6. A training with it ends; its metrics say that sampler and trainer agree, and warn where they do not.
7. A resumed run pushes the weights of its save.
8. Stop texts end a response with the token that completes them, outside thoughts.
9. The beginnings of prompts are cached: the tokens that were read and those that were there are counted, and a model
   that vLLM caches nothing of is named.
10. `stapo eval` and `stapo diagnose` generate with it where asked; greedy episodes and all measures are as without it.
"""

from __future__ import annotations

import json
import math
import random
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

import fake_vllm
from slow import slow_except
from stapo.cli.main import main
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.diagnosis import run as diagnosing
from stapo.envs.guard import EnvFailure
from stapo.errors import ConfigError, EngineError, NonFiniteError
from stapo.policy import LoraConfig, ModelConfig, RowTokens, load_policy
from stapo.progress import listen_to_notes
from stapo.rollout.config import RolloutConfig, VllmConfig
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.kept_keys import KeepsKeys, PromptCounts
from stapo.rollout.sampler import HFSampler, OwnWeights
from stapo.rollout.stopping import StopRule
from stapo.rollout.vllm import VllmSampler, seed_of
from stapo.run import RunDirectory
from stapo.training.loop import Trainer
from toy_world import TEXTS, small_policy, toy_settings

SETTINGS = {"rollout__engine": "vllm", "eval__greedy": False, "log__transcript_every": 0}


@pytest.fixture(params=["cpu"])
def platform(request):
    return request.param


@pytest.fixture(autouse=True)
def fake(monkeypatch, platform):
    for name in (
        "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL", "VLLM_CPU_OMP_THREADS_BIND",
        "VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_STREAM",
    ):  # fmt: skip
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm.module())
    monkeypatch.setitem(sys.modules, "vllm.platforms", fake_vllm.platforms())
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", fake_vllm.sampling_params())
    monkeypatch.setattr(fake_vllm.LLM, "made", [])
    monkeypatch.setattr(fake_vllm.LLM, "platform", platform)
    return fake_vllm.LLM


def sharp():
    policy = small_policy(initializer_range=0.3)
    policy.model.eval()
    return policy


def both(policy, limit=6, config=None):
    return (
        VllmSampler(policy, 200, limit, config or VllmConfig()),
        HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, limit),
    )


def asked(policy, count=6):
    prompts = [policy.tokenizer.encode(TEXTS[i])[: 12 + 3 * i] for i in range(count)]
    return prompts, [(0, 1, i) for i in range(count)]


def distributions(policy, prompt, ids, temperature=1.0):
    """Log-probabilities of all tokens at each response position, by a plain forward pass."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float() / temperature, -1)


def assert_scored(policy, prompts, samples, temperature):
    for prompt, sample in zip(prompts, samples, strict=True):
        logp = distributions(policy, prompt, sample.ids, temperature)
        assert sample.logprobs == pytest.approx([float(logp[k, t]) for k, t in enumerate(sample.ids)], abs=1e-4)


def trainer_of(tmp_path, model, **changes):
    config = from_data(RunConfig, toy_settings(model, **SETTINGS, **changes))
    run = RunDirectory.create(tmp_path / "run", {}, [])
    return Trainer(config, load_policy(str(model), config.model), run)


# -- 1, 2, 3 -----------------------------------------------------------------------------------------------------------


def test_ids_in_order_with_their_log_probabilities(fake):
    policy = sharp()
    ours, theirs = both(policy)
    prompts, streams = asked(policy)
    samples = ours.sample(prompts, streams, 0.7)
    assert isinstance(ours, OwnWeights)
    assert not isinstance(theirs, OwnWeights)
    assert [ids for ids, _ in fake.made[0].requests] == prompts
    assert [p.seed for _, p in fake.made[0].requests] == [seed_of(s) for s in streams]
    assert_scored(policy, prompts, samples, 0.7)
    for sample in samples:
        assert len(sample.entropies) == len(sample.ids)
        assert all(math.isnan(e) for e in sample.entropies)
    again = ours.sample(prompts[::-1], streams[::-1], 0.7)
    assert [s.ids for s in again[::-1]] == [s.ids for s in samples]


def test_greedy_and_its_end_are_those_of_transformers():
    policy = sharp()
    prompts, streams = asked(policy)
    # An end token that one greedy response holds, so that it ends early.
    policy.eos_ids = [both(policy)[1].sample(prompts[:1], streams[:1], 0.0)[0].ids[2]]
    ours, theirs = both(policy)
    mine, reference = ours.sample(prompts, streams, 0.0), theirs.sample(prompts, streams, 0.0)
    assert [(s.ids, s.ended) for s in mine] == [(s.ids, s.ended) for s in reference]
    assert mine[0].ended
    assert mine[0].ids[-1] == policy.eos_ids[0]
    for one, other in zip(mine, reference, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def stopping(policy, encoder, limit=12, texts=("e", "go")):
    rule = StopRule(texts, encoder)
    return rule, VllmSampler(policy, 200, limit, VllmConfig(), rule)


def test_texts_end_responses_and_the_rest_of_the_numbers_stay(fake):
    policy = sharp()
    prompts, streams = asked(policy, 12)
    free = VllmSampler(policy, 200, 12, VllmConfig()).sample(prompts, streams, 1.0)
    rule, sampler = stopping(policy, PromptEncoder(policy.tokenizer))
    stopped = sampler.sample(prompts, streams, 1.0)
    cut = [rule.cut(sample) for sample in free]
    assert [(s.ids, s.logprobs, s.ended) for s in stopped] == [(s.ids, s.logprobs, s.ended) for s in cut]
    early = [s for s, f in zip(stopped, free, strict=True) if len(s.ids) < len(f.ids)]
    assert early
    assert all(s.ended and s.ids[-1] not in policy.eos_ids for s in early)
    assert len(fake.made[1].requests) == 12


class Thinking(PromptEncoder):
    """Of a template that has opened a thought before each response."""

    held = "<think>\n"


def test_a_text_within_a_thought_ends_nothing(fake):
    policy = sharp()
    prompts, streams = asked(policy, 12)
    _, sampler = stopping(policy, Thinking(policy.tokenizer))
    samples = sampler.sample(prompts, streams, 1.0)
    assert all(s.ended == (s.ids[-1] in policy.eos_ids) for s in samples)
    assert all(len(s.ids) == 12 for s in samples if not s.ended)
    assert_scored(policy, prompts, samples, 1.0)
    asked_again = fake.made[0].requests[12:]
    assert asked_again, "no text stood in a thought; nothing is shown"
    for ids, params in asked_again:
        done = 12 - params.max_tokens
        assert 0 < done < 12
        assert any(ids == prompt + s.ids[:done] for prompt, s in zip(prompts, samples, strict=True))
    assert len({params.seed for _, params in fake.made[0].requests}) == len(fake.made[0].requests)


def test_seeds_are_apart():
    seeds = {seed_of((0, 1, i, j)) for i in range(30) for j in range(30)}
    assert len(seeds) == 900
    assert all(0 <= s < 2**63 for s in seeds)


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["cuda", "cpu"], indirect=True)
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_moved_weights_are_fetched(fake, rank, platform):
    policy = sharp()
    policy.attach(LoraConfig(rank=rank), 0)
    ours, _ = both(policy, config=VllmConfig(sleep=platform == "cuda"))
    prompts, streams = asked(policy)
    before = ours.sample(prompts, streams, 1.0)
    ours.sample(prompts, streams, 1.0)
    ours.weights_will_move()
    ours.weights_will_move()
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    after = ours.sample(prompts, streams, 1.0)
    calls = ["reload", "generate", "generate", "sleep", "wake", "reload", "generate"]
    assert fake.made[0].calls == [c for c in calls if platform == "cuda" or c not in ("sleep", "wake")]
    assert [s.logprobs for s in after] != [s.logprobs for s in before]
    assert_scored(policy, prompts, after, 1.0)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def move(policy, names, by=0.1):
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if names(name):
                weight += by * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))


def test_weights_that_do_not_arrive_stop_the_run(fake):
    policy = sharp()
    ours, _ = both(policy)
    prompts, streams = asked(policy)
    ours.sample(prompts, streams, 1.0)
    fake.made[0].deaf = lambda name: True
    ours.weights_will_move()
    assert len(ours.sample(prompts, streams, 1.0)) == 6  # nothing has moved, so nothing is missed
    ours.weights_will_move()
    move(policy, lambda name: "model.norm" in name)
    with pytest.raises(EngineError, match="still holds the old ones"):
        ours.sample(prompts, streams, 1.0)


def test_small_losses_add_up_until_they_are_found(fake):
    policy = sharp()
    ours, _ = both(policy)
    prompts, streams = asked(policy)
    ours.sample(prompts, streams, 1.0)
    fake.made[0].deaf = lambda name: True

    def step():
        ours.weights_will_move()
        move(policy, lambda name: "model.norm" in name, 1e-6)
        return ours.sample(prompts, streams, 1.0)

    assert len(step()) == 6  # one step alone is below what rounding may do
    with pytest.raises(EngineError, match="still holds the old ones"):
        [step() for _ in range(200)]


@pytest.mark.parametrize("lost", ["q_proj", "down_proj", "model.norm"])
@pytest.mark.parametrize("at_first", [True, False])
def test_a_part_that_does_not_arrive_stops_the_run(fake, lost, at_first):
    policy = sharp()
    ours, _ = both(policy)
    prompts, streams = asked(policy)
    if at_first:
        move(policy, lambda name: "norm" in name)  # those of a new model are 1, whoever built it
    else:
        ours.sample(prompts, streams, 1.0)
    fake.made[0].deaf = lambda name: lost in name
    ours.weights_will_move()
    move(policy, lambda name: True)
    with pytest.raises(EngineError, match=r"part of the weights did not arrive"):
        ours.sample(prompts, streams, 1.0)


def test_an_engine_that_fails_is_one_error(fake, monkeypatch):
    policy = sharp()
    ours, _ = both(policy)
    prompts, streams = asked(policy)
    ours.sample(prompts, streams, 1.0)

    def broken(*args, **kwargs):
        raise ValueError("1 validation error for Request\n  prompt\n    is too long")

    monkeypatch.setattr(fake.made[0], "generate", broken)
    with pytest.raises(EngineError, match="generated: 1 validation error for Request prompt is too long"):
        ours.sample(prompts, streams, 1.0)


def test_starting_it_leaves_random_numbers_and_threads_alone():
    policy = sharp()
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(1), random.random()
    torch.manual_seed(5)
    random.seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        both(policy)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (torch.rand(1), random.random()) == expected


def test_answers_that_are_none():
    ours, _ = both(sharp())
    answer = {"token_ids": [3], "logprobs": [{3: SimpleNamespace(logprob=math.nan)}], "finish_reason": "length"}
    with pytest.raises(NonFiniteError, match="while vLLM generates"):
        ours._read(SimpleNamespace(**answer))
    trouble = ours._read(SimpleNamespace(**answer | {"finish_reason": "abort"}))
    assert isinstance(trouble, EnvFailure)
    assert trouble.error == "vLLM ended a response of 1 token with 'abort'"


def test_what_is_missing_is_named(monkeypatch, tmp_path, toy_model, capsys):
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(toy_settings(toy_model, **SETTINGS)))
    argv = ["train", str(tmp_path / "v.yaml"), "--out", str(tmp_path / "run")]
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert main(argv) != 0
    assert "pip install '.[vllm]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm.module())
    monkeypatch.setattr(fake_vllm.LLM, "platform", "")
    monkeypatch.setitem(sys.modules, "vllm.platforms", fake_vllm.platforms())
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", fake_vllm.sampling_params())
    assert main(argv) != 0
    said = capsys.readouterr().err
    assert "found nothing to run on; expected an NVIDIA GPU" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_what_does_not_go_where_it_runs_is_named():
    with pytest.raises(ConfigError, match="sleep frees a GPU, and vLLM runs on a CPU"):
        both(sharp(), config=VllmConfig(sleep=True))


def test_it_is_named_before_anything_is_trained(tmp_path, toy_model, capsys):
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(toy_settings(toy_model, **SETTINGS, rollout__vllm={"sleep": True})))
    assert main(["train", str(tmp_path / "v.yaml"), "--quiet", "--out", str(tmp_path / "run")]) == 2
    assert "sleep frees a GPU" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_engine_that_does_not_start(monkeypatch):
    def broken(**settings):
        raise ValueError("Free memory is less than desired.\n")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", broken)
    with pytest.raises(
        EngineError, match=r"Free memory is less than desired\. If memory is short, change rollout.vllm.cpu_cache"
    ):
        both(sharp())


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="Did you mean 'vllm'"):
        RolloutConfig(engine="vlm")
    with pytest.raises(ConfigError, match=r"gpu_memory is 1\.5"):
        VllmConfig(gpu_memory=1.5)
    with pytest.raises(ConfigError, match="cpu_cache_gib is 0"):
        VllmConfig(cpu_cache_gib=0)
    with pytest.raises(ConfigError, match="at 2 at most"):
        RolloutConfig(engine="vllm", temperature=2.5)


# -- 6, 7 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", slow_except([0, 4], 4))
def test_a_training_end_to_end(tmp_path, toy_model, capsys, fake, rank):
    settings = toy_settings(toy_model, **SETTINGS)
    settings["algorithm"] |= {"outlier": {"select": "all"}}
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(settings))
    argv = ["train", str(tmp_path / "v.yaml"), "--quiet", "--out", str(tmp_path / "run")]
    assert main([*argv, "--model.lora.rank", str(rank)]) == 0, capsys.readouterr().err
    rows = RunDirectory.open(tmp_path / "run").rows("metrics")
    assert len(rows) == 2
    for row in rows:
        assert row["update"]["logprob_gap_mean"] < 1e-4
        assert row["entropy"]["mean"] > 0
        assert row["seconds"]["entropies"] > 0
        assert not any(text.startswith("sampler-gap") for text in row["warnings"])
        assert row["prefill"]["tokens"] + row["prefill"]["reused"] == round(row["prompt_tokens"] * row["rows"])
        assert row["prefill"]["reused"] > 0  # at least what the members of a group begin with
    assert len(fake.made) == 1
    calls = fake.made[0].calls
    # First evaluation and rollout, second rollout, last evaluation: one push each.
    assert calls.count("reload") == 3


def test_entropies_are_those_of_the_policy(tmp_path, toy_model):
    trainer = trainer_of(tmp_path, toy_model)
    steps = [s for found in trainer._roll_out(1)[0].values() for t in found.kept for s in t.steps]
    trainer.updater.scorer.rescore(steps, [RowTokens(s.prompt_ids, s.response_ids) for s in steps], 300)
    for step in steps[::5]:
        logp = distributions(trainer.policy, step.prompt_ids, step.response_ids)
        assert step.entropies == pytest.approx((-(logp.exp() * logp).sum(-1)).tolist(), abs=1e-5)


def test_without_the_push_the_alarm_fires(tmp_path, toy_model, monkeypatch):
    trainer = trainer_of(tmp_path, toy_model, optim__learning_rate=0.1)
    monkeypatch.setattr(trainer.collector.sampler, "weights_will_move", lambda: None)
    trainer.train()
    first, second = trainer.run.rows("metrics")
    assert not any(text.startswith("sampler-gap") for text in first["warnings"])
    assert any(text.startswith("sampler-gap") for text in second["warnings"])


def test_a_resumed_run_pushes_what_was_saved(tmp_path, toy_model, capsys):
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(toy_settings(toy_model, **SETTINGS)))

    def train(out, iterations):
        argv = ["train", str(tmp_path / "v.yaml"), "--quiet", "--out", str(tmp_path / out)]
        assert main([*argv, "--optim.iterations", str(iterations)]) == 0, capsys.readouterr().err

    train("whole", 2)
    train("parts", 1)
    train("parts", 2)
    whole, parts = (RunDirectory.open(tmp_path / name).rows("metrics") for name in ("whole", "parts"))
    # The stand-in does not depend on batches, so that here it is the same run; vLLM itself may round otherwise.
    assert parts[1]["update"] == whole[1]["update"]


# -- 8 -----------------------------------------------------------------------------------------------------------------


def test_beginnings_of_prompts_are_cached_until_the_weights_move():
    ours, _ = both(sharp(), limit=8)
    assert isinstance(ours, KeepsKeys)
    prompt = list(range(3, 43))
    answer = ours.sample([prompt], [(0, 0, 0, 0)], 1.0)[0]
    assert ours.counts == PromptCounts(40, 0, 0)
    longer = [*prompt, *answer.ids, *range(50, 56)]
    ours.sample([longer], [(0, 0, 0, 1)], 1.0)
    ours.forget()
    # Blocks of 16 tokens that were full: of the prompt of 40 alone, or with the seven of eight that were read.
    assert ours.counts == PromptCounts(40 + len(longer) - 32, 32, 0)
    ours.weights_will_move()
    ours.sample([longer], [(0, 0, 0, 2)], 1.0)
    assert ours.counts.reused == 32


@pytest.mark.parametrize("caches", [True, False])
def test_a_model_without_a_prefix_cache_is_named(fake, monkeypatch, caches):
    monkeypatch.setattr(fake, "caches", caches)
    notes = []
    listen_to_notes(notes.append)
    both(sharp())
    assert len(notes) == (not caches)
    assert all("caches no prefixes of Qwen" in note for note in notes)


# -- 9 -----------------------------------------------------------------------------------------------------------------


def evaluated(capsys, *words):
    assert main(["eval", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_an_evaluation(toy_run, capsys, fake):
    plain = evaluated(capsys, toy_run, "--greedy")
    assert not fake.made
    found = evaluated(capsys, toy_run, "--greedy", "--engine", "vllm")
    assert len(fake.made) == 1
    assert found.pop("engine") == "vllm"
    assert found == plain
    sampled = evaluated(capsys, toy_run, "--engine", "vllm", "--seeds", 0, 1)
    assert sampled["success_by_seed"] != plain["success_by_seed"]


def test_a_frozen_model_is_evaluated(toy_run, capsys, fake):
    settings, model = toy_run / "config.yaml", toy_run / "checkpoints" / "final"
    plain = evaluated(capsys, settings, "--model", model, "--greedy")
    found = evaluated(capsys, settings, "--model", model, "--greedy", "--engine", "vllm")
    assert found.pop("engine") == "vllm"
    assert found == plain
    assert len(fake.made) == 1


def test_a_diagnosis(toy_run, tmp_path, capsys, fake, monkeypatch):
    """Its entropies are the model's, step by step."""
    seen, measure = [], diagnosing.measure
    monkeypatch.setattr(diagnosing, "measure", lambda *given: seen.append(measure(*given)) or seen[-1])
    out = tmp_path / "diagnosis"
    asked = ["diagnose", str(toy_run), "--tasks", "3", "--group-size", "3", "--out", str(out), "--engine", "vllm"]
    assert main(asked) == 0, capsys.readouterr().err
    assert len(fake.made) == 1
    assert json.loads((out / "final" / "diagnosis.json").read_text())["protocol"]["engine"] == "vllm"
    steps = seen[0].batch.steps
    policy = load_policy(str(toy_run / "checkpoints" / "final"), ModelConfig(device="cpu"))
    assert len(steps) == 27
    for step in steps[::4]:
        logp = distributions(policy, step.prompt_ids, step.response_ids)
        assert step.entropies == pytest.approx((-(logp.exp() * logp).sum(-1)).tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "vlm"], "rollout.engine is 'vlm', expected one of transformers, vllm. Did you mean 'vllm'?"),
        (["--engine", "vllm", "--agent.decode", "constrained"], "the engine is 'vllm', and agent.decode is 'constrain"),
        (
            ["--engine", "vllm", "--temperature", "2.5"],
            "the sampling temperature is 2.5, and vLLM samples at 2 at most",
        ),
        (
            ["--engine", "vllm", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"],
            "the engine is 'vllm', but the model is behind a server, which generates.",
        ),
    ],
)
def test_what_cannot_be_evaluated(toy_run, capsys, words, said):
    assert main(["eval", str(toy_run), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_without_the_package(toy_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert main(["eval", str(toy_run), "--engine", "vllm"]) == 2
    assert "needs the package 'vllm'" in " ".join(capsys.readouterr().err.split())
