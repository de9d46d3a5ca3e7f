"""What `stapo verl` says to verl, and what it refuses; nothing here needs verl."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from slow import slow_except
from stapo.agent import AgentConfig
from stapo.algo import ALGORITHMS, get_algorithm
from stapo.cli.main import main
from stapo.config.presets import preset_names
from stapo.config.rewards import RewardsConfig
from stapo.config.run_config import EnvConfig, RunConfig
from stapo.config.training import OptimConfig, SFTConfig
from stapo.errors import ConfigError
from stapo.policy import ModelConfig
from stapo.rollout.config import LimitsConfig, RolloutConfig
from stapo.verl_plugin import launch
from stapo.verl_plugin.hydra import literal
from stapo.verl_plugin.objective import Totals, shares_of_none
from stapo.verl_plugin.overrides import Machines, differences, verl_overrides

STAPO = get_algorithm("stapo")
RUN = RunConfig(
    seed=3,
    agent=AgentConfig(max_prompt_tokens=1000, max_response_tokens=200),
    model=ModelConfig(path="Qwen/Qwen2.5-1.5B-Instruct", dtype="bfloat16"),
    rollout=RolloutConfig(groups=16, group_size=8, temperature=0.7),
    optim=OptimConfig(iterations=150, mini_batch=256, learning_rate=1e-6, micro_tokens=4000),
)


def settings(run: RunConfig = RUN, machines: Machines | None = None) -> dict[str, str]:
    found = [o.partition("=")[::2] for o in verl_overrides(run, machines or Machines(), "name", "out")]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.train_batch_size", "16"),
        ("data.max_prompt_length", "1000"),
        ("actor_rollout_ref.rollout.n", "8"),
        ("actor_rollout_ref.rollout.temperature", "0.7"),
        ("actor_rollout_ref.rollout.agent.default_agent_loop", "stapo"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", "32"),
        ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", "4000"),
        ("actor_rollout_ref.actor.optim.lr", "1e-06"),
        ("actor_rollout_ref.actor.use_kl_loss", "true"),
        ("actor_rollout_ref.model.trust_remote_code", "false"),
        ("trainer.v1.trainer_mode", "stapo"),
        ("trainer.total_training_steps", "150"),
        ("trainer.nnodes", "1"),
        ("+ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR", "stapo"),
    ],
)
def test_settings_of_verl(key, value):
    assert settings()[key] == value


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "null"),
        (True, "true"),
        (1e-06, "1e-06"),
        ("plain/path-1.5", "plain/path-1.5"),
        ("true", "'true'"),
        ("1e-3", "'1e-3'"),
        ("it's", "'it\\'s'"),
        ("end\\", "'end\\\\'"),
        ({"a": [1, "b c"]}, "{a:[1,'b c']}"),
    ],
)
def test_hydra_literals(value, text):
    assert literal(value) == text


@pytest.mark.parametrize("value", ["${now}", "two\nlines", {"a b": 1}, {"true": 1}, object()])
def test_what_hydra_cannot_say(value):
    with pytest.raises(ConfigError, match="cannot be handed to verl"):
        literal(value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": ModelConfig()}, "model.path is not set"),
        ({"sft": SFTConfig(steps=10)}, "sft.steps is 10"),
        ({"agent": AgentConfig(response="action", decode="constrained")}, "no masks of tokens"),
        ({"algorithm": get_algorithm("ppo")}, "'ppo' has a critic"),
        ({"agent": replace(RUN.agent, response="action", decode="constrained")}, "know no masks of tokens"),
        ({"rewards": RewardsConfig(weights={"turns": 0.1})}, "rewards are more than the environment's own"),
        ({"rollout": replace(RUN.rollout, limits=LimitsConfig(tokens=100))}, "rollout.limits are set"),
        *(
            ({"algorithm": replace(STAPO, loss=replace(STAPO.loss, **{name: value}))}, f"loss.{name} is '{value}'")
            for name, value in (("kl", "full"), ("truncated", "mask"), ("reference_every", 5))
        ),
        *(
            (
                {"algorithm": replace(STAPO, selective=replace(STAPO.selective, **{name: value}))},
                f"selective.{name} is '{value}'",
            )
            for name, value in (
                ("norm", "masked_mean"),
                ("bound", "target"),
                ("support", "reference"),
                ("gate", "bonus"),
            )
        ),
        ({"optim": replace(RUN.optim, schedule="linear")}, "constant and cosine"),
        ({"optim": replace(RUN.optim, mini_batch=250)}, r"GPUs \(8\), for instance --optim.mini_batch 248 or 256"),
        ({"optim": replace(RUN.optim, micro_tokens=1000)}, "--optim.micro_tokens 1200 or more"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(replace(RUN, **changes))


@pytest.mark.parametrize(
    "name, value", [("norm", "all"), ("bound", "cap"), ("bound", "js"), ("gate", "positive"), ("kl_estimator", "k2k1")]
)
def test_readings_of_the_terms_are_carried(name, value):
    run = replace(RUN, algorithm=replace(STAPO, selective=replace(STAPO.selective, **{name: value})))
    assert f"{name}:{value}" in settings(run)["+data.stapo"]


@pytest.mark.parametrize(
    "dtype, given, carried",
    [
        ("bfloat16", None, "0.002"),
        ("auto", None, "0.002"),  # which is bfloat16 on verl's GPUs
        ("float32", None, "null"),
        ("bfloat16", 0.0, "0.0"),
        ("float32", 0.05, "0.05"),
    ],
)
def test_flags_know_the_rounding_of_the_dtype(dtype, given, carried):
    """The processes of a run are not told the dtype."""
    algorithm = replace(STAPO, outlier=replace(STAPO.outlier, min_std=given))
    run = replace(RUN, model=replace(RUN.model, dtype=dtype), algorithm=algorithm)
    assert f"min_std:{carried}," in settings(run)["+data.stapo"]


def test_gpus_have_to_divide_the_mini_batch():
    with pytest.raises(ConfigError, match=r"GPUs \(6\), for instance --optim.mini_batch 252 or 258"):
        settings(machines=Machines(3, 2))


def test_a_rollout_server_has_one_gpu_unless_told_otherwise():
    key = "actor_rollout_ref.rollout.tensor_model_parallel_size"
    assert settings(machines=Machines(1, 1))[key] == "1"
    assert settings(machines=Machines(1, 4, tensor_parallel=2))[key] == "2"
    with pytest.raises(ConfigError, match="--tensor-parallel is 2, which does not divide the 3 GPUs"):
        Machines(1, 3, 2)


def test_a_mini_batch_that_is_no_multiple_of_the_group():
    run = replace(RUN, rollout=replace(RUN.rollout, group_size=5), optim=replace(RUN.optim, mini_batch=512))
    # 102 prompts x 5 attempts are 510 rows; the trainer takes 512, which tests_verl looks at.
    assert settings(run)["actor_rollout_ref.actor.ppo_mini_batch_size"] == "102"
    assert [line for line in differences(run) if line.startswith("optim.mini_batch")] == [
        "optim.mini_batch: verl's setting counts prompts and says 102 (102 x 5 rows); stapo's trainer takes the 512 "
        "rows of the preset"
    ]
    assert not any(line.startswith("optim.mini_batch") for line in differences(RUN))


@pytest.mark.parametrize(
    "prompt, merge, said", [("conversation", True, 1), ("conversation", False, 0), ("compact", True, 0)]
)
def test_rows_of_several_steps_are_said(prompt, merge, said):
    run = replace(RUN, agent=replace(RUN.agent, prompt=prompt), optim=replace(RUN.optim, merge=merge))
    assert sum("256 rows are more steps" in line for line in differences(run)) == said
    assert f"merge:{str(merge).lower()}" in settings(run)["+data.stapo"]


def test_dynamic_sampling_is_verls_filter():
    assert settings()["algorithm.filter_groups.enable"] == "false"
    dapo = replace(RUN, algorithm=get_algorithm("dapo"))
    assert settings(dapo)["algorithm.filter_groups.enable"] == "true"
    assert settings(dapo)["algorithm.filter_groups.metric"] == "reward"
    assert any("without a limit of rounds (here 10)" in line for line in differences(dapo))


BASELINES = ("ppo", "rloo", "grpo", "empg", "gigpo", "gigpo-dynamic", "stapo", "stapo-dynamic")
"""What the paper's tables 1 and 4 compare."""
PAPER = {name: (256, 8) if "alfworld" in name else (64, 8) if "webshop" in name else (512, 5)
         for name in preset_names() if name.startswith("paper/")}  # fmt: skip


