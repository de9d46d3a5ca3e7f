"""Which dtype and how many CPU threads suit a model on this machine. CPUs of one name differ by 17x in bfloat16."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModel

from stapo.policy.config import UNTIMED, ModelConfig
from stapo.policy.loading import check_model
from stapo.policy.memory import model_size
from stapo.policy.model import config_from_sizes, quiet
from stapo.policy.sources import source_of

Timed = Literal["float32", "bfloat16"]
Clock = Callable[[], float]

ONE_THREAD = 20_000_000
"""Weights below which a model takes one thread. A rule, so that one seed gives one run; on busy cores one thread was
fastest for models of 0.2 to 43 million weights, and larger ones were not measured on idle cores."""
SLOW = 3.0
"""How many times slower than float32 a dtype may be before it is warned of."""
_TIE = 1.1
_LARGE_LAYER = 30_000_000
_ROW = 256
_VOCABULARY = 2048
_ENOUGH, _MOST = 0.25, 10  # seconds and repeats of one pass


@dataclass(frozen=True)
class Speed:
    """How fast a model is in one dtype.

    Attributes:
        forward: tokens a second that are read.
        training: tokens a second of a forward and a backward pass; None where it was not timed, because `forward`
            was slow already.
    """

    forward: float
    training: float | None

    @property
    def seconds(self) -> float:
        """Seconds of a token that is read once and trained on once; without a training figure, infinite."""
        return 1 / self.forward + 1 / self.training if self.training else math.inf

    def __str__(self) -> str:
        training = "training not timed" if self.training is None else f"{self.training:,.0f} in training"
        return f"{self.forward:,.0f} tokens/s forward, {training}"


Speeds = Mapping[Timed, Speed | None]
"""Speed by dtype; None where the dtype failed, or gave numbers that are not finite."""


def faster(speeds: Speeds) -> Timed:
    """The faster dtype; float32 on a tie, within ten percent."""
    one, two = speeds.get("float32"), speeds.get("bfloat16")
    return "bfloat16" if one and two and two.seconds * _TIE < one.seconds else "float32"


def in_words(speeds: Speeds) -> str:
    """Both figures, in a line."""
    return "; ".join(f"{name}: {speed or 'fails here'}" for name, speed in speeds.items())


def much_slower(dtype: str, speeds: Speeds) -> bool:
    """Whether `dtype` is so slow here, beside the other one, that a user has to be told."""
    this = next((speed for name, speed in speeds.items() if name == dtype), None)
    other = next((speed for name, speed in speeds.items() if name != dtype), None)
    if other is None or this is None:
        return other is not None
    both = this.seconds / other.seconds if other.training else 0.0
    return max(both, other.forward / this.forward) >= SLOW


@dataclass(frozen=True)
class TimedModel:
    """A model that may be timed.

    Attributes:
        weights: how many it has.
        built_here: it is built from sizes.
        time: times it in both dtypes, with so many CPU threads; see `time_layers`.
    """

    weights: int
    built_here: bool
    time: Callable[[int], Speeds]


def timed_model_of(config: ModelConfig) -> TimedModel:
    """The model of a run, on the device that it will have.

    Raises:
        ModelError: there is no such model.
    """
    path, place = config.path, config.device
    if path is None:
        return TimedModel(config.weights, True, partial(time_layers, config_from_sizes(config), place))
    check_model(path)
    weights = model_size(path, config.lora).all
    return TimedModel(weights, False, partial(time_layers, AutoConfig.from_pretrained(source_of(path)), place))


def time_layers(config: Any, device: str, threads: int, clock: Clock = time.perf_counter) -> Speeds:
    """Time a forward and a training pass of a few layers of a model, in both dtypes; three seconds at most.

    Global random numbers and torch's threads are afterwards as they were.

    Args:
        config: transformers' configuration of the whole model.
        device: where it is timed, as `model.device` says it.
        threads: CPU threads; 0 leaves torch's number.
        clock: seconds.

    Returns:
        the speeds; {} where the device or the layers cannot be had.
    """
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        cuda = [place] if place.type == "cuda" else []
        with using_threads(threads), torch.random.fork_rng(devices=cuda):
            return _timed(*_few_layers(config, place), clock)
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError):
        return {}
    finally:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _few_layers(config: Any, device: torch.device) -> tuple[Any, torch.Tensor, float]:
    """The first layers of a model with random weights, tokens for them, and which share of the whole they are."""
    config = copy.deepcopy(config.get_text_config())
    hidden, inner = config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    large = hidden * (4 * hidden + 3 * inner) > _LARGE_LAYER
    count = 1 if large else min(2, config.num_hidden_layers)
    share = count / config.num_hidden_layers
    rows = 16 if device.type == "cuda" else 1
    longest = getattr(config, "max_position_embeddings", None) or _ROW
    config.num_hidden_layers, config.vocab_size = count, min(_VOCABULARY, config.vocab_size)
    config.pad_token_id = None
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    with quiet(), device:
        model = AutoModel.from_config(config).to(torch.float32).eval()
    return model, torch.full((rows, min(_ROW, longest)), 7, device=device), share


def _timed(model: Any, ids_bl: torch.Tensor, share: float, clock: Clock) -> Speeds:
    models: dict[Timed, Any] = {"float32": model, "bfloat16": copy.deepcopy(model).to(torch.bfloat16)}
    tokens = ids_bl.numel() * share
    forward = _least(models, one_pass(ids_bl, train=False), ids_bl.device, clock)
    slowest = max(_ENOUGH, SLOW * forward.get("float32", math.inf))
    # Where reading is slow, one training pass may take a minute; it can change nothing.
    rest = {name: one for name, one in models.items() if name in forward and forward[name] < slowest}
    training = _least(rest, one_pass(ids_bl, train=True), ids_bl.device, clock)
    found: dict[Timed, Speed | None] = {}
    for name in models:
        failed = name not in forward or (name in rest and name not in training)
        trained = tokens / training[name] if name in training else None
        found[name] = None if failed else Speed(tokens / forward[name], trained)
    return found


def one_pass(ids_bl: torch.Tensor, *, train: bool) -> Callable[[Any], torch.Tensor]:
    """A function that sends tokens through a model, forth, or forth and back; it returns what has to be finite."""

    def read(model: Any) -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = model(input_ids=ids_bl, use_cache=False).last_hidden_state
        return out

    def learn(model: Any) -> torch.Tensor:
        model.zero_grad()
        model(input_ids=ids_bl, use_cache=False).last_hidden_state.float().square().mean().backward()
        return torch.stack([p.grad.float().sum() for p in model.parameters() if p.grad is not None])

    return learn if train else read


def _least(
    models: Mapping[Timed, Any], once: Callable[[Any], torch.Tensor], device: torch.device, clock: Clock
) -> dict[Timed, float]:
    """Seconds of a pass by dtype, the least of several; in turns, so that other load on the machine meets all alike."""
    least: dict[Timed, float] = {}
    spent: dict[Timed, float] = {}
    for turn in range(_MOST):
        for name, model in models.items():
            if (turn and name not in least) or spent.get(name, 0.0) > _ENOUGH:
                continue
            started = _now(device, clock)
            try:
                out = once(model)
            except RuntimeError:
                continue
            took = max(1e-9, _now(device, clock) - started)
            if turn == 0 and not bool(out.isfinite().all()):
                continue
            # The first turn pays for what is compiled or allocated once; where it is long, that is little of it.
            least[name] = took if turn < 2 else min(least[name], took)
            spent[name] = spent.get(name, 0.0) + took
    return least


def _now(device: torch.device, clock: Clock) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Inside, torch has this many CPU threads; with 0, as many as before."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(weights: int) -> int:
    """CPU threads that suit a model: 1 for a small one, else every physical core that this process may use."""
    return 1 if weights < ONE_THREAD else usable_cores()


def usable_cores(system: Path = Path("/sys")) -> int:
    """Physical cores that this process may use; what the container or OMP_NUM_THREADS grants, where that is less."""
    try:
        cpus: Sequence[int] = sorted(os.sched_getaffinity(0))
    except AttributeError:
        cpus = range(os.cpu_count() or 1)
    siblings = {
        _text(system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus
    }
    limits = [len(siblings)]
    quota, _, period = _text(system / "fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        limits.append(math.ceil(int(quota) / int(period)))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        limits.append(int(asked))
    return max(1, min(limits))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def dtype_for(timed_model: TimedModel, threads: int) -> tuple[Timed, str]:
    """The dtype that suits a model, and why; "" where it was not timed."""
    if timed_model.built_here or timed_model.weights < UNTIMED:
        return "float32", ""
    speeds = timed_model.time(threads)
    best = faster(speeds)
    return best, f"{best} ({in_words(speeds) or 'the model cannot be timed'})"
