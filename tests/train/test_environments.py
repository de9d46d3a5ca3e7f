"""Several environments in one run.

1. Settings: what an environment has for itself, and what is refused.
2. Task groups are shared out by weight, and each is of one environment.
3. One entry under `envs` is the same run as `env`; two train, and resume bit for bit.
4. Fences, entropies and statistics of a batch are each environment's own.
5. Demonstrations, commands and other engines; a save that is not whole.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stapo
from slow import slow_except
from stapo.algo import get_algorithm
from stapo.config.environment import environment_of, environments_of
from stapo.config.presets import load_config
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError, SaveError
from stapo.policy import load_policy
from stapo.rollout import Step, Trajectory
from stapo.run import RunDirectory
from stapo.training.batch import build_batch, rows_of
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.checkpoint import read_state
from stapo.training.environments import build_batches, shared_out
from stapo.training.loop import Trainer
from stapo.training.pipeline import train_run
from stapo.training.preparation import prepare_policy
from stapo.training.sampling import Sampled
from stapo.verl_plugin.overrides import Machines, verl_overrides
from toy_world import small_policy, toy_settings

BOTH = {
    "warm": {"name": "toy", "weight": 2, "options": {"reward": 3.0}},
    "cool": {"name": "toy", "agent": {"max_response_tokens": 3, "history_length": 0}, "eval": {"episodes": 2}},
}


def settings(model, envs, **changes):
    given = toy_settings(model, **changes)
    del given["env"]
    return {**given, "envs": envs}


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "model"
    small_policy().save(path)
    return path


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_an_environment_has_what_it_gives_for_itself_and_the_rest_of_the_run(toy_model):
    config = from_data(RunConfig, settings(toy_model, BOTH, sft__episodes=30))
    warm, cool = environments_of(config).values()
    assert (warm.env.name, warm.env.options) == ("toy", {"reward": 3.0})
    assert (warm.agent.max_response_tokens, cool.agent.max_response_tokens) == (6, 3)
    assert warm.agent.prompt == cool.agent.prompt == "compact"
    assert (warm.eval.episodes, cool.eval.episodes) == (6, 2)
    assert (warm.sft.episodes, cool.sft.episodes) == (20, 10)
    assert from_data(RunConfig, to_data(config)) == config
    assert environment_of(config, "cool") == cool


@pytest.mark.parametrize(
    ("envs", "said"),
    [
        ({"a": {"weight": 0}, "b": {"weight": 0}}, "sum to 0"),
        ({"a": {"weight": -1}, "b": {}}, r"envs\.a\.weight is -1"),
        ({"a": {"weight": "much"}}, r"envs\.a\.weight"),
        ({"a b": {}}, "letters, digits"),
        ([{"name": "toy"}], "expected a mapping"),
        ({"a": {"wieght": 1}}, "weight"),
        ({"a": {"agent": {"promt": "x"}}}, r"envs\.a: unknown key 'agent\.promt'"),
        ({"a": {"agent": {"max_prompt_tokens": 1}}}, r"envs\.a: agent\.max_prompt_tokens is 1"),
        ({"a": {"rollout": {"groups": 2}}}, r"rollout\.groups belongs to the whole run"),
        ({"a": {"options": {"url": "http://me:pw@host"}}}, "holds"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(toy_model, envs, said):
    with pytest.raises(ConfigError, match=said):
        from_data(RunConfig, settings(toy_model, envs))


@pytest.mark.parametrize("own", [{"max_response_tokens": 9}, {"stop": ["."]}])
def test_what_one_vllm_cannot_do_for_two_is_refused(toy_model, own):
    envs = {"a": {"name": "toy"}, "b": {"name": "toy", "agent": own}}
    from_data(RunConfig, settings(toy_model, envs))
    with pytest.raises(ConfigError, match=rf"agent\.{next(iter(own))} differs between them \(a: .*, b: "):
        from_data(RunConfig, settings(toy_model, envs, rollout__engine="vllm"))


def test_two_environments_of_one_name_are_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("envs:\n  toy: {weight: 1}\n  toy: {weight: 2}\n")
    with pytest.raises(ConfigError, match="given twice"):
        load_config(str(file))


def test_one_and_several_at_once_are_refused_and_the_later_file_decides(toy_model):
    with pytest.raises(ConfigError, match="env and envs are both given"):
        from_data(RunConfig, {**toy_settings(toy_model), "envs": BOTH})
    several = load_config("tiny", base={"envs": {"alfworld": {}, "webshop": {}}})
    assert several.env.name == "alfworld+webshop"
    one = load_config(to_data(several), base={"env": {"name": "alfworld"}})
    assert not one.envs


def test_an_environment_that_is_not_there_is_named(toy_model):
    config = from_data(RunConfig, settings(toy_model, BOTH))
    with pytest.raises(ConfigError, match="warm, cool; say which with environment"):
        environment_of(config, None)
    with pytest.raises(ConfigError, match="Did you mean 'cool'"):
        environment_of(config, "coal")


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_groups_are_shared_out_by_weight_over_iterations():
    environments = [SimpleNamespace(weight=w, given=0) for w in (5, 2, 0)]
    found = []
    for _ in range(7):
        found.append(shared_out(environments, 3))
        for env, more in zip(environments, found[-1], strict=True):
            env.given += more
    assert [sum(part) for part in zip(*found, strict=True)] == [15, 6, 0]
    assert {sum(part) for part in found} == {3}
    # No environment has to wait: after each iteration all are within one group of their share.
    assert all(abs(sum(f[0] for f in found[: i + 1]) - 15 * (i + 1) / 7) < 1 for i in range(7))


# -- 3 -----------------------------------------------------------------------------------------------------------------


def trained(model, out, given):
    config = from_data(RunConfig, given)
    run = RunDirectory.create(out, to_data(config), ["test"])
    trainer = Trainer(config, load_policy(str(model), config.model), run)
    trainer.train()
    return trainer, run


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def timeless(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_one_entry_is_the_run_of_that_environment_alone(toy_model, tmp_path):
    """Only what is said of the environment differs: its name before the task types, and its own part of the rows."""
    _, alone = trained(toy_model, tmp_path / "alone", toy_settings(toy_model))
    _, entry = trained(toy_model, tmp_path / "entry", settings(toy_model, {"toy": {}}))
    assert weights(alone.checkpoint("final")) == weights(entry.checkpoint("final"))
    for one, two in zip(timeless(alone.rows("metrics")), timeless(entry.rows("metrics")), strict=True):
        own = two["envs"]["toy"]
        assert own["outlier"] == one["outlier"]
        assert own["success"] == two["success"] == one["success"]
        assert two["update"] == one["update"]
        assert two["success_by_type"] == {f"toy/{name}": share for name, share in one["success_by_type"].items()}


def test_two_environments_train_and_say_how_each_does(toy_model, tmp_path):
    trainer, run = trained(
        toy_model, tmp_path / "run", settings(toy_model, BOTH, rollout__groups=3, optim__iterations=3)
    )
    rows = run.rows("metrics")
    assert [row["envs"]["warm"]["groups"] for row in rows] == [2, 2, 2]
    assert all(row["envs"]["cool"]["response_tokens"] <= 3 < row["envs"]["warm"]["response_tokens"] for row in rows)
    assert all(row["rows"] == sum(part["rows"] for part in row["envs"].values()) for row in rows)
    assert all(row["outlier"]["upper_fence"] is None for row in rows)
    final = [row for row in run.rows("evals") if row["iteration"] == 3]
    for row in final:
        assert [row["envs"][name]["episodes"] for name in BOTH] == [6, 2]
        assert row["episodes"] == 8
        assert row["success"] == pytest.approx(sum(p["success"] * p["episodes"] for p in row["envs"].values()) / 8)
        assert row["protocol"].startswith("warm: 6 episodes")
        assert {name.partition("/")[0] for name in row["by_type"]} == {"warm", "cool"}
    episodes = [r for r in run.rows("eval_episodes") if r["iteration"] == 3 and r["mode"] == "greedy"]
    assert [row["episode"] for row in episodes] == list(range(8))
    told = [json.loads(line) for path in run.transcripts() for line in path.open()]
    assert {record["task_type"].partition("/")[0] for record in told} == {"warm", "cool"}
    # A group is of one environment, and numbers go on from one to the next.
    assert {record["group"] for record in told if record["task_type"].startswith("cool/")} == {2}
    assert trainer.environments[0].tasks.position == 6


@pytest.mark.parametrize("sampler", slow_except(["uniform", "informative"], "informative"))
def test_a_resumed_run_has_the_same_numbers(toy_model, tmp_path, sampler):
    given = settings(
        toy_model, BOTH, rollout__groups=3, optim__iterations=3, tasks__sampler=sampler,
        algorithm={"name": "stapo", "outlier": {"metric": "running"}}, log__keep_saves=9,
    )  # fmt: skip
    _, whole = trained(toy_model, tmp_path / "whole", given)
    short = from_data(RunConfig, {**given, "optim": {**given["optim"], "iterations": 1}})
    train_run(short, tmp_path / "parts", ["test"])
    parts = train_run(from_data(RunConfig, given), tmp_path / "parts", ["test"]).run
    assert timeless(parts.rows("metrics"))[1:] == timeless(whole.rows("metrics"))[1:]
    assert weights(parts.checkpoint("final")) == weights(whole.checkpoint("final"))


SETS = {"seen": {"split": "train", "tasks": 2, "episodes": 4}, "own": {"episodes": 6, "temperature": 0.5}}


def test_sets_are_played_in_each_environment_and_the_best_policy_is_of_all(toy_model, tmp_path):
    envs = {**BOTH, "cool": {**BOTH["cool"], "eval": {"split": "train"}}}
    given = settings(
        toy_model, envs, rollout__groups=3, optim__iterations=3, eval__sets=SETS, eval__every=1,
        eval__keep_best="seen.success", log__checkpoint_every=1,
    )  # fmt: skip
    run = train_run(from_data(RunConfig, given), tmp_path / "run", ["test"]).run
    rows = run.rows("evals")
    assert [(r["iteration"], r["mode"]) for r in rows] == [(i, mode) for i in range(4) for mode in SETS]
    for row in rows:
        warm, cool = row["envs"]["warm"], row["envs"]["cool"]
        count = SETS[row["mode"]]["episodes"]
        assert (warm["episodes"], cool["episodes"], row["episodes"]) == (count, count, 2 * count)
        assert row["success"] == pytest.approx((warm["success"] + cool["success"]) / 2)
        split = "train" if row["mode"] == "seen" else "heldout"
        assert f"split '{split}'" in warm["protocol"]
        assert "split 'train'" in cool["protocol"]
        assert row["protocol"] == f"warm: {warm['protocol']}; cool: {cool['protocol']}"
    # Two tasks of each environment, each played twice.
    assert all((row["tasks"], list(row["pass_at"])) == (4, ["1", "2"]) for row in rows if row["mode"] == "seen")
    seen = [row["success"] for row in rows if row["mode"] == "seen"]
    best = seen.index(max(seen))
    assert (run.info()["best"]["iteration"], run.info()["best"]["value"]) == (best, seen[best])
    assert weights(run.checkpoint("best")) == weights(run.checkpoint(f"iteration-{best:05d}" if best < 3 else "final"))


def test_each_environment_learns_from_a_record_of_its_own(toy_model, tmp_path):
    _, run = trained(toy_model, tmp_path / "run", settings(toy_model, BOTH, optim__iterations=0))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in BOTH}
    for name, file in files.items():
        stapo.evaluate(run.path, environment=name, episodes=4, seeds=[0], record=file)

    def learning_from(of):
        envs = {name: {**entry, "sft": {"data": files[of[name]]}} for name, entry in BOTH.items()}
        given = settings(toy_model, envs, optim__iterations=0, sft__steps=2, sft__blind_fraction=0)
        return from_data(RunConfig, given)

    done = train_run(learning_from({"warm": "warm", "cool": "cool"}), tmp_path / "own", ["test"]).run
    assert set(done.info()["sft_data"]) == set(files.values())
    assert weights(done.checkpoint("start")) != weights(run.checkpoint("start"))
    with pytest.raises(ConfigError, match=r"reward|history_length"):
        train_run(learning_from({"warm": "cool", "cool": "warm"}), tmp_path / "swapped", ["test"])
    assert not (tmp_path / "swapped" / "checkpoints").exists()
    with pytest.raises(ConfigError, match="a file holds episodes of one"):
        stapo.export(run.path, tmp_path / "all.jsonl")


# -- 4 -----------------------------------------------------------------------------------------------------------------


def rows(group, entropies, rewards=(0.0, 1.0)):
    """Two episodes of one task, with steps of these entropies."""
    found = []
    for member, reward in enumerate(rewards):
        steps = [
            Step([1], [2], [2], [-0.1], [h], "p", "b", "r", "a", True, "", f"{group}", "o", reward)
            for h in entropies[member :: len(rewards)]
        ]
        found.append(Trajectory("task", "type", "goal", group, member, steps))
    return found


def environments_with(algorithm, *played):
    """Worlds, and what they played, as `build_batches` takes them."""
    config = RunConfig()
    environments = [SimpleNamespace(label=f"w{i}", config=config, states={}) for i in range(len(played))]
    return environments, {w.label: Sampled(p, p, [], 1, 1, 1) for w, p in zip(environments, played, strict=True)}


def joined(algorithm, *played):
    environments, sampled = environments_with(algorithm, *played)
    chains = rows_of([t for part in played for t in part])[1]
    return build_batches(environments, sampled, algorithm, None, chains, (0,))


def test_one_worlds_scale_would_flag_the_others_steps():
    """Calm steps with one outlier, beside steps that differ among themselves: one fence over both hits the latter."""
    algorithm, rng = get_algorithm("stapo"), np.random.default_rng(0)
    calm, lively = [*(0.1 + 0.001 * rng.random(60)), 0.9], [0.5, 1.5] * 10
    together = build_batch([*rows(0, calm), *rows(1, lively)], algorithm).outliers.mask_b
    apart = joined(algorithm, rows(0, calm), rows(1, lively))
    assert apart.entropy_b[apart.outliers.mask_b].tolist() == [0.9]
    assert together[apart.entropy_b > 0.4].all(), "every lively step would be flagged by the calm world's fences"
    for part, own in zip(apart.parts.values(), (rows(0, calm), rows(1, lively)), strict=True):
        assert part.outliers.upper == build_batch(own, algorithm).outliers.upper
    assert np.isnan(apart.outliers.upper)


def test_statistics_of_a_batch_are_each_worlds_own():
    """Whitening over the batch: rewards of another unit next door change nothing."""
    algorithm = get_algorithm("reinforce++")
    one, two = rows(0, [0.1] * 6), rows(1, [0.1] * 8, rewards=(0.0, 100.0))
    apart = joined(algorithm, one, two)
    alone = [build_batch(part, algorithm).advantages.total_b for part in (one, two)]
    assert apart.advantages.total_b.tolist() == np.concatenate(alone).tolist()
    over_both = build_batch([*one, *two], algorithm).advantages.total_b
    assert np.abs(over_both[:6]).max() < 0.8 * np.abs(apart.advantages.total_b[:6]).max()


def test_rows_of_all_worlds_are_numbered_on():
    batch = joined(get_algorithm("stapo"), rows(0, [0.1] * 4), rows(1, [0.2] * 4))
    assert batch.group_b.tolist() == [0] * 4 + [1] * 4
    assert batch.traj_b.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(set(batch.anchor_b[:4]) & set(batch.anchor_b[4:])) == 0
    assert len(batch.full(7).prompt_ids) == 1
    assert torch.equal(torch.as_tensor(batch.entropy_b), torch.tensor([0.1] * 4 + [0.2] * 4, dtype=torch.float64))


# -- 5 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demonstrations_of_all_environments_are_imitated(tmp_path):
    """Each in its own prompts, in shares by weight; one that has no weight is evaluated and not imitated."""
    config = load_config(
        "alfworld-webshop-tiny",
        base={
            "envs": {
                "alfworld": {"weight": 1, "sft": {"episodes": 3}},
                "webshop": {"weight": 2, "sft": {"episodes": 6}},
                "idle": {"name": "webshop", "weight": 0, "options": {"size": "tiny", "catalog_products": 480}},
            },
            "sft": {"steps": 2, "stop_at": 0.9, "probe_every": 1, "probe_episodes": 1},
        },
    )
    run = RunDirectory.create(tmp_path / "run", to_data(config), ["test"])
    seen = []

    class Recorder(Callback):
        def on_stage(self, event):
            seen.append(event.name)

    prepare_policy(config, run, Callbacks([Recorder()]))
    assert {name for name in seen if name[:5] == "demon"} == {"demonstrations (alfworld)", "demonstrations (webshop)"}
    probes = [row for row in run.rows("sft") if "train_success" in row]
    assert [sorted(row["envs"]) for row in probes] == [["alfworld", "webshop"]] * len(probes)
    assert probes


def test_several_environments_and_chosen_tasks_are_refused_by_verl(toy_model):
    several = from_data(RunConfig, settings(toy_model, BOTH))
    chosen = from_data(RunConfig, toy_settings(toy_model, tasks__sampler="informative"))
    for config, said in ((several, "envs names warm, cool"), (chosen, "tasks.sampler is 'informative'")):
        with pytest.raises(ConfigError, match=said):
            verl_overrides(config, Machines(), "name", "out")


def test_a_command_asks_which_environment_is_meant(toy_model, tmp_path):
    _, run = trained(toy_model, tmp_path / "run", settings(toy_model, BOTH, optim__iterations=0))
    with pytest.raises(ConfigError, match="warm, cool; say which with environment"):
        stapo.evaluate(run.path, episodes=2, seeds=[0])
    found = stapo.evaluate(run.path, environment="cool", episodes=2, seeds=[0])
    assert found.document["environment"] == {"name": "toy"}
    assert found.document["episodes"] == 2


def test_a_save_that_says_nothing_of_an_environment_is_one_error(toy_model, tmp_path):
    given = settings(toy_model, BOTH, optim__iterations=1)
    trainer, run = trained(toy_model, tmp_path / "run", given)
    (save, *_) = run.saves.complete()
    state = read_state(save)
    with pytest.raises(SaveError, match="does not say where environment"):
        trainer.restore(save, replace(state, worlds={"warm": state.worlds["warm"], "cool": {"task_position": 1}}))
