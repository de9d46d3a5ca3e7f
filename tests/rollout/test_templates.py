"""The pieces of chat templates as models have them: what stands around messages, and what a template does besides."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from stapo.errors import ModelError
from stapo.rollout.templates import TemplateParts

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant named Smol.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{%- if strftime_now is defined %}{%- set today = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set today = '26 Jul 2024' %}{%- endif %}"
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|begin|><|header|>system<|/header|>\n\nToday Date: ' + today + '\n\n' + system + '<|eot|>' }}"
    "{%- for m in messages %}{{- '<|header|>' + m.role + '<|/header|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|header|>assistant<|/header|>\n\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('After the optional system message, roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# The system message goes before the last of the user's.
MISTRAL_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + ((system + '\n\n') if system is defined and loop.last else '') + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- set text = m.content %}"
    "{%- if m.role == 'assistant' and '</think>' in text and loop.index0 < ns.last %}"
    "{%- set text = text.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% elif m.role == 'assistant' %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
KEEPS_OPENED = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
COUNTER = "{{ '[' + messages|length|string + ' messages]\n' }}" + CHATML
NUMBERED = CHATML.replace("{{ m.role }}", "{{ m.role }} of {{ messages|length - loop.index0 }}")
FAREWELL = CHATML.replace("{{ m.content }}", "{% if loop.index0 == 3 %}(once more) {% endif %}{{ m.content }}")


def tokenizer(template, eos="<|im_end|>"):
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0})), eos_token=eos, bos_token="<s>")
    made.chat_template = template
    return made


def noon():
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


def parts(template, eos="<|im_end|>"):
    return TemplateParts.of(tokenizer(template, eos), noon)


def built(found, *said, system=None):
    """A conversation from its pieces, as the agent's prompts are put together; the user speaks first and last."""
    text = found.before_user if system is None else found.before_system + system + found.system_to_user
    for number, content in enumerate(said):
        text += content + (found.to_user if number % 2 else found.to_response)
    return text


def test_chatml():
    found = parts(CHATML)
    assert (found.before_system, found.system_to_user) == ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n")
    assert found.before_user == "<|im_start|>user\n"
    assert found.to_response == "<|im_end|>\n<|im_start|>assistant\n"
    assert found.to_user == "<|im_end|>\n<|im_start|>user\n"
    assert (found.system, found.rewrites, found.opens_thought) == ("supported", None, False)


def test_a_given_system_message_takes_the_place_of_a_default_one():
    found, default = parts(SMOLLM), "You are a helpful assistant named Smol."
    assert found.before_user == f"<|im_start|>system\n{default}<|im_end|>\n<|im_start|>user\n"
    assert found.before_system == "<|im_start|>system\n"
    assert found.rewrites is None


def test_llama_writes_the_date_of_the_clock():
    found = parts(LLAMA, "<|eot|>")
    assert found.before_system == "<|begin|><|header|>system<|/header|>\n\nToday Date: 01 Mar 2026\n\n"
    assert found.before_user == found.before_system + "<|eot|><|header|>user<|/header|>\n\n"
    assert found.to_user == "<|eot|><|header|>user<|/header|>\n\n"
    assert found.rewrites is None


def test_the_clock_is_asked_once():
    days = count(1)
    found = TemplateParts.of(tokenizer(LLAMA, "<|eot|>"), lambda: datetime(2026, 3, next(days), tzinfo=UTC))
    assert next(days) == 2
    assert found.rewrites is None


def test_gemma_has_no_system_role():
    found = parts(GEMMA, "<eos>")
    assert (found.system, found.before_system, found.system_to_user) == ("raises", None, "")
    assert found.rewrites is None
    assert found.before_user == "<s><start_of_turn>user\n"
    assert found.to_user == "<end_of_turn>\n<start_of_turn>user\n"


def test_mistral_has_its_end_token_between_turns():
    found = parts(MISTRAL, "</s>")
    assert (found.before_user, found.to_response) == ("<s>[INST] ", " [/INST]")
    assert (found.to_user, found.system) == ("</s>[INST] ", "raises")
    assert found.rewrites is None  # the blank before a response is sampled with it


def test_a_system_message_that_moves_with_the_conversation_has_no_place():
    found = parts(MISTRAL_SYSTEM, "</s>")
    assert (found.system, found.before_system, found.rewrites) == ("moves", None, None)


def test_qwen3_drops_the_thoughts_of_earlier_turns():
    found = parts(QWEN3)
    assert "thoughts" in found.rewrites
    assert "left out" in found.rewrites
    assert not found.opens_thought
    assert found.to_user == "<|im_end|>\n<|im_start|>user\n"


def test_deepseek_opens_a_thought_and_ignores_the_system_message():
    found = parts(DEEPSEEK, "<|end|>")
    assert (found.opens_thought, found.system, found.before_system) == (True, "ignored", None)
    assert found.rewrites is not None
    assert (found.to_response, found.to_user) == ("<|Assistant|><think>\n", "<|end|><|User|>")


def test_an_opened_thought_that_stays_is_no_rewriting():
    found = parts(KEEPS_OPENED)
    assert (found.opens_thought, found.rewrites) == (True, None)


@pytest.mark.parametrize(
    "template, why",
    [
        (COUNTER, "before the first message"),
        (NUMBERED, "before the first message"),
        (FAREWELL, "later turns"),
        (CHATML.replace("assistant\n{% endif", "assistant\n\n{% endif"), "generation prompt"),
        (CHATML + "{{ range(100000) | random }}", "each time"),
        (CHATML.replace("{{ m.content }}", "{{ m.content | replace('<think>', '[') }}"), "written differently"),
    ],
)
def test_why_a_next_prompt_is_no_extension(template, why):
    assert why in parts(template).rewrites


@pytest.mark.parametrize("template", [CHATML, SMOLLM, LLAMA, GEMMA, QWEN3, MISTRAL_SYSTEM, KEEPS_OPENED])
def test_a_conversation_from_the_pieces_is_that_of_the_template(template):
    made, found = tokenizer(template), parts(template)
    said = ["Goal: heat a mug.", "go to shelf 1", "You see a mug.", "take mug 1", "You take it."]
    if found.opens_thought:
        said = [text if n % 2 == 0 else f"Hm.\n</think>\n\n{text}" for n, text in enumerate(said)]
    messages = [
        {"role": "assistant", "content": "<think>\n" * found.opens_thought + text}
        if n % 2
        else {"role": "user", "content": text}
        for n, text in enumerate(said)
    ]
    dated = {"strftime_now": noon().strftime} if "strftime" in template else {}

    def rendered(messages):
        return made.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **dated)

    assert built(found, *said) == rendered(messages)
    if found.system == "supported":
        with_system = [{"role": "system", "content": "Be brief."}, *messages]
        assert built(found, *said, system="Be brief.") == rendered(with_system)


@pytest.mark.parametrize(
    "template, said",
    [
        ("{{ raise_exception('only tools, please') }}", "only tools, please"),
        ("{{ messages[0].content[0].text.upper() + nothing.here }}", "fails"),
        (CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'assistant' %}"), "assistant's"),
        ("{% for m in messages %}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}", "user's"),
        ("{% for m in messages %}{{ m.content }} {{ m.content }}{% endfor %}", "repeats"),
        ("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", "repeats or moves"),
        ("{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}",
         "one turn only"),
        (None, "no chat template"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_write_a_conversation_is_one_error(template, said):
    with pytest.raises(ModelError) as caught:
        parts(template)
    assert said in str(caught.value)
    assert "model.chat_template to 'none'" in str(caught.value)
    assert "\n" not in str(caught.value)
