"""What there is in a household: the table of receptacles and the table of object kinds.

The names are the generic household words of the ALFWorld dialect (goal formulas name them as
``<Name>Type``); which ones exist here, what can be done with them and where they belong is this
project's own design. To add a kind, add a row here and name it in a room of `rooms`.
"""

from __future__ import annotations

from dataclasses import dataclass

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


KINDS: dict[str, ObjectKind] = {}


def _kind(name: str, can: str, usual: str, other: str = "", *, take: bool = True) -> None:
    abilities = frozenset(can.split()) | (frozenset({"take"}) if take else frozenset())
    KINDS[name] = ObjectKind(name, abilities, tuple(usual.split()), tuple(other.split()))


# fmt: off
# Food
_kind("Apple", "clean heat cool slice", "Fridge CounterTop DiningTable",
      "SideTable SinkBasin Microwave GarbageCan Desk")
_kind("Potato", "clean heat cool slice", "Fridge CounterTop",
      "DiningTable SideTable SinkBasin Microwave GarbageCan")
_kind("Tomato", "clean heat cool slice", "Fridge CounterTop DiningTable",
      "SideTable SinkBasin Microwave GarbageCan")
_kind("Egg", "clean heat cool slice", "Fridge CounterTop",
      "DiningTable SideTable SinkBasin Microwave GarbageCan")
_kind("Lettuce", "clean cool slice", "Fridge CounterTop", "DiningTable SinkBasin GarbageCan")
_kind("Bread", "heat cool slice", "CounterTop DiningTable",
      "Fridge Cabinet SideTable Microwave GarbageCan")
_kind("WineBottle", "cool", "Cabinet CounterTop", "Fridge DiningTable Shelf SideTable GarbageCan")

# Crockery and cookware
_kind("Mug", "clean heat cool hold", "CounterTop Cabinet CoffeeMachine",
      "Desk SideTable Shelf SinkBasin Fridge Microwave DiningTable Dresser CoffeeTable")
_kind("Cup", "clean heat cool hold", "Cabinet CounterTop",
      "SideTable Shelf SinkBasin Fridge Microwave DiningTable CoffeeTable")
_kind("Plate", "clean heat cool hold", "Cabinet CounterTop DiningTable",
      "SideTable Shelf SinkBasin Fridge Microwave CoffeeTable")
_kind("Bowl", "clean cool hold", "Cabinet CounterTop DiningTable",
      "SideTable Shelf SinkBasin Fridge Desk CoffeeTable Dresser")
_kind("Pot", "clean cool hold", "StoveBurner Cabinet",
      "CounterTop Shelf SinkBasin Fridge DiningTable")
_kind("Pan", "clean cool hold", "StoveBurner CounterTop", "Cabinet SinkBasin Fridge DiningTable")
_kind("Kettle", "clean", "StoveBurner CounterTop", "Cabinet Shelf SinkBasin DiningTable")

# Cutlery and kitchen tools; Knife and ButterKnife cut whatever can be sliced
_kind("Spoon", "clean", "Drawer CounterTop", "SinkBasin DiningTable SideTable Cabinet")
_kind("Fork", "clean", "Drawer CounterTop DiningTable", "SinkBasin SideTable")
_kind("Knife", "clean", "Drawer CounterTop", "SinkBasin DiningTable")
_kind("ButterKnife", "clean", "Drawer DiningTable", "SinkBasin CounterTop")
_kind("Spatula", "clean", "Drawer CounterTop", "SinkBasin DiningTable")
_kind("Ladle", "clean", "Drawer Cabinet", "SinkBasin CounterTop DiningTable")
_kind("SaltShaker", "", "Cabinet DiningTable", "CounterTop Drawer Shelf SideTable")
_kind("PepperShaker", "", "Cabinet DiningTable", "CounterTop Drawer Shelf SideTable")
_kind("DishSponge", "clean", "SinkBasin CounterTop",
      "Cabinet Drawer Shelf BathtubBasin Cart GarbageCan")

