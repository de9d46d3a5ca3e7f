"""The wording of the two releases of ALFWorld that are in use.

`move` is what alfworld 0.4 and later says, `put` is what the games of the json_2.1.1 download say
on their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stapo.envs.alfworld.world import CompiledGame
from stapo.errors import ConfigError, did_you_mean

WELCOME = "-= Welcome to TextWorld, ALFRED! =-"
TASK = "Your task is to: "
NOTHING_HAPPENS = "Nothing happens."
ROOM = "You are in the middle of a room. Looking quickly around you, you see {}."

# The original misaligns the line of "move" by two columns.
HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What differs between the releases.

    Attributes:
        verb: first word of the command that puts an object down.
        joint: what stands between the object and the receptacle in that command.
        says_location: arriving names the location ("loc 15") instead of the receptacle.
        has_help: the ``help`` command exists and is always offered.
    """

    verb: str
    joint: str
    says_location: bool
    has_help: bool

    def put_command(self, obj: str, receptacle: str) -> str:
        """The command that puts `obj` down ("move mug 1 to desk 1")."""
        return f"{self.verb} {obj}{self.joint}{receptacle}"

    def put_feedback(self, obj: str, receptacle: str) -> str:
        """What the engine answers to it ("You move the mug 1 to the desk 1.")."""
        return f"You {self.verb} the {obj}{self.joint}the {receptacle}."

    def arrival(self, game: CompiledGame, receptacle: int) -> str:
        """The sentence on arriving at a receptacle."""
        where = game.locations[game.rec_loc[receptacle]] if self.says_location else game.receptacles[receptacle]
        return f"You arrive at {where}. "


GRAMMARS = {
    "move": Grammar("move", " to ", says_location=False, has_help=True),
    "put": Grammar("put", " in/on ", says_location=True, has_help=False),
}


def grammar_named(name: str) -> Grammar:
    """The grammar called `name`.

    Raises:
        ConfigError: neither "move" nor "put".
    """
    grammar = GRAMMARS.get(name) if isinstance(name, str) else None
    if grammar is None:
        raise ConfigError(
            f"grammar must be 'move' (alfworld >= 0.4) or 'put' (json_2.1.1), found {name!r}."
            f"{did_you_mean(str(name), GRAMMARS)}"
        )
    return grammar


def listing(names: Sequence[str]) -> str:
    """``a x 1, and a y 2``; ``nothing`` for an empty list."""
    if not names:
        return "nothing"
    if len(names) == 1:
        return "a " + names[0]
    return "a " + ", a ".join(names[:-1]) + ", and a " + names[-1]


def facing(names: Sequence[str]) -> str:
    """The receptacles at a location, without articles: ``drawer 3, and drawer 2``."""
    if len(names) == 1:
        return names[0]
    return ", ".join(names[:-1]) + ", and " + names[-1]
