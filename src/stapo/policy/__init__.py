"""The policy: a causal language model, its tokenizer, and log-probabilities of given responses.

What needs torch is loaded on first use, so that reading a configuration does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stapo.policy.config import LoraConfig, ModelConfig

if TYPE_CHECKING:
    from stapo.policy.adapter import require_peft
    from stapo.policy.loading import check_chat_template, check_model, load_policy, load_tokenizer
    from stapo.policy.memory import require_memory
    from stapo.policy.model import Policy, build_policy, copy_of, head_of, hidden_states
    from stapo.policy.sequences import RowTokens, find_chains, micro_batches, row_batches
    from stapo.policy.sources import base_of, fetch_model, source_of

__all__ = [
    "LoraConfig",
    "ModelConfig",
    "Policy",
    "RowTokens",
    "base_of",
    "build_policy",
    "check_chat_template",
    "check_model",
    "copy_of",
    "fetch_model",
    "find_chains",
    "head_of",
    "hidden_states",
    "load_policy",
    "load_tokenizer",
    "micro_batches",
    "require_memory",
    "require_peft",
    "row_batches",
    "source_of",
]

_HOMES = {
    "adapter": ("require_peft",),
    "loading": ("check_chat_template", "check_model", "load_policy", "load_tokenizer"),
    "memory": ("require_memory",),
    "model": ("Policy", "build_policy", "copy_of", "head_of", "hidden_states"),
    "sequences": ("RowTokens", "find_chains", "micro_batches", "row_batches"),
    "sources": ("base_of", "fetch_model", "source_of"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"stapo.policy.{module}"), name)
    raise AttributeError(f"module 'stapo.policy' has no attribute {name!r}")
