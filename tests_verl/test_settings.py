"""`stapo verl`'s settings are read by verl as they were meant.

1. Hydra composes them with verl's own configuration, and verl's checks accept the result.
2. Every process gets back the run configuration that was given, odd texts included.
3. The plugin is found by its entry point, and a registration that failed is an error that says why.
4. What would change rows behind our credit is refused.
5. verl pads to, and updates on, as many rows as `optim.mini_batch` says, multiple of the group or not.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass, validate_config

from stapo.agent import AgentConfig
from stapo.algo import get_algorithm
from stapo.config.run_config import EnvConfig, RunConfig
from stapo.config.training import EvalConfig, OptimConfig
from stapo.errors import ConfigError, EngineError
from stapo.policy import ModelConfig
from stapo.verl_plugin import launch
from stapo.verl_plugin.hydra import override
from stapo.verl_plugin.overrides import Machines, verl_overrides
from stapo.verl_plugin.settings import run_config_of
from stapo.verl_plugin.trainer import StapoTrainer

ODD = ["it's", "a\\'b", "end\\", "1e-3", "true", "null", "", " spaced ", "a=b,c:{d}[e]", "ä☃", "~x", '"q"', "$x"]


def compose_with(overrides: list[str]):
    folder = Path(verl.__file__).parent / "trainer" / "config"
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        return compose(config_name="ppo_trainer", overrides=overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    from test_engine import policy_of

    folder = tmp_path_factory.mktemp("model")
    policy_of(0).save(folder)
    return RunConfig(
        seed=3,
        env=EnvConfig(
            name="alfworld", options={"games": "/some/where else", "task_types": ["pick", "look"], "none": None}
        ),
        agent=AgentConfig(hidden_commands=("help", "it's"), max_prompt_tokens=100, max_response_tokens=20),
        model=ModelConfig(path=str(folder), dtype="bfloat16"),
        algorithm=get_algorithm("stapo"),
        optim=OptimConfig(iterations=7, learning_rate=2e-6, mini_batch=64, schedule="cosine", warmup_iterations=2),
        eval=EvalConfig(temperature=0.4, every=2),
    )


def test_verl_accepts_the_settings(run):
    config = compose_with(verl_overrides(run, Machines(2, 4), "name", "out"))
    validate_config(config, need_reference_policy(config), need_critic(config))
    assert need_reference_policy(config)
    assert not need_critic(config)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert actor.strategy == config.actor_rollout_ref.ref.strategy == "fsdp2"
    # verl multiplies by the attempts per prompt; ours counts rows.
    assert actor.ppo_mini_batch_size * rollout.n == run.optim.mini_batch
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (2, 4)
    engine = omega_conf_to_dataclass(actor).engine
    assert engine.mixed_precision["param_dtype"] == "bf16"
    assert omega_conf_to_dataclass(actor).optim.lr == 2e-6
    assert config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR == "stapo"


class Workers:
    """Stands in for the workers: keeps what they are told."""

    def update_actor(self, batch):
        self.told = dict(batch.extra_info)
        return tu.get_tensordict({}, {"metrics": {"mfu": [0.0]}})


def trainer_of(run: RunConfig, *theirs: str) -> StapoTrainer:
    trainer = StapoTrainer.__new__(StapoTrainer)  # without workers and servers, which need GPUs
    trainer.config = compose_with([*verl_overrides(run, Machines(), "n", "o"), *theirs])
    trainer.stapo, trainer.global_steps, trainer.use_critic = run, 1, False
    trainer.distillation_config, trainer.actor_rollout_wg = None, Workers()
    return trainer


@pytest.mark.parametrize(
    "group, theirs, rows",
    [
        (5, (), 512),
        (8, (), 512),
        # What the user says in verl's words is counted in verl's way.
        (5, ("actor_rollout_ref.actor.ppo_mini_batch_size=104",), 520),
    ],
)
def test_rows_of_a_mini_batch(run, group, theirs, rows):
    config = replace(
        run, rollout=replace(run.rollout, group_size=group), optim=replace(run.optim, mini_batch=512)
    )  # fmt: skip
    trainer = trainer_of(config, *theirs)
    before = OmegaConf.to_container(trainer.config)
    assert trainer._get_required_batch_multiple(8) == rows
    batch = KVBatchMeta(keys=[], tags=[], partition_id="train")
    trainer._update_actor(batch, {})
    told = trainer.actor_rollout_wg.told
    assert (told["mini_batch_size"], told["global_batch_size"]) == (rows, rows)
    assert OmegaConf.to_container(trainer.config) == before


@pytest.mark.parametrize("said", ["rollout_is=token", "rollout_rs=token_k1", "bypass_mode=True"])
def test_corrections_of_whole_rows_are_refused(run, said):
    theirs = f"algorithm.rollout_correction.{said}"
    config = compose_with([*verl_overrides(run, Machines(), "n", "o"), theirs])
    with pytest.raises(ConfigError, match=rf"{theirs.partition('=')[0]} is .*takes neither its weights nor its masks"):
        StapoTrainer(config)


def test_dynamic_sampling_is_verls_filter(run):
    trainer = trainer_of(replace(run, algorithm=get_algorithm("stapo-dynamic")))
    assert trainer._resolve_filter_groups_metric() == "reward"
    assert trainer_of(run)._resolve_filter_groups_metric() is None


def test_no_reference_where_none_is_needed(run):
    gigpo = get_algorithm("gigpo")
    config = replace(run, algorithm=replace(gigpo, loss=replace(gigpo.loss, beta=0.0)))
    assert not need_reference_policy(compose_with(verl_overrides(config, Machines(), "n", "o")))


def test_every_process_reads_the_same_run(run):
    data = compose_with(verl_overrides(run, Machines(), "n", "o")).data
    algorithm = replace(run.algorithm, paper="", description="", outlier=replace(run.algorithm.outlier, min_std=2e-3))
    wanted = replace(run, model=ModelConfig(), algorithm=algorithm)
    assert run_config_of(data) == wanted


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_come_through(text):
    value = {"one": text, "many": [text, text]}
    assert compose_with([override("data.x", value, new=True)]).data.x == value


def test_the_entry_point_is_installed():
    assert {p.name: p.value for p in entry_points(group=launch.GROUP)}["stapo"] == launch.MODULE


def test_registered():
    launch.require_verl()
    launch.require_registration()


def test_a_plugin_that_failed_silently(monkeypatch):
    registry = import_module("verl.trainer.ppo.v1.trainer_base").TRAINER_REGISTRY
    monkeypatch.delitem(registry, "stapo")
    real = launch.import_module

    def failing(name):
        if name == launch.MODULE:
            raise ImportError("no module named 'something'")
        return real(name)

    monkeypatch.setattr(launch, "import_module", failing)
    with pytest.raises(
        EngineError, match=r"did not register stapo's trainer.*ImportError: no module named 'something'"
    ):
        launch.require_registration()


def test_plugins_switched_off(monkeypatch):
    monkeypatch.delitem(import_module("verl.experimental.agent_loop.agent_loop")._agent_loop_registry, "stapo")
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    with pytest.raises(EngineError, match=r"agent loop.*VERL_USE_EXTERNAL_PLUGINS is 'none'"):
        launch.require_registration()


def test_another_version(monkeypatch):
    monkeypatch.setattr(launch, "version", lambda name: "0.8.0")
    with pytest.raises(EngineError, match=r"verl 0\.8\.0 is installed.*written for verl 0\.9\.1.*pip install"):
        launch.require_verl()
