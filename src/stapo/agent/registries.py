"""The prompt styles and response formats that are chosen by name, and are open to other packages.

What a function of each kind is given and returns say the protocols `stapo.agent.prompts.PromptStyle` and
`stapo.agent.parsing.ResponseFormat`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stapo.registry import Registry, no_function

PROMPT_STYLES: Registry[Callable[..., Any]] = Registry("prompt style", "stapo.prompt_styles", no_function)
RESPONSE_FORMATS: Registry[Callable[..., Any]] = Registry("response format", "stapo.response_formats", no_function)
