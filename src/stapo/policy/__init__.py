"""The policy: a causal language model, its tokenizer, and log-probabilities of given responses."""

from stapo.policy.adapter import require_peft
from stapo.policy.config import LoraConfig, ModelConfig
from stapo.policy.loading import check_chat_template, check_model, load_policy, load_tokenizer
from stapo.policy.memory import require_memory
from stapo.policy.model import Policy, build_policy, copy_of
from stapo.policy.scoring import RowTokens, head_of, hidden_states, micro_batches

__all__ = [
    "LoraConfig",
    "ModelConfig",
    "Policy",
    "RowTokens",
    "build_policy",
    "check_chat_template",
    "check_model",
    "copy_of",
    "head_of",
    "hidden_states",
    "load_policy",
    "load_tokenizer",
    "micro_batches",
    "require_memory",
    "require_peft",
]
