"""A chat template that writes the date, as those of Llama 3.x and Granite do, and days to read it on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any

import transformers.utils.chat_template_utils as templates

import stapo.rollout.templates as frames
import stapo.run.directory as directory

LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- endif %}"
    '{{- "<|system|>Today Date: " + date_string + "\\n\\n" }}'
    "{%- for m in messages %}{{- m.content }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- eos_token }}{%- endif %}"
)
GRANITE = (
    "{%- set shown = strftime_now(format='%B %d, %Y, %H:%M%Z') -%}Today's Date: {{ shown }}.\n"
    "{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
)


def at(text: str) -> Callable[[], None]:
    """A function that makes it this time for the rest of a process: for transformers, for prompts and for new runs."""

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            there = datetime.fromisoformat(text).replace(tzinfo=UTC)
            return there if tz else there.replace(tzinfo=None)

    def set_clocks() -> None:
        for module in (templates, frames, directory):
            module.datetime = Then  # type: ignore[attr-defined]

    return set_clocks
