"""The agent's text side: what it is shown, what it remembers, how its answers are read."""

from stapo.agent.config import AgentConfig
from stapo.agent.memory import Memory, Turn
from stapo.agent.pages import CommandShapes, cut_commands, cut_text, in_page_order
from stapo.agent.parsing import ParsedResponse, ResponseFormat, parse_response, part_spans, write_response
from stapo.agent.prompts import (
    RESPONSE_BEGINS,
    BlindMask,
    Exchange,
    Piece,
    Prompt,
    PromptFields,
    PromptStyle,
    added_text,
    list_commands,
    render_prompt,
)
from stapo.agent.registries import PROMPT_STYLES, RESPONSE_FORMATS

__all__ = [
    "PROMPT_STYLES",
    "RESPONSE_BEGINS",
    "RESPONSE_FORMATS",
    "AgentConfig",
    "BlindMask",
    "CommandShapes",
    "Exchange",
    "Memory",
    "ParsedResponse",
    "Piece",
    "Prompt",
    "PromptFields",
    "PromptStyle",
    "ResponseFormat",
    "Turn",
    "added_text",
    "cut_commands",
    "cut_text",
    "in_page_order",
    "list_commands",
    "parse_response",
    "part_spans",
    "render_prompt",
    "write_response",
]
