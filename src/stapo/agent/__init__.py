"""The agent's text side: what it is shown, what it remembers, how its answers are read."""

from stapo.agent.config import AgentConfig
from stapo.agent.memory import Memory, Turn
from stapo.agent.pages import in_page_order
from stapo.agent.parsing import ParsedResponse, parse_response, part_spans
from stapo.agent.prompts import BlindMask, PromptFields, render_prompt
from stapo.agent.search_prompts import RESPONSE_BEGINS

__all__ = [
    "RESPONSE_BEGINS",
    "AgentConfig",
    "BlindMask",
    "Memory",
    "ParsedResponse",
    "PromptFields",
    "Turn",
    "in_page_order",
    "parse_response",
    "part_spans",
    "render_prompt",
]
