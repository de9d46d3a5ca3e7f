"""Which environment is played, or which ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

from stapo.agent import AgentConfig
from stapo.config.rewards import RewardsConfig
from stapo.config.schema import from_data
from stapo.config.training import EvalConfig, SFTConfig
from stapo.documents import shown
from stapo.errors import ConfigError, did_you_mean
from stapo.rollout.config import RolloutConfig
from stapo.texts import secret_in_address

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_OWN = {
    "agent": (),
    "rollout": ("anchor", "limits", "reward_scale", "tasks"),
    "rewards": (),
    "sft": ("data", "episodes", "scarce_fraction", "scarce_types", "wander"),
    "eval": ("episodes", "quick_episodes", "split"),
}
"""What one of several environments may have for itself; of agent and rewards, everything."""


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Which environment is played.

    Attributes:
        name: environment that is played; `stapo envs` lists them.
        split: split of the environment that RL trains on.
        options: options of the environment, as a mapping; `stapo envs NAME` explains them.
    """

    name: str = "alfworld"
    split: str = "train"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("name", "split"):
            if not getattr(self, name):
                raise ConfigError(f"env.{name} is empty, expected a name; 'stapo envs' lists what there is.")
        # Settings are written down in many places, and most environments are opened after the first of them.
        for path, text in texts_in(self.options, "env.options"):
            held = secret_in_address(text) if "://" in text or path == "env.options.retriever" else ""
            if held:
                raise ConfigError(
                    f"{path} holds {held}, and settings are written down; expected it without. A token for a retrieval "
                    "server goes into the environment variable STAPO_RETRIEVER_TOKEN, one for an environment's server "
                    "into STAPO_OPENENV_TOKEN."
                )


@dataclass(frozen=True, kw_only=True)
class MixedEnvConfig:
    """One of the environments of a run that has several.

    Attributes:
        name: environment that is played; empty for the one that is called as this entry is.
        weight: its share of the task groups, as a multiple of the others' weights; 0 or more. With 0 it is evaluated
            and not trained on.
        split: split of the environment that RL trains on.
        options: options of the environment, as a mapping; `stapo envs NAME` explains them.
        agent: settings of `agent` that are others here, as a mapping: prompts, response format, limits.
        rollout: the same of `rollout`: `reward_scale`, `anchor`, `limits` and `tasks`.
        rewards: the same of `rewards`: all of them.
        sft: the same of `sft`: `data`, `episodes`, `wander`, `scarce_types` and `scarce_fraction`. Where `episodes` is
            not given, those of the run are shared out by weight.
        eval: the same of `eval`: `split`, `episodes` and `quick_episodes`.
    """

    name: str = ""
    weight: float = 1.0
    split: str = "train"
    options: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)
    rollout: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, Any] = field(default_factory=dict)
    sft: dict[str, Any] = field(default_factory=dict)
    eval: dict[str, Any] = field(default_factory=dict)


class HasEnvs(Protocol):
    """Settings of a run, as far as its environments are concerned."""

    @property
    def env(self) -> EnvConfig: ...  # noqa: D102
    @property
    def envs(self) -> dict[str, MixedEnvConfig]: ...  # noqa: D102
    @property
    def agent(self) -> AgentConfig: ...  # noqa: D102
    @property
    def rollout(self) -> RolloutConfig: ...  # noqa: D102
    @property
    def rewards(self) -> RewardsConfig: ...  # noqa: D102
    @property
    def sft(self) -> SFTConfig: ...  # noqa: D102
    @property
    def eval(self) -> EvalConfig: ...  # noqa: D102


C = TypeVar("C", bound=HasEnvs)


def environments_of(config: C) -> dict[str, C]:
    """The settings of each environment of a run, as if it were the only one, by what it is called in the run.

    Raises:
        ConfigError: settings that an environment cannot have for itself, or that do not fit it.
    """
    if not config.envs:
        return {config.env.name: config}
    return {label: _environment(config, label, entry) for label, entry in config.envs.items()}


