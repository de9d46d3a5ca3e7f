"""Which steps of a shopping trip were bad, by what the shop knows: its pages, and the shortest plan to what is meant.

The judge knows which product is meant, the player has to compare. Looking at a wrong product is therefore no mistake of
its own; looking at it again is, and so is buying it.
"""

from __future__ import annotations

from stapo.envs.protocol import StepResult
from stapo.envs.webshop.expert import best_plan
from stapo.envs.webshop.shop import Visit


class ShopJudge:
    """Judges one episode; see `stapo.envs.protocol.Judge`.

    Args:
        visit: the episode just begun; never acted on here.
    """

    faults = {  # noqa: RUF012
        "invalid": "the page does not offer it",
        "repeated": "without effect, and given before in the same state",
        "revisit": "the same search again, or a product opened before, without coming nearer to the purchase",
        "detour": "the shortest plan to the purchase is longer than before the step",
        "wrong": "a purchase that is not all that was asked for",
    }

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self._tried: set[tuple[object, str]] = set()
        self._seen: set[object] = set()
        self._command = ""
        self._state: object = ()
        self._left: int | None = None
        self._product: int | None = None

    def before(self, action: str) -> None:
        """Note an action that is about to be taken, and how far the purchase is."""
        visit = self.visit
        self._command, self._state, self._product = action.strip().lower(), visit.key, visit.product
        self._left = self._remaining()

    def after(self, result: StepResult) -> frozenset[str]:
        """Return the faults of the action that was just taken."""
        if self.visit.score is not None:
            return frozenset() if result.won else frozenset({"wrong"})
        found, tried, left = set(), (self._state, self._command), self._remaining()
        effect = bool(result.info["effect"])
        if not effect:
            found.add("invalid")
            if tried in self._tried:
                found.add("repeated")
        self._tried.add(tried)
        if self._left is not None and (left is None or left > self._left):
            found.add("detour")
        nearer = left is not None and (self._left is None or left < self._left)
        arrived = self._arrived() if effect else None
        if arrived in self._seen and not nearer:
            found.add("revisit")
        if arrived is not None:
            self._seen.add(arrived)
        return frozenset(found)

    def _remaining(self) -> int | None:
        plan = best_plan(self.visit)
        return None if plan is None else len(plan)

    def _arrived(self) -> object:
        """What a search or a link has led to; None for every other action."""
        if self._command.startswith("search["):
            return self._command
        product = self.visit.product
        return None if product is None or product == self._product else product
