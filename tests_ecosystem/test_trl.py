"""TRL's own trainer on our environments, with a model so small that it learns nothing."""

from __future__ import annotations

import os

import pytest

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
trl = pytest.importorskip("trl", reason="trl is in an environment of its own: make test-ecosystem")
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from stapo.adapters.trl import environment, rows  # noqa: E402

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


def test_two_updates(tokenizer, model, tmp_path):
    played = []

    def counted():
        env = build()
        played.append(env)
        return env

    build = environment("alfworld", scenes="tiny", games_per_type=4)
    data = rows("alfworld", number=4, scenes="tiny", games_per_type=4)
    before = list(Qwen3ForCausalLM.from_pretrained(model).parameters())
    trainer = trl.GRPOTrainer(
        model=model,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=4,
            max_completion_length=24, use_cpu=True, report_to="none", logging_steps=1, bf16=False, save_strategy="no",
            disable_tqdm=True, learning_rate=1e-2, beta=0.01,
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        environment_factory=counted,
        reward_funcs=lambda completions, **more: [float(len(str(c))) for c in completions],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 2
    logged = [entry for entry in trainer.state.log_history if "rewards/TextEnvironment/mean" in entry]
    assert [entry["rewards/TextEnvironment/mean"] for entry in logged] == [0.0, 0.0]
    assert any(not torch.equal(now, then) for now, then in zip(trainer.model.parameters(), before, strict=True))
    assert len(played) == 4
    # Members of a group play the same task.
    assert len({env.reset(task_id=data[0]["task_id"]) for env in played}) == 1
