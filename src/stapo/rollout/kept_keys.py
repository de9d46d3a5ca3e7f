"""Keys and values of running episodes, kept between turns, so that a turn reads its new tokens alone.

What is kept is looked up by the name of an episode and used as far as its token ids begin the new prompt, so that no
name, break or retry can make a sample another one. It lives for one rollout, within a budget of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from stapo.memory_model import kv_bytes
from stapo.progress import note
from stapo.rollout.batch_cache import Layers

Name = tuple[int, ...]

_PASS_TOKENS = {"cpu": 32}
_PASS_TOKENS_ELSEWHERE = 1024


@dataclass
class PromptCounts:
    """What has been spent on prompts so far.

    Attributes:
        prefilled: tokens that were read, padding left out.
        reused: tokens whose keys and values were there already.
        not_kept: episodes that grew beyond the budget, each once in a rollout.
    """

    prefilled: int = 0
    reused: int = 0
    not_kept: int = 0

    def since(self, before: PromptCounts) -> dict[str, int]:
        """What has come since `before`, as it is logged."""
        return {
            "tokens": self.prefilled - before.prefilled,
            "reused": self.reused - before.reused,
            "not_kept": self.not_kept - before.not_kept,
        }


@runtime_checkable
class KeepsKeys(Protocol):
    """A sampler that keeps something of each episode between turns, and counts what that saves."""

    @property
    def counts(self) -> PromptCounts:
        """What has been spent on prompts so far."""
        ...

    def room(self, tokens: int) -> int | None:
        """Episodes of so many tokens that should be played together; None where more never cost anything."""
        ...

    def forget(self) -> None:
        """Drop everything; the rollout has ended."""
        ...


@dataclass
class _EpisodeCache:
    """Prompt and response of an episode's last turn, and keys and values (heads, tokens, size) of its beginning."""

    ids: list[int]
    layers: Layers = field(default_factory=list)
    nbytes: int = 0

    @property
    def tokens(self) -> int:
        return self.layers[0][0].shape[1] if self.layers else 0


class KeptKeys:
    """What is kept of the episodes of one rollout.

    Args:
        budget: bytes that may be kept between turns; 0 keeps nothing.
        growing: prompts are known to grow by appending, so the first turn is kept. Otherwise the second decides: the
            first leaves its ids alone, and where no prompt extends them nothing is ever kept.
    """

    def __init__(self, budget: int, growing: bool) -> None:
        self.budget = budget
        self.counts = PromptCounts()
        self._declared = self._growing = growing
        self._kept: dict[Name, _EpisodeCache] = {}
        self._left_out: set[Name] = set()
        self._weights = 0

    @property
    def growing(self) -> bool:
        """Whether keys are to be kept."""
        return self.budget > 0 and self._growing

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now."""
        return sum(kept.nbytes for kept in self._kept.values())

    def forget(self) -> None:
        """Drop everything, and what was seen of the prompts."""
        self._kept.clear()
        self._left_out.clear()
        self._growing = self._declared

    def begin(self, prompts: Sequence[Sequence[int]], streams: Sequence[Name], weights: int) -> list[int]:
        """Drop the episodes that are not asked about; returns for each prompt the tokens that need not be read.

        Args:
            prompts: of one call.
            streams: their random streams; all but the last number names the episode, the last one the turn.
            weights: a number that changes when the weights do.
        """
        if not self.budget:
            return [0] * len(prompts)
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights
        later = {stream[:-1] for stream in streams if stream[-1] > 0}
        self._kept = {name: kept for name, kept in self._kept.items() if name in later}
        # A name that is given twice in one call is two episodes, and what is kept is that of one.
        named = {stream[:-1]: i for i, stream in enumerate(streams)}
        found = [self._kept.get(s[:-1]) if named[s[:-1]] == i else None for i, s in enumerate(streams)]
        self._growing = self._growing or any(
            kept is not None and list(prompt[: len(kept.ids)]) == kept.ids
            for prompt, kept in zip(prompts, found, strict=True)
        )
        return [
            0 if kept is None else _common(kept.ids[: kept.tokens], prompt[:-1])
            for prompt, kept in zip(prompts, found, strict=True)
        ]

    def take(self, stream: Name) -> Layers:
        """Hand out the keys and values of an episode; what it has said is remembered until there are others."""
        kept = self._kept.pop(stream[:-1], None)
        return [] if kept is None else kept.layers

    def note(self, stream: Name, ids: list[int]) -> None:
        """Remember what an episode has said so far, to see whether its next prompt extends that."""
        if self.budget:
            self._kept[stream[:-1]] = _EpisodeCache(ids)

    def keep(self, stream: Name, ids: list[int], size: int, layers: Callable[[], Layers]) -> None:
        """Keep what has been read of an episode, where the budget allows it.

        Args:
            stream: of the turn.
            ids: prompt and response.
            size: bytes of the keys and values.
            layers: gets the keys and values of the first ones of `ids`.
        """
        name = stream[:-1]
        self._kept.pop(name, None)
        if self.nbytes + size <= self.budget:
            self._kept[name] = _EpisodeCache(ids, layers(), size)
        elif name not in self._left_out:
            self._left_out.add(name)
            self.counts.not_kept += 1

    def give_up(self, kinds: str) -> None:
        """Keep nothing from now on: the model's cache is another one; said once."""
        self.budget = 0
        self.forget()
        note(
            f"this model's cache ({kinds}) is not one of keys and values of all tokens, so nothing is kept between "
            "turns: each prompt is read from its start (rollout.kept_keys_gib)"
        )


def key_bytes(config: Any, itemsize: int) -> int | None:
    """Bytes of keys and values of one token in all layers; None for a model whose settings do not tell."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers, heads = getattr(text, "num_hidden_layers", None), getattr(text, "num_attention_heads", None)
    shared = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else None)
    return kv_bytes(layers, shared, width, itemsize) if layers and shared and width else None


def sub_batches(new: Sequence[int], budget: int, device: str) -> list[list[int]]:
    """Cut rows into parts that read at most `budget` tokens, padding included, those with the fewest first.

    Rows of a part read as many tokens as the one that has most to read. A row begins another part where that costs the
    others more than a further pass would.

    Args:
        new: tokens that each row has to read.
        budget: of `rollout.batch_tokens`.
        device: type of the device, which decides how many tokens a pass is worth.
    """
    pass_tokens = _PASS_TOKENS.get(device, _PASS_TOKENS_ELSEWHERE)
    parts: list[list[int]] = []
    for i in sorted(range(len(new)), key=lambda i: (new[i], i)):
        rows = parts[-1] if parts else []
        if rows and (len(rows) + 1) * new[i] <= budget and len(rows) * (new[i] - new[rows[-1]]) <= pass_tokens:
            rows.append(i)
        else:
            parts.append([i])
    return parts


def _common(ids: list[int], prompt: Sequence[int]) -> int:
    if list(prompt[: len(ids)]) == ids:
        return len(ids)
    return next((at for at, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(prompt))
