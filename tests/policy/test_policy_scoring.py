"""Hidden states at response positions, and the cut into micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig, PhiConfig

from stapo.policy import RowTokens, head_of, hidden_states, micro_batches
from toy_world import small_policy

ROWS = [
    RowTokens([5, 6, 7, 8, 9], [10, 11]),
    RowTokens([5], [12, 13, 14, 15]),
    RowTokens([20, 21, 22], [23]),
    RowTokens(list(range(30, 60)), list(range(60, 67))),
]


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_states_predict_the_response_tokens(architecture):
    """Head times state is the model's own logits one position before each response token, in every row alone."""
    model = small_policy(architecture=architecture).model
    with torch.no_grad():
        hidden_nh, targets_n, row_n = hidden_states(model, ROWS, pad_id=0)
        found = torch.nn.functional.linear(hidden_nh, *head_of(model))
        expected = []
        for row in ROWS:
            ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
            first = len(row.prompt_ids) - 1
            expected.append(model(input_ids=ids).logits[0, first : first + len(row.response_ids)])
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)
    assert targets_n.tolist() == [t for row in ROWS for t in row.response_ids]
    assert row_n.tolist() == [b for b, row in enumerate(ROWS) for _ in row.response_ids]


def test_neither_order_nor_company_nor_padding_matter():
    model = small_policy().model
    with torch.no_grad():
        together, _, row_n = hidden_states(model, ROWS, pad_id=0)
        turned, _, turned_n = hidden_states(model, ROWS[::-1], pad_id=99)
        for b, row in enumerate(ROWS):
            alone, _, _ = hidden_states(model, [row], pad_id=0)
            assert torch.allclose(together[row_n == b], alone, atol=1e-5)
            assert torch.allclose(turned[turned_n == len(ROWS) - 1 - b], alone, atol=1e-5)


SMALL = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=99, n_embd=16, n_layer=2, n_head=2),
        PhiConfig(**SMALL),
        MistralConfig(**SMALL, num_key_value_heads=1, sliding_window=8),
    ],
    ids=lambda config: config.model_type,
)
def test_rows_of_different_lengths_need_no_mask(config):
    """States and gradients are those under a mask; attention is given none, so that it may choose its kernel."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    masks = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, given: masks.append(given.get("attention_mask")), with_kwargs=True
    )
    found = hidden_states(model, ROWS, pad_id=0)[0]
    assert masks == [None]
    longest = max(row.length for row in ROWS)
    ids_bl = torch.tensor([row.read + [0] * (longest - row.length) for row in ROWS])
    mask_bl = torch.tensor([[1] * row.length + [0] * (longest - row.length) for row in ROWS])
    states = model.base_model(input_ids=ids_bl, attention_mask=mask_bl).last_hidden_state
    expected = torch.cat([states[b, len(row.prompt_ids) - 1 :][: len(row.response_ids)] for b, row in enumerate(ROWS)])
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.randn(found.shape)
    grads = [
        torch.autograd.grad((weights * states).sum(), list(model.base_model.parameters()), allow_unused=True)
        for states in (found, expected)
    ]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-5)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = micro_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_a_row_longer_than_the_budget_stands_alone():
    assert micro_batches([10, 3, 3], 6) == [[1, 2], [0]]
