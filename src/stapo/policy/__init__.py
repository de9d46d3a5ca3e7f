"""The policy: a causal language model, its tokenizer, and log-probabilities of given responses."""

from stapo.policy.config import ModelConfig
from stapo.policy.model import Policy, build_policy, load_policy
from stapo.policy.scoring import RowTokens, hidden_states, micro_batches

__all__ = [
    "ModelConfig",
    "Policy",
    "RowTokens",
    "build_policy",
    "hidden_states",
    "load_policy",
    "micro_batches",
]
