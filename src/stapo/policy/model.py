"""Building and saving the policy, and its hidden states at response tokens, which the chunked head scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from stapo.errors import ConfigError, ModelError, first_line
from stapo.policy.adapter import Adapter
from stapo.policy.config import HeadKernel, LoraConfig, ModelConfig
from stapo.policy.sequences import RowTokens
from stapo.policy.tokenizer import train_tokenizer
from stapo.texts import counted


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing tables and progress bars: what they say is in our errors."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_too = not are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars and hub_too:
            transformers_logging.enable_progress_bar()


@dataclass
class Policy:
    """A model with its tokenizer.

    Attributes:
        model: the causal language model.
        tokenizer: its tokenizer; has an end token and a pad token.
        eos_ids: tokens that end a response.
        adapter: the adapters in the model, where those are trained instead of all weights.
        head_kernel: how training computes the head.
    """

    model: Any
    tokenizer: Any
    eos_ids: list[int]
    adapter: Adapter | None = None
    head_kernel: HeadKernel = "eager"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.model.parameters())

    def attach(self, config: LoraConfig, seed: int) -> None:
        """Put adapters into the model; from now on they are what is trained. With rank 0 nothing is done.

        Raises:
            ConfigError: the package for it is not installed.
            ModelError: the model has no such layers.
        """
        if config.rank:
            self.adapter = Adapter(self.model, config, seed)

    @contextmanager
    def as_reference(self) -> Iterator[Any]:
        """The model as the reference of a policy with adapters: without them, or with those of the last refresh."""
        if self.adapter is None:
            raise ValueError("the policy has no adapters to switch off; expected one that `attach` was called on.")
        with self.adapter.as_reference():
            yield self.model

    def plain_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and weights of the plain model that the policy is, one after the other; adapters are merged in."""
        if self.adapter is None:
            yield from self.model.state_dict().items()
        else:
            yield from self.adapter.merged_weights(self.model)

    @quiet()
    def save(self, folder: Path, base: str | None = None) -> None:
        """Write model (safetensors), configuration and tokenizer into `folder`; plain transformers can load it.

        Adapters are merged into the weights, and also written into `folder/adapter`, as peft reads them.

        Mind that `AutoTokenizer` puts the Qwen2 family's own cut of text in the place of a small qwen2 model's saved
        tokenizer; `load_policy` does not, and models of the other architectures are not concerned.

        Args:
            folder: to write into.
            base: name or folder of the model that adapters belong to; written into their settings.
        """
        if self.adapter is None:
            self.model.save_pretrained(folder)
        else:
            self.model.save_pretrained(folder, state_dict=self.adapter.merged_state(self.model))
            self.adapter.save(folder / "adapter", base or "")
        # Where it was loaded from is not part of it: a resumed run's checkpoints equal those of an undisturbed one.
        for key in ("is_local", "local_files_only"):
            self.tokenizer.init_kwargs.pop(key, None)
        self.tokenizer.save_pretrained(folder)

    def save_trained(self, folder: Path) -> None:
        """Write what training moves, exactly: all of the policy, or its adapters alone."""
        if self.adapter is None:
            self.save(folder)
        else:
            self.adapter.save(folder, "")


def copy_of(policy: Policy, *, on_cpu: bool) -> Any:
    """A copy of the policy's model, beside it or on the CPU."""
    if not on_cpu:
        return copy.deepcopy(policy.model)
    device = policy.device
    # There and back: a copy on the device first would need its memory twice.
    copied = copy.deepcopy(policy.model.to("cpu"))
    policy.model.to(device)
    return copied


