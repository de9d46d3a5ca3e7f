"""The policy: a causal language model, its tokenizer, and log-probabilities of given responses."""

from stapo.policy.config import ModelConfig
from stapo.policy.loading import check_model, load_policy, load_tokenizer
from stapo.policy.model import Policy, build_policy
from stapo.policy.scoring import RowTokens, head_of, hidden_states, micro_batches

__all__ = [
    "ModelConfig",
    "Policy",
    "RowTokens",
    "build_policy",
    "check_model",
    "head_of",
    "hidden_states",
    "load_policy",
    "load_tokenizer",
    "micro_batches",
]
