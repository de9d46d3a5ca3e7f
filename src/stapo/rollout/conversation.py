"""A conversation as token ids that only ever grow: past pieces are never tokenized again.

A response stands in later prompts as the ids that were sampled. What the chat template puts around it, and what the
world showed, are encoded piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stapo.agent import Prompt
from stapo.rollout.templates import TemplateParts


@dataclass(frozen=True)
class Frame:
    """What stands between the messages of a conversation; control tokens in it are meant.

    Attributes:
        before_system: before the first message; None where there is no place for one of its own, and the first user's
            message begins with it.
        system_to_user: between the first message and the first user's message.
        before_user: before the first user's message, where there is no message before it.
        to_response: between a user's message and the response.
        to_user: between a response and the next user's message, from the token on that ends a response.
    """

    before_system: str | None
    system_to_user: str
    before_user: str
    to_response: str
    to_user: str


def plain_frame(end: str) -> Frame:
    """The frame of models without a chat template: lines, a mark before each response, and `end` behind it."""
    return Frame("", "\n", "", "\n>", f"{end}\n")


def frame_of(parts: TemplateParts) -> Frame:
    """The frame of a chat template."""
    return Frame(parts.before_system, parts.system_to_user, parts.before_user, parts.to_response, parts.to_user)


def conversation_ids(
    prompt: Prompt, frame: Frame, piece: Callable[[str], Sequence[int]], response: Callable[[str], Sequence[int]]
) -> list[int]:
    """The ids of a conversation whose next part is a response, or what one has begun with.

    Args:
        prompt: with the foreign texts in it marked.
        frame: what stands between its messages.
        piece: ids of a text of the frame, or of a message.
        response: ids of a response that was not sampled, its end included.
    """
    texts = [*(turn.text for turn in prompt.turns), prompt.text]
    if frame.before_system is None:
        ids = list(piece(frame.before_user))
        texts[0] = f"{prompt.system}\n\n{texts[0]}" if prompt.system else texts[0]
    elif prompt.system:
        ids = [*piece(frame.before_system), *piece(prompt.system), *piece(frame.system_to_user)]
    else:
        ids = list(piece(frame.before_user))
    after = piece(frame.to_user)
    for turn, text in zip(prompt.turns, texts, strict=False):
        said = response(turn.said) if turn.ids is None else turn.ids
        ids += [*piece(text), *piece(frame.to_response), *said]
        ids += after[1:] if said and after and said[-1] == after[0] else after
    return [*ids, *piece(texts[-1]), *piece(frame.to_response)]
