"""TRL's own trainer on our environments, with a model so small that it learns nothing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
trl = pytest.importorskip("trl", reason="trl is in an environment of its own: make test-ecosystem")
import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from stapo.adapters.trl import TextEnvironment  # noqa: E402

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes alone, with the chat template that TRL has for Qwen3."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    template = os.path.join(os.path.dirname(trl.__file__), "chat_templates", "qwen3.jinja")
    with open(template) as file:
        found.chat_template = file.read()
    return found


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    """Folder of a model; TRL reads its reference from there."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_example_makes_two_updates(tokenizer, model, tmp_path, monkeypatch):
    """With so short completions nothing is won; a second reward gives the model something to learn."""
    played, reset = [], TextEnvironment.reset

    def noted(self, task_id=None, **row):
        played.append((self, task_id))
        return reset(self, task_id, **row)

    monkeypatch.setattr(TextEnvironment, "reset", noted)
    spec = importlib.util.spec_from_file_location("train_with_trl", EXAMPLES / "train_with_trl.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    before = list(Qwen3ForCausalLM.from_pretrained(model).parameters())
    trainer = example.main(
        model, str(tmp_path), options={"scenes": "tiny", "games_per_type": 4}, tokenizer=tokenizer,
        reward_funcs=lambda completions, **more: [float(len(str(c))) for c in completions],
        max_steps=2, per_device_train_batch_size=4, num_generations=4, max_completion_length=24, save_strategy="no",
        disable_tqdm=True, learning_rate=1e-2, beta=0.01,
    )  # fmt: skip
    assert trainer.state.global_step == 2
    logged = [entry for entry in trainer.state.log_history if "rewards/TextEnvironment/mean" in entry]
    assert [entry["rewards/TextEnvironment/mean"] for entry in logged] == [0.0, 0.0]
    assert any(not torch.equal(now, then) for now, then in zip(trainer.model.parameters(), before, strict=True))
    # Each update is one group: four environments, one task.
    groups = [played[place : place + 4] for place in range(0, len(played), 4)]
    assert len(groups) == 2
    assert all(len({id(env) for env, _ in group}) == 4 and len({task for _, task in group}) == 1 for group in groups)
