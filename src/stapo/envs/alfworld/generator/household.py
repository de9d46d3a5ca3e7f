"""What there is in a household: what holds for receptacles, and the object kinds of household.yaml.

The names are the generic household words of the ALFWorld dialect (goal formulas name them as
``<Name>Type``); which ones exist here, what can be done with them and where they belong is this
project's own design. To add a kind, add a row to household.yaml and name it in a room of sizes.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass

from stapo.documents import package_data

# Receptacles with a door, lid or front; all of them start closed.
OPENABLE = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})

# How the dialect writes the id of a basin: the fixture first, the basin as a suffix.
BASIN_OF = {"SinkBasin": "Sink", "BathtubBasin": "Bathtub"}

# The appliance that makes an object clean, hot or cool.
APPLIANCE = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object.

    Attributes:
        name: the dialect's name without ``Type``.
        can: what can be done with it: take, clean, heat, cool, slice, toggle, hold (it is a
            container itself).
        usual: receptacle types it is normally found at.
        other: further receptacle types it may stand at or be put at.
    """

    name: str
    can: frozenset[str]
    usual: tuple[str, ...]
    other: tuple[str, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """Every receptacle type that can contain it."""
        return self.usual + self.other


def _kind(name: str, can: str = "", usual: str = "", other: str = "") -> ObjectKind:
    return ObjectKind(name, frozenset(can.split()), tuple(usual.split()), tuple(other.split()))


KINDS = {name: _kind(name, **row) for name, row in package_data(__package__, "household.yaml").items()}
