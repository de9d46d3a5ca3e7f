"""Small tokenizers in the manner of six families: how they split, what they add, and which tokens they have added."""

from __future__ import annotations

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "You act in a text world and reach a goal by giving one command at a time. Your goal: put a mug on desk 1.",
    "Commands that work now: go to desk 1, take mug 1 from shelf 2, examine lamp. This is step 2. You see: nothing.",
    "Answer with exactly one command. think search action information im_start im_end end_of_turn INST user eot_id",
    "<|im_end|> <start_of_turn> [INST] </s> <think> start header id begin of text assistant system model",
] * 4


def chat_template(before: str, after: str, generation: str, content: str = "m.content", bos: str = "") -> str:
    """A chat template; `before` may hold {role}."""
    before = before.replace("{role}", "{{ m.role }}")
    return (
        f"{bos}{{% for m in messages %}}{before}{{{{ {content} }}}}{after}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{generation}{{% endif %}}"
    )


def _fast(tokenizer: Tokenizer, special: list[str], other: list[AddedToken], template: str | None, **names: str):
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens(other)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)
    fast.chat_template = template
    return fast


def _byte_level(normalizer=None, **options) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def smollm():
    """Byte-level BPE, special tokens for chats and for code; a default system prompt."""
    template = chat_template(
        "<|im_start|>{role}\n", "<|im_end|>\n", "<|im_start|>assistant\n", bos="<|im_start|>system\nHi<|im_end|>\n"
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<filename>", "<gh_stars>"]
    return _fast(_byte_level(), special, [], template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3():
    """Byte-level BPE that takes whole words from its vocabulary, a template that trims, a bos token around texts."""
    header = "<|start_header_id|>{role}<|end_header_id|>\n\n"
    template = chat_template(
        header, "<|eot_id|>", header.replace("{role}", "assistant"), "m.content | trim", "<|begin_of_text|>"
    )
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ]
    tokenizer = _byte_level()
    model = {"vocab": tokenizer.get_vocab(), "merges": []}
    tokenizer.model = models.BPE(model["vocab"], model["merges"], ignore_merges=True)
    fast = _fast(tokenizer, special, [], template, bos_token=special[0], eos_token="<|eot_id|>", pad_token=special[1])
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", fast.bos_token_id)]
    )
    return fast


def qwen3():
    """Byte-level BPE with NFC, and tokens for thoughts and tools that are not flagged as special; extra words."""
    template = chat_template("<|im_start|>{role}\n", "<|im_end|>\n", "<|im_start|>assistant\n")
    tags = [f"<{end}{tag}>" for tag in ("think", "tool_call", "tool_response") for end in ("", "/")]
    other = [AddedToken(token, normalized=False) for token in [*tags, "<|fim_prefix|>", "\n\n\n", "kettle"]]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"]
    return _fast(_byte_level(normalizers.NFC()), special, other, template, eos_token="<|im_end|>", pad_token=special[0])


def gemma():
    """Unigram with SentencePiece's blanks, whose vocabulary has its control tokens, too; no system role; HTML tags."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    characters = [chr(c) for c in range(33, 127)] + ["\n"]
    trainer = trainers.UnigramTrainer(
        vocab_size=320, special_tokens=special, unk_token="<unk>", initial_alphabet=characters, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, "".join(characters)], trainer)
    other = [AddedToken(token, normalized=False) for token in ("<table>", "</table>", "\n\n", "\u2581\u2581")]
    template = chat_template(
        "<start_of_turn>{role}\n", "<end_of_turn>\n", "<start_of_turn>model\n", "m.content | trim", "<bos>"
    )
    return _fast(
        tokenizer, special, other, template, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def mistral():
    """BPE with bytes to fall back on, and a blank put before every stretch of text."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator([text.replace(" ", "\u2581") for text in TEXTS], trainer)
    template = chat_template("[INST] ", " [/INST]", "", bos="<s>")
    # The bytes are no added tokens in such files.
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(written))
    fast = _fast(
        tokenizer, special, [], template, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", fast.bos_token_id)]
    )
    return fast


def bert():
    """WordPiece that lower-cases, without a chat template, with tokens around each text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    alphabet = [chr(c) for c in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *(f"{a}{b}" for a in alphabet for b in alphabet)], trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "[SEP]",
    }
    return _fast(tokenizer, special, [], None, **names)


KINDS = {make.__name__: make for make in (smollm, llama3, qwen3, gemma, mistral, bert)}
