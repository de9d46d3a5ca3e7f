"""The agent's text side: what it is shown, what it remembers, how its answers are read."""

from stapo.agent.bounds import cut_commands, cut_text
from stapo.agent.config import AgentConfig
from stapo.agent.memory import Memory, Turn
from stapo.agent.pages import in_page_order
from stapo.agent.parsing import ParsedResponse, parse_response, part_spans
from stapo.agent.prompt import RESPONSE_BEGINS, Prompt
from stapo.agent.prompts import BlindMask, PromptFields, render_prompt

__all__ = [
    "RESPONSE_BEGINS",
    "AgentConfig",
    "BlindMask",
    "Memory",
    "ParsedResponse",
    "Prompt",
    "PromptFields",
    "Turn",
    "cut_commands",
    "cut_text",
    "in_page_order",
    "parse_response",
    "part_spans",
    "render_prompt",
]
