"""Settings of the whole process that the code of an environment could change for everybody else.

An environment in this process shares torch, NumPy and the interpreter with the policy. What it changes there is put
back after the call, and said once: a default dtype or a number of threads decides every digit of a run. The
global random generators are left alone, since environments may draw from them and nothing else here does.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Setting = tuple[str, Callable[[], Any], Callable[[Any], Any], Any]
"""What it is, how it is read and written, and what it is in a fresh process (`...` where that depends)."""

_log = logging.getLogger("stapo")
_told: set[tuple[str, str]] = set()
_known: dict[str, list[Setting]] = {}


@contextmanager
def kept(name: str) -> Iterator[None]:
    """Put every setting back that changes meanwhile, and warn once of each."""
    before = _read()
    try:
        yield
    finally:
        _put_back(name, before)


def _read() -> dict[str, list[Any]]:
    return {module: [read() for _, read, _, _ in settings] for module, settings in _settings().items()}


def _put_back(name: str, before: dict[str, list[Any]]) -> None:
    after = _read()
    if after == before:
        return
    for module, settings in _settings().items():
        # A module that was imported meanwhile was fresh then.
        values = before.get(module) or [fresh for _, _, _, fresh in settings]
        for (what, _, write, _), old, new in zip(settings, values, after[module], strict=True):
            if old is ... or new == old:
                continue
            try:
                write(old)
            except (RuntimeError, ValueError, TypeError, OSError) as err:
                done = f"which could not be undone ({err}); the numbers of this run may differ from those without it"
            else:
                done = "which was undone"
            if (name, what) not in _told:
                _told.add((name, what))
                _log.warning(
                    "environment '%s' changed %s of the whole process from %s to %s, %s. Environments must leave it "
                    "alone; rollout.workers gives them processes of their own.",
                    name,
                    what,
                    _words(old),
                    _words(new),
                    done,
                )


def _words(value: Any) -> str:
    text = repr(getattr(value, "__qualname__", value))
    return text if len(text) <= 80 else text[:78] + " …"


def _settings() -> dict[str, list[Setting]]:
    """The settings of those modules that are imported."""
    for module, build in (("", _of_python), ("numpy", _of_numpy), ("torch", _of_torch)):
        if module not in _known and (not module or _is_whole(module)):
            _known[module] = build()
    return _known


def _is_whole(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _of_python() -> list[Setting]:
    return [
        ("the working folder", _folder, os.chdir, ...),
        ("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, ...),
        ("garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable(), True),
        *(
            (f"the handler of {number.name}", lambda n=number: signal.getsignal(n), _handler_of(number), ...)
            for number in (signal.SIGINT, signal.SIGTERM)
        ),
    ]


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _handler_of(number: signal.Signals) -> Callable[[Any], Any]:
    return lambda handler: signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _of_numpy() -> list[Setting]:
    import numpy as np

    usual = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
    return [
        ("NumPy's handling of errors", np.geterr, lambda value: np.seterr(**value), usual),
        ("NumPy's print options", np.get_printoptions, lambda value: np.set_printoptions(**value), ...),
    ]


def _of_torch() -> list[Setting]:
    # By name: this room does not need torch, it only must not let others misuse it.
    torch: Any = sys.modules["torch"]
    cudnn = torch.backends.cudnn

    def use_deterministic(value: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(value[0], warn_only=value[1])

    def use_device(device: Any) -> None:
        # A default that is set costs every call; the processor is what stands there without one.
        torch.set_default_device(None if str(device) == "cpu" else device)

    def use_flags(value: tuple[bool, bool, bool]) -> None:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = value

    return [
        ("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        ("torch's number of threads", torch.get_num_threads, torch.set_num_threads, ...),
        ("torch's default device", torch.get_default_device, use_device, torch.device("cpu")),
        (
            "torch's choice of deterministic algorithms",
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            use_deterministic,
            (False, False),
        ),
        (
            "torch's precision of matrix products",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
            "highest",
        ),
        ("torch's recording of gradients", torch.is_grad_enabled, torch.set_grad_enabled, True),
        (
            "torch's flags of cuDNN",
            lambda: (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
            use_flags,
            (True, False, False),
        ),
    ]
