"""A prompt: what the agent is told, and what its own response has begun with."""

from __future__ import annotations

from dataclasses import dataclass

RESPONSE_BEGINS = "\x1f"
"""Where a prompt is shown as one text, stands before what the response has begun with. Nothing reads it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is given at one step.

    Attributes:
        text: the user's message.
        begun: what the agent wrote, and was shown, in earlier turns: the beginning of its response. A chat template
            puts it into the agent's own message; without a template it follows the text.
    """

    text: str
    begun: str = ""

    @property
    def shown(self) -> str:
        """Both as one text, for people and logs."""
        text, begun = (part.replace(RESPONSE_BEGINS, " ") for part in (self.text, self.begun))
        return f"{text}{RESPONSE_BEGINS}{begun}" if begun else text