@pytest.mark.parametrize(
    "gpus", slow_except([[], ["--gpus-per-node", "4"], ["--nodes", "2"]], ["--nodes", "2"]), ids=["8", "4", "2x8"]
)
@pytest.mark.parametrize("preset", slow_except(PAPER, "paper/webshop-7b"))
def test_the_papers_presets_start_as_they_are(preset, gpus, capsys):
    rows, group = PAPER[preset]
    for name in (*ALGORITHMS, "stapo+pgpo"):
        code = main(["verl", preset, "--algorithm", name, *gpus, "--dry-run"])
        out, err = capsys.readouterr()
        if name == "ppo":  # the only one of them that verl cannot do
            assert (code, err.count("\n")) == (2, 1)
            assert "'ppo' has a critic of steps" in err
            continue
        assert code == 0, err
        words = shlex.split(out.replace("\\\n", " "))
        found = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        machines = int(found["trainer.nnodes"]) * int(found["trainer.n_gpus_per_node"])
        assert machines == (4 if "4" in gpus else 16 if gpus else 8)
        assert rows % machines == 0
        assert int(found["actor_rollout_ref.actor.ppo_mini_batch_size"]) == rows // group
        assert f"mini_batch:{rows}," in found["+data.stapo"]
        assert found["algorithm.filter_groups.enable"] == str(get_algorithm(name).sampling.dynamic).lower()
        assert found["trainer.experiment_name"].strip("'") == f"{preset.replace('/', '-')}-{name}"
        assert err.count("note: optim.mini_batch") == (group == 5)
    assert set(BASELINES) <= set(ALGORITHMS)


