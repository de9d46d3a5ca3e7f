"""Which token may come next in a response that has to be one of several commands: a trie of their tokens.

A command is a path of token ids that ends with the end token. A command with a text of the agent's own in it
(`Template`) is the path to that text, then tokens of `FreeTokens`, then a closing path: its first token ends the text,
and no token of the text may be it. Where several commands begin alike, the tokens of all of them are allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stapo.policy.sequences import Allowed, FreeTokens

LONGEST_TEXT = 500
"""Characters after which a text of the agent's own has to end."""


@dataclass(frozen=True, slots=True)
class Template:
    """A command with a text of the agent's own in it.

    Attributes:
        before: ids in front of the text.
        first: tokens that the text may begin with; all of them have a text.
        later: tokens that may follow, those of `first` among them.
        after: ids behind it, the end token last.
    """

    before: tuple[int, ...]
    first: FreeTokens
    later: FreeTokens
    after: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the shortest response that fills it in."""
        return len(self.before) + 1 + len(self.after)


@dataclass(slots=True)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    texts: list[Template] = field(default_factory=list)
    allowed: Allowed | None = None


@dataclass(slots=True)
class _Text:
    """A template that is being filled in: characters written, and tokens taken of what closes it."""

    template: Template
    written: int = 0
    closing: int = 0

    def may_go_on(self, left: int) -> FreeTokens | None:
        """Tokens that the text may take, None where it has to end; `left` tokens are left of the response."""
        template = self.template
        if self.closing or left <= len(template.after) or self.written >= LONGEST_TEXT:
            return None
        return template.later if self.written else template.first

    def closes_with(self) -> int | None:
        """The token of the closing path that may come next, None where the text has not begun."""
        return self.template.after[self.closing] if self.written else None


class Grammar:
    """The responses that give one of several commands.

    Args:
        paths: ids of each command, the end token last; doubles make no difference.
        templates: commands with a text of the agent's own.
        limit: tokens of a response at most; no path and no template is longer.

    Raises:
        ValueError: there is nothing to say, or something longer than `limit`.
    """

    def __init__(self, paths: Iterable[Sequence[int]], templates: Iterable[Template] = (), *, limit: int) -> None:
        self.limit = limit
        self.root = _Node()
        for path in paths:
            self._grow(path, len(path))
        for template in templates:
            self._grow(template.before, template.length).texts.append(template)
        if not (self.root.children or self.root.texts):
            raise ValueError("no commands; expected at least one.")

    def _grow(self, path: Sequence[int], length: int) -> _Node:
        if length > self.limit:
            raise ValueError(f"a command of {length} tokens; expected at most {self.limit}.")
        node = self.root
        for token in path:
            node = node.children.setdefault(token, _Node())
        return node

    def walk(self) -> Walk:
        """A response that has not begun."""
        return Walk(self)

    def along(self, ids: Sequence[int]) -> list[Allowed]:
        """What each position of a response might have been.

        Raises:
            ValueError: the response has a token that was not allowed.
        """
        walk, allowed = self.walk(), []
        for token in ids:
            allowed.append(walk.allowed)
            walk.take(token)
        return allowed


class Walk:
    """A response in the making.

    Args:
        grammar: what it has to follow.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._left = grammar.limit
        self._node = grammar.root
        self._texts = [_Text(template) for template in grammar.root.texts]

    @property
    def allowed(self) -> Allowed:
        """What may come next; nothing where the response is complete."""
        if not self._texts:
            if self._node.allowed is None:
                self._node.allowed = Allowed(tuple(sorted(self._node.children)))
            return self._node.allowed
        ids, free = set(self._node.children), None
        for text in self._texts:
            closing, open_to = text.closes_with(), text.may_go_on(self._left)
            ids |= set() if closing is None else {closing}
            if open_to is not None and (free is None or text.written):
                free = open_to
        return Allowed(tuple(sorted(ids)), free)

    @property
    def complete(self) -> bool:
        """Whether nothing may come any more."""
        return not (self._texts or self._node.children)

    def take(self, token: int) -> None:
        """Take the next token.

        Raises:
            ValueError: it is not allowed.
        """
        if not self.allowed.has(token):
            raise ValueError(f"token {token} is not allowed; expected one of {self.allowed.ids[:8]}.")
        going_on: list[_Text] = []
        for text in self._texts:
            free = text.may_go_on(self._left)
            if token == text.closes_with():
                text.closing += 1
                going_on += [text] if text.closing < len(text.template.after) else []
            elif free is not None and token in free.characters:
                text.written += free.characters[token]
                going_on.append(text)
        self._left -= 1
        self._node = self._node.children.get(token, _Node())
        self._texts = going_on + [_Text(template) for template in self._node.texts]