def environment_of(config: C, label: str | None) -> C:
    """The settings of one environment of a run; `label` may be left out where there is one.

    Raises:
        ConfigError: there are several, and none is named; or no such one.
    """
    environments = environments_of(config)
    if label is None and len(environments) == 1:
        return next(iter(environments.values()))
    if label not in environments:
        wrong = (
            "say which with environment."
            if label is None
            else f"'{label}' is not one of them.{did_you_mean(label, environments)}"
        )
        raise ConfigError(f"the environments of this run are {', '.join(environments)}; {wrong}")
    return environments[label]


def longest_tokens(config: HasEnvs) -> tuple[int, int]:
    """Tokens of the longest prompt and of the longest response that a run may have, in whichever environment."""
    agents = [env.agent for env in environments_of(config).values()]
    return max(agent.max_prompt_tokens for agent in agents), max(agent.max_response_tokens for agent in agents)


def check_envs(config: HasEnvs) -> EnvConfig:
    """Check the environments of a run that has several; returns what stands for them all as `env`.

    Raises:
        ConfigError: `env` is given as well, a name cannot be used, weights that sum to nothing, or the settings of an
            environment do not fit.
    """
    together = EnvConfig(name="+".join(map(str, config.envs)))
    if config.env not in (EnvConfig(), together):
        raise ConfigError(
            f"env and envs are both given; expected env for one environment ('{config.env.name}' is named) or envs for "
            "several."
        )
    for label, entry in config.envs.items():
        if not _LABEL.fullmatch(label):
            raise ConfigError(f"envs names {shown(label)}, expected letters, digits, - and _, at most 40 of them.")
        if not 0 <= entry.weight < math.inf:
            raise ConfigError(f"envs.{label}.weight is {entry.weight}, expected a number of 0 or more.")
    if not sum(entry.weight for entry in config.envs.values()):
        raise ConfigError("the weights of envs sum to 0, so there is nothing to train on; give one a weight above 0.")
    environments = environments_of(config)
    for name in ("max_response_tokens", "stop") if config.rollout.engine == "vllm" else ():
        values = {label: getattr(env.agent, name) for label, env in environments.items()}
        if len(set(values.values())) > 1:
            found = ", ".join(f"{label}: {shown(value)}" for label, value in values.items())
            raise ConfigError(
                f"rollout.engine is 'vllm', which all environments of a run share, but agent.{name} differs between "
                f"them ({found}). Set it once, in the run's own agent."
            )
    return together


def _environment(config: C, label: str, entry: MixedEnvConfig) -> C:
    given: dict[str, dict[str, Any]] = {group: dict(getattr(entry, group)) for group in _OWN}
    share = entry.weight / sum(other.weight for other in config.envs.values())
    given["sft"].setdefault("episodes", max(1, round(config.sft.episodes * share)))
    parts: dict[str, Any] = {}
    try:
        for group, own in _OWN.items():
            for key in given[group]:
                if own and key not in own and key in getattr(config, group).__dataclass_fields__:
                    raise ConfigError(
                        f"{group}.{key} belongs to the whole run; of {group}, {', '.join(own)} can differ."
                    )
            base = getattr(config, group)
            parts[group] = from_data(type(base), given[group], group, base)
        env = EnvConfig(name=entry.name or label, split=entry.split, options=entry.options)
        return replace(config, envs={}, env=env, **parts)  # type: ignore[type-var]
    except ConfigError as err:
        raise ConfigError(f"envs.{label}: {err}") from err


def texts_in(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text among settings, keys of mappings included, with the dotted path to it."""
    pending = [(path, value)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, str):
            yield path, value
        elif is_dataclass(value):
            pending += [(f"{path}.{part.name}".lstrip("."), getattr(value, part.name)) for part in fields(value)]
        elif isinstance(value, Mapping):
            for key, item in value.items():
                pending += [(f"{path}.{key}", item), (path, key)]  # the key first: a path must hold no secret
        elif isinstance(value, list | tuple):
            pending += [(path, item) for item in value]
