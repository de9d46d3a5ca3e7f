"""What other projects build on. A change here breaks them: say so in CHANGELOG.md and give it a new version."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import stapo
import stapo.algo
from stapo.envs.protocol import Env, Observation, StepResult


def test_names():
    assert {n for n in stapo.__all__ if not n.endswith("Event") and not n.startswith("register_")} == {
        "Callback", "Comparison", "ConfigError", "Diagnosis", "Endpoint", "Env", "EnvError", "Episode", "Evaluation",
        "Observation", "PromptFields", "Run", "RunConfig", "StapoError", "StepResult", "StopTraining",
        "UnknownNameError", "__version__", "algo", "check_env", "compare", "diagnose", "evaluate", "export",
        "load_config", "make", "train",
    }  # fmt: skip
    for name in stapo.__all__:
        assert getattr(stapo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'mkae'"):
        _ = stapo.mkae


SIGNATURES = {
    stapo.make: "(name: 'str', **options: 'Any') -> 'Env'",
    stapo.check_env: "(env: 'Env') -> 'list[str]'",
    Env.__init__: "(self, **options: 'Any') -> 'None'",
    Env.tasks_of: "(self, split: 'str') -> 'Sequence[str]'",
    Env.task_type: "(self, task_id: 'str') -> 'str'",
    Env.reset: "(self, task_id: 'str') -> 'Observation'",
    Env.step: "(self, action: 'str') -> 'StepResult'",
    Env.close: "(self) -> 'None'",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_signatures(function):
    assert str(inspect.signature(function)) == SIGNATURES[function]


def test_environment_attributes():
    public = {name for name in vars(Env) if not name.startswith("_")} | set(Env.__annotations__)
    assert public == {"name", "max_steps", "tasks", "splits", "tasks_of", "task_type", "reset", "step", "close"}
    assert Env.__annotations__ == {"name": "str", "max_steps": "int"}
    assert isinstance(Env.tasks, property)
    assert isinstance(Env.splits, property)


@pytest.mark.parametrize(
    "cls, expected",
    [
        (
            Observation,
            {"text": "str", "goal": "str", "admissible": "list[str] | None", "blind_text": "str | None"},
        ),
        (
            StepResult,
            {
                "text": "str",
                "admissible": "list[str] | None",
                "reward": "float",
                "done": "bool",
                "won": "bool",
                "info": "dict[str, Any]",
                "blind_text": "str | None",
            },
        ),
    ],
)
def test_what_environments_return(cls, expected):
    assert {f.name: f.type for f in dataclasses.fields(cls)} == expected
    assert cls.__dataclass_params__.frozen


def test_errors_are_standard_errors_too():
    from stapo import errors

    expected = {
        "ConfigError": ValueError,
        "UnknownNameError": KeyError,
        "GameFileError": ValueError,
        "EnvError": RuntimeError,
        "ModelError": ValueError,
        "EngineError": RuntimeError,
        "NonFiniteError": ArithmeticError,
        "RunDirectoryError": OSError,
        "SaveError": OSError,
        "CorpusError": ValueError,
        "IndexFileError": OSError,
        "RetrieverError": ConnectionError,
        "EnvServerError": ConnectionError,
        "EndpointError": ConnectionError,
        "DeadlineError": TimeoutError,
        "FailureLimitError": RuntimeError,
    }
    ours = {
        name: cls
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, errors.StapoError) and cls is not errors.StapoError
    }
    assert set(ours) == set(expected)
    for name, cls in ours.items():
        assert issubclass(cls, expected[name])


def test_algorithm_names():
    assert set(stapo.algo.ALGORITHMS) >= {
        "grpo",
        "dr-grpo",
        "rloo",
        "reinforce++",
        "gspo",
        "gigpo",
        "hgpo",
        "empg",
        "stapo",
        "stapo-literal",
        "stapo-shannon",
        "stapo-goal-only",
        "stapo-history-only",
        "stapo-single-penalty",
        "stapo-penalty-only",
        "stapo-all-steps",
        "stapo-random",
        "stapo-loo",
        "stapo-mad",
        "stapo-shrunken",
        "stapo-running",
    }


def test_every_exported_function_of_the_math_exists():
    for name in stapo.algo.__all__:
        assert getattr(stapo.algo, name) is not None