# Bathroom
_kind("SoapBar", "clean", "SinkBasin BathtubBasin CounterTop",
      "Cabinet Drawer Shelf Toilet Cart GarbageCan")
_kind("SoapBottle", "", "CounterTop Cabinet Toilet", "Shelf Drawer SideTable Cart GarbageCan")
_kind("SprayBottle", "", "Cabinet Toilet", "CounterTop Shelf Drawer Cart SideTable GarbageCan")
_kind("Cloth", "clean", "Drawer Cabinet LaundryHamper",
      "CounterTop Shelf SinkBasin BathtubBasin SideTable Cart GarbageCan Desk")
_kind("Candle", "", "Shelf Toilet CounterTop", "Cabinet Drawer SideTable Cart CoffeeTable Dresser")
_kind("ToiletPaper", "", "ToiletPaperHanger Toilet Cabinet",
      "CounterTop Drawer Shelf Cart GarbageCan")
_kind("Towel", "", "TowelHolder", "BathtubBasin LaundryHamper Shelf")
_kind("HandTowel", "", "HandTowelHolder", "CounterTop SinkBasin Cabinet Shelf Cart LaundryHamper")

# Living, sleeping and working
_kind("AlarmClock", "", "SideTable Dresser", "Desk Shelf Bed")
_kind("Book", "", "Shelf Desk Bed", "Drawer Cabinet SideTable Sofa ArmChair CoffeeTable Dresser")
_kind("Pen", "", "Desk Drawer", "SideTable Shelf Dresser CoffeeTable GarbageCan CounterTop")
_kind("Pencil", "", "Desk Drawer", "SideTable Shelf Dresser CoffeeTable GarbageCan")
_kind("CD", "", "Desk Shelf Drawer", "Cabinet Safe SideTable Dresser TVStand GarbageCan")
_kind("CellPhone", "", "Bed Desk SideTable",
      "Drawer Safe Shelf Sofa ArmChair CoffeeTable Dresser Ottoman CounterTop")
_kind("KeyChain", "", "Drawer SideTable",
      "Desk Safe Shelf Sofa ArmChair CoffeeTable Dresser Ottoman CounterTop Cabinet")
_kind("CreditCard", "", "Drawer Desk",
      "Safe Shelf SideTable Sofa ArmChair CoffeeTable Dresser Ottoman")
_kind("Watch", "", "Drawer Dresser SideTable", "Desk Safe Shelf CoffeeTable TVStand")
_kind("Laptop", "", "Desk Bed", "Sofa ArmChair CoffeeTable SideTable Dresser Ottoman")
_kind("RemoteControl", "", "Sofa CoffeeTable TVStand",
      "ArmChair SideTable Drawer Shelf Dresser Ottoman")
_kind("Newspaper", "", "Sofa CoffeeTable", "ArmChair SideTable Shelf Drawer Ottoman GarbageCan")
_kind("Pillow", "", "Bed Sofa", "ArmChair Ottoman")
_kind("TissueBox", "", "SideTable CoffeeTable",
      "Shelf Desk Dresser Drawer Cabinet Toilet Cart TVStand GarbageCan")
_kind("Box", "hold", "Sofa DiningTable", "ArmChair Desk CoffeeTable Dresser Cabinet Ottoman")
_kind("Vase", "", "Shelf SideTable", "Desk CoffeeTable Dresser Cabinet Safe DiningTable TVStand")
_kind("Statue", "", "Shelf CoffeeTable", "Desk SideTable Dresser Safe DiningTable TVStand")

# Lamps, and scenery that is seen but never carried
_kind("DeskLamp", "toggle", "Desk SideTable", "Dresser Shelf", take=False)
_kind("FloorLamp", "toggle", "SideTable CoffeeTable", take=False)
_kind("HousePlant", "", "SideTable CounterTop",
      "Desk Shelf Dresser CoffeeTable DiningTable", take=False)
_kind("Television", "", "TVStand", "Dresser CoffeeTable", take=False)
# fmt: on