def build_policy(config: ModelConfig, texts: Iterable[str], max_positions: int, seed: int) -> Policy:
    """Build a small Qwen2-type model with random weights and train its tokenizer on `texts`.

    Args:
        config: sizes.
        texts: prompts and commands of the environment.
        max_positions: longest prompt plus response, in tokens.
        seed: of the initial weights.

    Raises:
        ConfigError: a chat template, or values for one, are set: such a model has none.
    """
    if config.chat_template not in ("auto", "none") or config.chat_template_kwargs:
        raise ConfigError(
            "model.chat_template names a file, or model.chat_template_kwargs has values, but a model that is built "
            "here has no chat template. Leave them out, or name a pretrained model in model.path."
        )
    tokenizer = train_tokenizer(texts, config.vocab_size, config.tokenizer)
    sizes = config_from_sizes(
        config,
        vocab_size=len(tokenizer),
        max_position_embeddings=max_positions,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(sizes)
        _compose_embeddings(
            model.get_input_embeddings().weight, tokenizer, config.initializer_range, fold=config.tokenizer != "phrases"
        )
    return finish_policy(model, tokenizer, config)


def config_from_sizes(config: ModelConfig, **more: Any) -> Any:
    """The transformers configuration of a small model; `more` goes into it besides."""
    return AutoConfig.for_model(
        config.architecture,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.hidden_size // config.heads,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        initializer_range=config.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        **more,
    )


def _compose_embeddings(weight_vh: torch.Tensor, tokenizer: Any, scale: float, *, fold: bool) -> None:
    """Start each token's embedding as a mix of vectors of its words, so that " candle" resembles " candle 1".

    A phrase tokenizer gives the candle of the goal and the candle on the shelf unrelated tokens; a small model needs
    most of its training to find out that they belong together. With `fold`, "Warm" of a title resembles "warm".
    """
    words: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for token in range(weight_vh.shape[0]):
            parts = tokenizer.decode([token]).split()
            if fold:
                parts = [part.lower() for part in parts]
            for word in parts:
                words.setdefault(word, torch.randn(weight_vh.shape[1]))
            if parts:
                mean = torch.stack([words[word] for word in parts]).sum(0) / len(parts) ** 0.5
                weight_vh[token] = scale * (0.9**0.5 * mean + 0.1**0.5 * torch.randn(weight_vh.shape[1]))


def dtype_of(config: ModelConfig) -> torch.dtype:
    """The dtype of the weights; float32 where `auto` was not decided before."""
    found: torch.dtype = getattr(torch, config.dtype.replace("auto", "float32"))
    return found


def finish_policy(model: Any, tokenizer: Any, config: ModelConfig) -> Policy:
    """Check that model and tokenizer fit together, and put the model where `config` says.

    Raises:
        ModelError: they do not fit, the head does more than a matrix product, or there is no such device.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise ModelError(
            f"the tokenizer has token ids up to {highest}, but the model has embeddings for "
            f"{counted(rows, 'token')} only. "
            "Use the tokenizer that belongs to the model, or resize the model's embeddings and train them first."
        )
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token, so a response could never end. Set its eos_token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.to(device=device, dtype=dtype_of(config))
    except (RuntimeError, AssertionError) as err:
        raise ModelError(f"the model cannot be moved to model.device '{device}': {first_line(err)}.") from err
    _require_plain_head(model)
    if config.gradient_checkpointing:
        checkpoint_layers(model)
    if config.chat_template == "none":
        tokenizer.chat_template = None
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *([configured] if isinstance(configured, int) else configured or [])}
    if max(ends) > highest:
        raise ModelError(
            f"the model ends its responses with token {max(ends)}, but the tokenizer's ids go up to {highest}: it "
            "belongs to another model. Put the model's own tokenizer files into its folder."
        )
    return Policy(model, tokenizer, sorted(ends), head_kernel=config.head_kernel)


@torch.inference_mode()
def _require_plain_head(model: Any) -> None:
    """Check on a few tokens that the logits are head times hidden state.

    Log-probabilities are computed from the hidden states, a chunk of tokens at a time. A model that caps or scales its
    logits would sample from one distribution and be trained on another.
    """
    was_training = model.training
    model.eval()
    ids_bl = torch.arange(min(8, model.get_input_embeddings().weight.shape[0]), device=model.device)[None]
    expected = model(input_ids=ids_bl, use_cache=False).logits.float()
    hidden_blh = model.base_model(input_ids=ids_bl, use_cache=False).last_hidden_state
    found = torch.nn.functional.linear(hidden_blh, *head_of(model)).float()
    model.train(was_training)
    scale = max(1.0, float(expected.abs().max()))
    capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if capped or expected.shape != found.shape or float((expected - found).abs().max()) > 0.01 * scale:
        raise ModelError(
            f"{type(model).__name__} changes its logits after the language-model head (capping, scaling), which is not "
            "supported: log-probabilities in training would not be those of sampling. Qwen and Llama models do not."
        )


def checkpoint_layers(model: Any) -> None:
    """Make every layer of `model` forget its inner activations; where no gradient is wanted, nothing changes.

    Transformers' own switch works in training mode only, which would turn dropout on as well; an update scores in
    evaluation mode, since its log-probabilities have to be those of the policy that sampled.

    Raises:
        ModelError: transformers marks no layers of this kind of model for it.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no layers that can be checkpointed. Set model.gradient_checkpointing to "
            "false; a smaller optim.micro_tokens also saves memory."
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def head_of(model: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (V, H) and bias (V,) of the language-model head; most models have no bias."""
    head = model.get_output_embeddings()
    return head.weight, getattr(head, "bias", None)


def hidden_states(
    model: Any, rows: Sequence[RowTokens], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the model body over `rows` and keep the positions that predict response tokens.

    Rows of one chain that stand next to each other are read once, by their last. Position ids count from 0 in each
    sequence, so a blind prompt gets its own.

    Returns:
        hidden_nh: (n, H), n = all response tokens of all rows, row by row;
        targets_n: the response token ids;
        row_n: index of the row each belongs to.

    Raises:
        ValueError: the rows of a chain do not extend each other.
    """
    device = next(model.parameters()).device
    sequences: list[list[int]] = []
    where: list[tuple[int, int]] = []
    targets: list[int] = []
    for b, row in enumerate(rows):
        read = row.read
        if b and row.chain is not None and row.chain == rows[b - 1].chain:
            if read[: len(sequences[-1])] != sequences[-1]:
                raise ValueError(f"row {b} is of chain {row.chain}, as the row before it, but does not extend it.")
            sequences[-1] = read
        else:
            sequences.append(read)
        first = len(row.prompt_ids) - 1
        where += [(len(sequences) - 1, first + k) for k in range(len(row.response_ids))]
        targets += row.response_ids
    ids_bl = torch.full((len(sequences), max(map(len, sequences))), pad_id, dtype=torch.long)
    for s, read in enumerate(sequences):
        ids_bl[s, : len(read)] = torch.as_tensor(read, dtype=torch.long)
    # No mask: padding is on the right, where a causal model never looks. Without one, attention takes a faster kernel.
    out = model.base_model(input_ids=ids_bl.to(device), use_cache=False)
    index_n2 = torch.as_tensor(where, dtype=torch.long, device=device)
    hidden_nh = out.last_hidden_state[index_n2[:, 0], index_n2[:, 1]]
    row_n = torch.repeat_interleave(torch.as_tensor([len(row.response_ids) for row in rows], device=device))
    return hidden_nh, torch.as_tensor(targets, dtype=torch.long, device=device), row_n
