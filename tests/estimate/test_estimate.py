"""Memory and time by hand-worked numbers; shapes against transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stapo.cli.dry_run import advice, workload
from stapo.cli.expected_episodes import half_of_limits
from stapo.cli.main import main
from stapo.config.presets import load_config
from stapo.errors import ModelError
from stapo.estimate.costs import (
    DEVICES,
    RESERVED,
    Device,
    Workload,
    activations,
    chunked_head,
    forward_flops,
    kv_bytes_per_token,
    layer_activations,
    memory,
    seconds,
    tokens_of_pass,
)
from stapo.estimate.shapes import ModelShape, find_shape, known_shapes
from stapo.policy import LoraConfig, ModelConfig
from stapo.policy.memory import memory_need, model_size
from stapo.training.scoring import chunk_of
from toy_world import small_policy

SMALL = ModelShape(hidden=4, inner=8, layers=2, heads=2, kv_heads=1, head_dim=2, vocabulary=10, tied=True, bias=True)
WORK = Workload(
    episodes=4, steps=5, prompt=10, response=2, longest_prompt=20, longest_response=4, iterations=7, epochs=1,
    mini_batch=40, micro_tokens=48, batch_tokens=40, bytes_per_weight=2, lora_rank=0, reference="device",
    scored_by_reference=True, checkpointing=False, blind=True, critic=False,
)  # fmt: skip


# Shapes.


@pytest.mark.parametrize(
    "name, weights",
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-3B", 3_085_938_688),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("qwen2.5-14b", 14_770_033_664),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B-Base", 1_720_574_976),
        ("Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248),
    ],
)
def test_published_numbers_of_weights(name, weights):
    assert find_shape(name).parameters == weights


@pytest.mark.parametrize("name", known_shapes())
def test_transformers_builds_as_many(name):
    import json
    from importlib.resources import files

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(json.loads((files("stapo.estimate") / "shapes.json").read_text())[name])
    config["num_hidden_layers"] = 2  # the layers are all alike
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    assert replace(known_shapes()[name], layers=2).parameters == sum(p.numel() for p in model.parameters())


def test_weights_by_hand():
    # q = 4, k = 2: attention 2*4*6 + biases 4 + 4, feed-forward 3*4*8, norms 8; twice; embeddings 40, last norm 4.
    assert SMALL.layer_parameters == 48 + 8 + 96 + 8
    assert SMALL.parameters == 2 * 160 + 40 + 4
    # in + out of q, k, v, o: 8 + 6 + 6 + 8; of the three inner ones: 12 each.
    assert SMALL.adapter_parameters(3) == 2 * 3 * (28 + 36)


def test_a_local_folder_is_read(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2, '
        '"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": true}'
    )
    assert find_shape(str(tmp_path)) == replace(SMALL, bias=False)


@pytest.mark.parametrize(
    "text, said",
    [("{", "gives no shape"), ('{"model_type": "gpt2"}', "'gpt2', expected one of qwen2"), ("[]", "gives")],
)
def test_a_folder_without_a_shape(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=said):
        find_shape(str(tmp_path))


def test_an_unknown_name():
    with pytest.raises(ModelError, match=r"Did you mean 'qwen2.5-7b'\? Give a local folder with its config.json"):
        find_shape("Qwen/Qwen2.5-8B")


# Memory.


def test_memory_by_hand():
    found = memory(SMALL, WORK)
    # 364 weights of 2 bytes; moments 8 and copies 4 bytes each.
    assert found["weights"] == found["gradients"] == found["reference"] == 728
    assert found["optimizer"] == 364 * 12
    # 2 * (4*4 + 4*4 + 4*8) + 8*4 bytes a token and layer.
    assert layer_activations(SMALL, 2) == 2 * 64 + 32
    assert found["activations"] == 48 * 2 * 160
    assert activations(SMALL, WORK, checkpointing=True) == 48 * (2 * 2 * 4 + 160)
    # Two rows of 24 in a pass: 8 tokens are scored, as many as those of one flagged row under two prompts, in one
    # chunk, so that the gradient of the head is there once.
    assert found["chunked head"] == 8 * 10 * 4 * 4 + 10 * 4 * 2
    assert found["selective gradients"] == 728
    assert found["optimizer step"] == 4 * 40
    # 2 rows of 20 fill 40 tokens; each grows by 4; 2 layers * 2 (keys, values) * 2 wide * 2 bytes.
    assert kv_bytes_per_token(SMALL, 2) == 16
    assert found["KV cache"] == (40 + 2 * 4) * 16
    assert found["prefill"] == 40 * 2 * (2 * 4 + 3 * 8)
    assert found["sampling"] == 2 * 10 * 28
    assert found["peak"] == 728 * 3 + 4368 + 15360 + 1360 + 728 + RESERVED
    # Three rows decode together, and no more than an evaluation plays; two are read at a time.
    more = memory(SMALL, replace(WORK, decode_tokens=70))
    assert more["KV cache"] == 3 * 24 * 16
    assert more["sampling"] == 3 * 10 * 28
    assert more["prefill"] == found["prefill"]
    assert memory(SMALL, replace(WORK, decode_tokens=10**9))["KV cache"] == 128 * 24 * 16
    # Each part of the peak can be the largest one.
    few = replace(WORK, micro_tokens=1, blind=False, checkpointing=True, longest_prompt=1, longest_response=1)
    assert memory(SMALL, few)["peak"] == 728 * 3 + 4368 + (40 + 40) * 16 + 40 * 10 * 28 + RESERVED


def test_flagged_rows_are_there_under_both_prompts():
    # One of 40 rows of 24 tokens is flagged, in a pass of 48: no more than the others. Three of 300 fill a pass.
    assert tokens_of_pass(WORK) == 48
    assert tokens_of_pass(replace(WORK, mini_batch=300)) == 96
    assert tokens_of_pass(replace(WORK, mini_batch=300, blind=False)) == 48


def test_kept_keys_are_there_while_it_generates():
    # 2 layers of 2 x 1 head x 2 numbers of 2 bytes are 16 bytes for each of the 24 tokens of each of four episodes.
    generating = replace(WORK, batch_tokens=10_000)
    bare = memory(SMALL, generating)
    assert "kept keys" not in bare
    for budget, kept in ((10_000.0, 1536.0), (1000.0, 1000.0)):
        found = memory(SMALL, replace(generating, kept_bytes=budget))
        assert (found["kept keys"], found["peak"] - bare["peak"]) == (kept, kept)
    with_vllm = replace(generating, vllm_share=0.5)
    assert memory(SMALL, replace(with_vllm, kept_bytes=1000.0)) == memory(SMALL, with_vllm)


def test_the_largest_moment_of_fp32_weights_can_be_the_optimizer_step():
    work = replace(
        WORK, bytes_per_weight=4, vllm_share=0.5, micro_tokens=1, longest_prompt=1, longest_response=1, blind=False
    )
    # Weights, gradients, reference, two moments and the root of one; two tokens' activations are less.
    assert memory(SMALL, work)["optimizer step"] == 364 * 4
    assert memory(SMALL, replace(work, checkpointing=True))["peak"] == 364 * (4 + 4 + 4 + 8 + 4) + RESERVED


def test_many_chunks_hold_the_gradient_of_the_head_twice():
    work = replace(WORK, longest_response=4096, blind=False)
    shape = replace(SMALL, vocabulary=100_000)
    assert chunked_head(shape, work) == 100 * 100_000 * 16 + 2 * 400_000 * 2
    assert chunked_head(shape, replace(work, lora_rank=3)) == 100 * 100_000 * 16
    # As the trainer cuts it.
    assert [chunk_of(torch.empty(v, 1, device="meta")) for v in (100_000, 152_000)] == [100, 65]


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_a_layer_keeps_what_is_said(architecture, dtype, rank):
    """Counts what autograd saves: of three layers and of two."""
    if rank:
        pytest.importorskip("peft")
    found = []
    for layers in (2, 3):
        policy = small_policy(
            architecture=architecture, hidden_size=256, heads=4, intermediate_size=512, layers=layers, vocab_size=300
        )
        policy.model.to(getattr(torch, dtype))
        policy.attach(LoraConfig(rank=rank), 0)
        kept = {p.untyped_storage().data_ptr(): None for p in policy.model.parameters()}

        def keep(tensor, kept=kept):
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
            return tensor

        mask_bl = torch.ones(2, 32, dtype=torch.long)
        mask_bl[1, 20:] = 0
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            policy.model.base_model(input_ids=torch.full((2, 32), 5), attention_mask=mask_bl, use_cache=False)
        found.append(sum(t.untyped_storage().nbytes() for t in kept.values() if t is not None))
    shape = ModelShape(
        hidden=256, inner=512, layers=1, heads=4, kv_heads=4, head_dim=64, vocabulary=300, tied=True,
        head_norms=architecture == "qwen3",
    )  # fmt: skip
    said = layer_activations(shape, 2 if dtype == "bfloat16" else 4, rank)
    assert said == pytest.approx((found[1] - found[0]) / 64, rel=0.03)


@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "lora": LoraConfig(rank=3)}])
@pytest.mark.parametrize("all_trained", [False, True])
def test_the_dry_run_and_the_check_before_a_run_agree(tmp_path, settings, all_trained):
    policy = small_policy()
    policy.save(tmp_path)
    config = ModelConfig(path=str(tmp_path), **settings)
    need = memory_need(
        model_size(str(tmp_path), config.lora), config, reference=True, critic=True, all_trained=all_trained
    )
    work = replace(
        WORK, bytes_per_weight=2 if config.dtype == "bfloat16" else 4, lora_rank=config.lora.rank, critic=True,
        all_trained=all_trained,
    )  # fmt: skip
    found = memory(find_shape(str(tmp_path)), work)
    for part in ("weights", "gradients", "optimizer", "reference", "critic"):
        assert found[part] == getattr(need, part), part


def test_adapters_need_no_copy_of_the_reference_and_few_moments():
    found = memory(SMALL, replace(WORK, lora_rank=3))
    assert found["reference"] == 0
    assert (found["weights"], found["gradients"], found["optimizer"]) == (728 + 4 * 384, 4 * 384, 8 * 384)


def test_the_longest_row_is_never_cut():
    assert activations(SMALL, replace(WORK, micro_tokens=1, blind=False), False) == 24 * 2 * 160


def test_no_copy_where_there_is_no_reference():
    assert memory(SMALL, replace(WORK, reference="cpu"))["reference"] == 0


# Time.


def test_operations_by_hand():
    # layers: 2 * 320 weights * 3 tokens; attention: 2 * 2 * 4 * 5 * 3; head: 2 * 40 * 1.
    assert forward_flops(SMALL, 3, 5, 1) == 1920 + 240 + 80


def test_seconds_by_hand():
    device = Device("cpu", 1e9, 1000 / 0.35, 1e12)  # a thousand operations a second, and reading costs nothing
    found = seconds(SMALL, WORK, device)
    # 20 rows of 12 tokens, of which 2 are scored: 640*240 + 16*12*240 + 80*40.
    forward = (153_600 + 46_080 + 3_200) / 1000
    prefill = (640 * 200 + 16 * 10 * 200 + 80 * 20) / 1000
    step = (640 * 4 + 16 * 12 * 4 + 80 * 4) / 1000  # four rows of 10 fill 40 tokens
    assert found["generation"] == pytest.approx(prefill + 20 / 4 * 2 * step)
    assert found["old log-probs"] == 0
    assert found["reference"] == pytest.approx(forward)
    assert found["update"] == pytest.approx(3 * forward)
    assert found["blind passes"] == pytest.approx(0.01 * 4 * forward)
    assert found["run"] == pytest.approx(7 * found["iteration"])
    assert seconds(SMALL, replace(WORK, checkpointing=True), device)["update"] == pytest.approx(4 * forward)
    assert seconds(SMALL, replace(WORK, lora_rank=1), device)["update"] == pytest.approx(2 * forward)
    assert seconds(SMALL, replace(WORK, scored_by_reference=False), device)["reference"] == 0


def test_reading_the_weights_bounds_generation():
    device = Device("cpu", 1e9, 1e30, 1000 / 0.6)
    # 728 bytes of weights and 4 rows of 12 tokens of 16 bytes, ten steps.
    assert seconds(SMALL, WORK, device)["generation"] == pytest.approx(10 * (728 + 768) / 1000)


def test_more_episodes_together_are_fewer_steps():
    device = Device("cpu", 1e9, 1e30, 1000 / 0.6)
    work = replace(WORK, episodes=12)
    for decode_tokens, together in ((0, 4), (60, 6), (10_000, 12)):
        found = seconds(SMALL, replace(work, decode_tokens=decode_tokens), device)["generation"]
        assert found == pytest.approx(60 / together * 2 * (728 + together * 12 * 16) / 1000)


# What is said.


def test_the_mildest_knobs_are_named_with_what_they_bring():
    config = load_config("paper/alfworld-7b")
    work = replace(workload(config, half_of_limits(config)), checkpointing=False)
    lines = advice(find_shape("Qwen/Qwen2.5-7B"), work, DEVICES["a100-40"])
    assert lines[0].startswith("does NOT fit on a100-40: about 247.1 GiB")
    text = "\n".join(lines)
    for setting in ("micro-tokens 2560", "gradient-checkpointing", "reference cpu", "lora.rank 32"):
        assert setting in text
    # Sampling is not part of this peak.
    assert "batch-tokens" not in text
    assert "stapo verl" in text
    assert advice(SMALL, WORK, DEVICES["cpu"]) == ["fits on cpu: about 1.4 of 14.9 GiB."]


def test_the_estimate_does_not_get_into_the_settings(capsys):
    import yaml

    assert main(["train", "paper/alfworld-1.5b", "--dry-run", "--gpu", "h200"]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["model"]["path"] == "Qwen/Qwen2.5-1.5B-Instruct"
    for shown in ("16 groups x 8", "1,543,714,304 weights", "estimate for h200", "old log-probs", "fits on h200"):
        assert shown in err


def test_without_a_shape_the_rest_is_shown(capsys):
    assert main(["train", "tiny", "--model.path", "who/knows", "--dry-run"]) == 0
    assert "no estimate: the shape of model 'who/knows' is not known" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--dry-run", "--gpu", "h10"], "unknown GPU 'h10'. Did you mean 'h100'?"),
        (["--gpu", "h100"], "--gpu names the device of an estimate; give --dry-run with it"),
        (["--dry-run", "--gpu"], "--gpu needs the name of a device"),
        (["--no-probe"], "--no-probe is for an estimate; give --dry-run with it"),
    ],
)
def test_wrong_input(capsys, argv, said):
    assert main(["train", "tiny", *argv]) == 2
    assert said in capsys.readouterr().err