def test_what_is_different_is_said():
    assert any(line.startswith("eval.greedy") for line in differences(RUN))
    running = replace(RUN, algorithm=get_algorithm("stapo-running"))
    assert any("resumed run forgets them" in line for line in differences(running))
    assert shares_of_none(RUN.algorithm, Totals(9.0, 3.0, 0.0)) == {}
    assert shares_of_none(RUN.algorithm, Totals(9.0, 3.0, 1.0)) == {"selective_loss": 0.0, "r_ta": 0.0, "p_ti": 0.0}
    stopping = replace(RUN, agent=replace(RUN.agent, stop=("</action>",)))
    assert [line.startswith("agent.stop") for line in differences(stopping)].count(True) == 1
    assert not any(line.startswith("agent.stop") for line in differences(RUN))


def test_files_are_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "games").mkdir()
    found = settings(replace(RUN, env=EnvConfig(options={"games": "games", "size": "small"})))
    assert f"games:{tmp_path}/games,size:small" in found["+data.stapo"]
    assert found["trainer.default_local_dir"] == str(tmp_path / "out")


def test_variables_are_read_here_where_they_name_something(tmp_path, monkeypatch):
    """Workers on other nodes have no $GAMES."""
    monkeypatch.setenv("GAMES", str(tmp_path))
    run = replace(RUN, env=EnvConfig(options={"games": "$GAMES", "other": "$NOT_SET/x"}))
    assert f"games:{tmp_path},other:'$NOT_SET/x'" in settings(run)["+data.stapo"]


def test_print_works_without_verl(capsys):
    args = "webshop-1000 --model.path some/model --gpus-per-node 2 --optim.iterations 7 trainer.save_freq=3 --print"
    assert main(["verl", *args.split()]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("VERL_ENGINE_VENDOR=stapo python \\\n  -m \\\n  verl.trainer.main_ppo")
    assert "trainer.total_training_steps=7" in out
    # What the user says in verl's own words comes last, and so wins.
    assert out.rstrip().endswith("trainer.save_freq=3")
    assert "note: " in err


def test_starting_without_verl_is_one_line(capsys, monkeypatch):
    def missing(name):
        raise launch.PackageNotFoundError(name)

    monkeypatch.setattr(launch, "version", missing)
    assert main(["verl", *["webshop-1000", "--model.path", "some/model", "--gpus-per-node", "2"]]) == 2
    assert "error: verl is not installed in this environment, expected verl 0.9.1" in capsys.readouterr().err


def test_a_preset_comes_first(capsys):
    assert main(["verl", "--print"]) == 2
    assert "needs a preset or a YAML file first" in capsys.readouterr().err
