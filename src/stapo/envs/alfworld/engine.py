"""The rules: which commands a state offers, what each one does and what is said about it.

The semantics are those of the ALFWorld domain as TextWorld plays it, including its peculiarities:
doors do not matter to treatments, an object may lie in two receptacles at once, only a held object
can be examined, and ``use`` always turns on.
"""

from __future__ import annotations

from hashlib import blake2b

from stapo.envs.alfworld.text import (
    HELP,
    NOTHING_HAPPENS,
    ROOM,
    TASK,
    WELCOME,
    Grammar,
    facing,
    listing,
)
from stapo.envs.alfworld.world import NOWHERE, TOOLS, CompiledGame

_COPIED = ("loc", "held", "opened", "clean", "hot", "cool", "toggled", "sliced")
"""What of a state is a number; `Start` has the same."""


class State:
    """One mutable position in a game; `fork` copies it in microseconds.

    Attributes:
        game: the compiled game, shared between states.
        grammar: the wording in use.
        loc: location of the agent.
        held: object in hand, or NOWHERE.
        opened: mask of open receptacles.
        clean: mask of clean objects; `hot`, `cool`, `toggled` and `sliced` likewise.
        contents: objects in each receptacle, ascending.
        spots: per object, the mask of locations it is noted at. Slicing goes by these, not by
            receptacles.
        removed: (object, receptacle) pairs taken apart and not rejoined; ``look`` lists by these.
    """

    __slots__ = (*_COPIED, "contents", "game", "grammar", "removed", "spots")

    loc: int
    held: int
    opened: int
    clean: int
    hot: int
    cool: int
    toggled: int
    sliced: int

    def __init__(self, game: CompiledGame, grammar: Grammar) -> None:
        self.game = game
        self.grammar = grammar
        for name in _COPIED:
            setattr(self, name, getattr(game.start, name))
        self.contents = list(game.start.contents)
        self.spots = list(game.start.spots)
        self.removed: frozenset[tuple[int, int]] = frozenset()

    def fork(self) -> State:
        """An independent copy that shares the game."""
        twin = State.__new__(State)
        for name in (*_COPIED, "game", "grammar", "removed"):
            setattr(twin, name, getattr(self, name))
        twin.contents = self.contents.copy()
        twin.spots = self.spots.copy()
        return twin

    def facts(self) -> tuple[object, ...]:
        """Everything that can change, as one comparable and hashable value."""
        numbers = (getattr(self, name) for name in _COPIED)
        return (*numbers, tuple(self.contents), tuple(self.spots), tuple(sorted(self.removed)))

    def key(self) -> str:
        """A digest of `facts`, the same in every process; worlds may share one."""
        return blake2b(repr(self.facts()).encode(), digest_size=16).hexdigest()

    # -- what is offered -------------------------------------------------------------------------

    def accessible(self, receptacle: int) -> bool:
        """Whether things can be put in and taken out: no door, or an open one."""
        bit = 1 << receptacle
        return bool(self.opened & bit) or not self.game.openable & bit

    def admissible(self) -> list[str]:
        """The sorted commands that do something now."""
        game, held = self.game, self.held
        names, objects, contents = game.receptacles, game.objects, self.contents
        commands = ["inventory", "look"]
        if self.grammar.has_help:
            commands.append("help")
        add = commands.append
        for r in game.loc_recs[self.loc]:
            name, bit = names[r], 1 << r
            add("examine " + name)
            opened = self.opened & bit
            if game.openable & bit:
                add(("close " if opened else "open ") + name)
            if opened or not game.openable & bit:
                if held == NOWHERE:
                    for o in contents[r]:
                        if game.pickupable >> o & 1:
                            add(f"take {objects[o]} from {name}")
                elif game.accepts[held] & bit:
                    add(self.grammar.put_command(objects[held], name))
            if game.toggleable:
                for o in contents[r]:
                    if game.toggleable >> o & 1:
                        add("use " + objects[o])
            if held != NOWHERE:
                for verb, tools in game.tools.items():
                    if tools & bit and game.treatable[verb] >> held & 1:
                        add(f"{verb} {objects[held]} with {name}")
        if held != NOWHERE:
            add("examine " + objects[held])
            if game.knives >> held & 1:
                spots, here = self.spots, 1 << self.loc
                for o in range(len(objects)):
                    if spots[o] & here and game.sliceable >> o & 1:
                        add(f"slice {objects[o]} with {objects[held]}")
        commands.extend(game.go_to[self.loc])
        commands.sort()
        # A lamp standing in two receptacles at this location is offered once.
        return list(dict.fromkeys(commands)) if game.toggleable else commands

    # -- what is said ----------------------------------------------------------------------------

    def intro(self, goal: str) -> str:
        """The first observation of an episode, with the task sentence."""
        return f"{self.blind_intro()}\n\n{TASK}{goal}"

    def blind_intro(self) -> str:
        """The first observation without the task."""
        game = self.game
        if game.loc_recs[self.loc]:
            return f"{WELCOME}\n\n{self.look()}"
        present = [n for n, at in zip(game.receptacles, game.rec_loc, strict=True) if at != NOWHERE]
        return f"{WELCOME}\n\n{ROOM.format(listing(present))}"

    def look(self) -> str:
        """Answer to ``look``."""
        game = self.game
        here = game.loc_recs[self.loc]
        if not here:
            return ROOM.format(listing(()))
        bit = 1 << self.loc
        near = [game.objects[o] for o, r in sorted(self.removed) if r in here and self.spots[o] & bit]
        return f"You are facing the {facing([game.receptacles[r] for r in here])}. Next to it, you see {listing(near)}."

    def content(self, receptacle: int) -> str:
        """What is seen in or on a receptacle."""
        game = self.game
        name, bit = game.receptacles[receptacle], 1 << receptacle
        if game.openable & bit and not self.opened & bit:
            return f"The {name} is closed."
        seen = listing([game.objects[o] for o in self.contents[receptacle]])
        if game.openable & bit:
            return f"The {name} is open. In it, you see {seen}."
        return f"On the {name}, you see {seen}."

    def description(self, obj: int) -> str:
        """Answer to ``examine`` of an object."""
        name, bit = self.game.objects[obj], 1 << obj
        inside = self.game.inside[obj]
        if inside is not None:
            return f"This is a normal {name}. In it, you see {listing(inside)}."
        clean, sliced = self.clean & bit, self.sliced & bit
        heat = "hot" if self.hot & bit else "cool" if self.cool & bit else ""
        if sliced and (heat or clean):
            marks = " and ".join(mark for mark in (heat, "clean" if clean else "") if mark)
            return f"This is a {marks} sliced {name}."
        if clean:
            return f"This is a {heat + ' and ' if heat else ''}clean {name}."
        if heat:
            return f"This is a {'cold' if heat == 'cool' else heat} {name}."
        if self.toggled & bit:
            return f"This {name} is on."
        if sliced:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."

    # -- what happens ----------------------------------------------------------------------------

    def step(self, command: str) -> tuple[str, bool]:
        """Carry out a command; anything that is not admissible changes nothing.

        Returns:
            The observation, and whether the state changed.
        """
        verb, _, rest = command.strip().partition(" ")
        handler = _HANDLERS.get(verb)
        answer = handler(self, rest) if handler is not None else None
        if answer is None and verb in TOOLS:
            answer = self._treat(verb, rest)
        elif answer is None and verb == self.grammar.verb:
            answer = self._put(rest)
        return answer if answer is not None else (NOTHING_HAPPENS, False)

    def _here(self, name: str) -> int:
        """The receptacle of this name if it is at the agent's location, else NOWHERE."""
        r = self.game.receptacle_index.get(name, NOWHERE)
        return r if r != NOWHERE and self.game.rec_loc[r] == self.loc else NOWHERE

    def _look(self, rest: str) -> tuple[str, bool] | None:
        return None if rest else (self.look(), False)

    def _inventory(self, rest: str) -> tuple[str, bool] | None:
        if rest:
            return None
        if self.held == NOWHERE:
            return "You are not carrying anything.", False
        return f"You are carrying: a {self.game.objects[self.held]}.", False

    def _help(self, rest: str) -> tuple[str, bool] | None:
        return (HELP, False) if self.grammar.has_help and not rest else None

    def _go(self, rest: str) -> tuple[str, bool] | None:
        if not rest.startswith("to "):
            return None
        r = self.game.receptacle_index.get(rest[3:], NOWHERE)
        if r == NOWHERE or self.game.rec_loc[r] in (NOWHERE, self.loc):
            return None
        self.loc = self.game.rec_loc[r]
        return self.grammar.arrival(self.game, r) + self.content(r), True

    def _open(self, rest: str) -> tuple[str, bool] | None:
        r = self._here(rest)
        if r == NOWHERE or self.accessible(r):
            return None
        self.opened |= 1 << r
        return f"You open the {rest}. {self.content(r)}", True

    def _close(self, rest: str) -> tuple[str, bool] | None:
        r = self._here(rest)
        if r == NOWHERE or not self.game.openable & self.opened & 1 << r:
            return None
        self.opened &= ~(1 << r)
        return f"You close the {rest}.", True

    def _examine(self, rest: str) -> tuple[str, bool] | None:
        r = self._here(rest)
        if r != NOWHERE:
            return self.content(r), False
        if self.held != NOWHERE and rest == self.game.objects[self.held]:
            return self.description(self.held), False
        return None

    def _take(self, rest: str) -> tuple[str, bool] | None:
        thing, _, source = rest.partition(" from ")
        r, o = self._here(source), self.game.object_index.get(thing, NOWHERE)
        if r == NOWHERE or o == NOWHERE or self.held != NOWHERE or not self.accessible(r):
            return None
        if o not in self.contents[r] or not self.game.pickupable >> o & 1:
            return None
        self.contents[r] = tuple(i for i in self.contents[r] if i != o)
        self.removed |= {(o, r)}
        self.spots[o] &= ~(1 << self.loc)
        self.held = o
        return f"You pick up the {thing} from the {source}.", True

    def _put(self, rest: str) -> tuple[str, bool] | None:
        thing, _, target = rest.partition(self.grammar.joint)
        r, o = self._here(target), self.held
        if r == NOWHERE or o == NOWHERE or thing != self.game.objects[o]:
            return None
        if not self.accessible(r) or not self.game.accepts[o] >> r & 1:
            return None
        self.contents[r] = tuple(sorted({*self.contents[r], o}))
        self.removed -= {(o, r)}
        self.spots[o] |= 1 << self.loc
        self.held = NOWHERE
        return self.grammar.put_feedback(thing, target), True

    def _treat(self, verb: str, rest: str) -> tuple[str, bool] | None:
        thing, _, tool = rest.partition(" with ")
        r, o = self._here(tool), self.held
        if r == NOWHERE or o == NOWHERE or thing != self.game.objects[o]:
            return None
        if not self.game.tools[verb] >> r & 1 or not self.game.treatable[verb] >> o & 1:
            return None
        bit = 1 << o
        before = (self.clean, self.hot, self.cool)
        if verb == "clean":
            self.clean |= bit
        elif verb == "heat":
            self.hot, self.cool = self.hot | bit, self.cool & ~bit
        else:
            self.hot, self.cool = self.hot & ~bit, self.cool | bit
        said = f"You {verb} the {thing} using the {tool}."
        return said, before != (self.clean, self.hot, self.cool)

    def _use(self, rest: str) -> tuple[str, bool] | None:
        o = self.game.object_index.get(rest, NOWHERE)
        if o == NOWHERE or not self.game.toggleable >> o & 1:
            return None
        if not any(o in self.contents[r] for r in self.game.loc_recs[self.loc]):
            return None
        before = self.toggled
        self.toggled |= 1 << o
        return f"You turn on the {rest}.", before != self.toggled

    def _slice(self, rest: str) -> tuple[str, bool] | None:
        thing, _, knife = rest.partition(" with ")
        game, o, k = self.game, self.game.object_index.get(thing, NOWHERE), self.held
        if o == NOWHERE or k == NOWHERE or knife != game.objects[k]:
            return None
        if not game.knives >> k & 1 or not game.sliceable >> o & 1 or not self.spots[o] >> self.loc & 1:
            return None
        before = self.sliced
        self.sliced |= 1 << o
        return f"You sliced the {thing} with the {knife}.", before != self.sliced


_HANDLERS = {
    "look": State._look,
    "inventory": State._inventory,
    "help": State._help,
    "go": State._go,
    "open": State._open,
    "close": State._close,
    "examine": State._examine,
    "take": State._take,
    "use": State._use,
    "slice": State._slice,
}
