"""The rooms of each scene size: what furniture stands in them and which objects live there.

`Furniture` gives, for every receptacle type, the fewest and the most that a room has; a family (see
`layouts`) is one way to fill in these numbers. To add a room, add an entry to the dictionary of a
size: nothing else needs to change, since the goals that a room offers follow from its furniture and
its objects.
"""

from __future__ import annotations

from dataclasses import dataclass

Furniture = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Room:
    """A kind of room.

    Attributes:
        furniture: fewest and most receptacles of each type.
        objects: names of the object kinds that live here.
    """

    furniture: Furniture
    objects: tuple[str, ...]


def _room(objects: str, **furniture: int | tuple[int, int]) -> Room:
    counts = {name: (n, n) if isinstance(n, int) else n for name, n in furniture.items()}
    return Room(counts, tuple(objects.split()))


# fmt: off
TINY: dict[str, Room] = {
    "kitchen": _room(
        "Apple Egg Mug Bowl Cloth",
        CounterTop=(1, 2), Fridge=1, Microwave=1, SinkBasin=1, Cabinet=(0, 3), Shelf=(0, 2),
        Drawer=(0, 2), SideTable=(0, 1),
    ),
    "bathroom": _room(
        "Cloth Candle Mug Bowl",
        SinkBasin=1, CounterTop=(0, 2), Cabinet=(0, 3), Shelf=(0, 3), Drawer=(0, 3),
        SideTable=(0, 1),
    ),
    "study": _room(
        "Book Pen KeyChain Mug Candle DeskLamp FloorLamp",
        Desk=(1, 2), Shelf=(0, 3), Drawer=(0, 3), Cabinet=(0, 3), SideTable=(0, 1), Safe=(0, 1),
    ),
    "bedroom": _room(
        "Book KeyChain Candle Pen Cloth DeskLamp FloorLamp",
        Bed=1, SideTable=(1, 2), Drawer=(0, 3), Shelf=(0, 2), Cabinet=(0, 2), Desk=(0, 1),
        Safe=(0, 1),
    ),
}

SMALL: dict[str, Room] = {
    "kitchen": _room(
        "Apple Potato Tomato Egg Mug Plate Bowl Spoon Cloth SoapBottle",
        CounterTop=(1, 2), Cabinet=(1, 3), Drawer=(0, 2), Fridge=1, Microwave=1, SinkBasin=1,
        SideTable=(0, 1), Shelf=(0, 1), GarbageCan=(0, 1),
    ),
    "bathroom": _room(
        "SoapBar SoapBottle Cloth Candle Mug Book",
        SinkBasin=1, Toilet=1, CounterTop=(1, 2), Cabinet=(1, 3), Drawer=(0, 3), Shelf=(0, 2),
        GarbageCan=(0, 1),
    ),
    "bedroom": _room(
        "Book CellPhone KeyChain AlarmClock CD Pen Cloth Candle DeskLamp FloorLamp",
        Bed=1, SideTable=(1, 2), Desk=(0, 1), Drawer=(1, 3), Shelf=(0, 2), Cabinet=(0, 2),
        Safe=(0, 1), GarbageCan=(0, 1),
    ),
    "study": _room(
        "Book Pen CD CellPhone KeyChain AlarmClock Mug DeskLamp FloorLamp",
        Desk=(1, 2), SideTable=(0, 1), Shelf=(1, 3), Drawer=(1, 3), Cabinet=(0, 2), Safe=(0, 1),
        GarbageCan=(0, 1),
    ),
    "studio": _room(
        "Apple Egg Mug Plate Bowl Cloth Book CellPhone KeyChain AlarmClock Pen DeskLamp "
        "FloorLamp",
        Bed=1, Desk=1, CounterTop=1, Fridge=1, Microwave=1, SinkBasin=1, SideTable=(0, 1),
        Cabinet=(0, 2), Drawer=(0, 2), Shelf=(0, 2), GarbageCan=(0, 1),
    ),
}

SEARCH: dict[str, Room] = {
    "pantry": _room(
        "Apple Egg Mug Bowl Cloth Spoon",
        CounterTop=1, Fridge=1, Microwave=1, SinkBasin=1, Cabinet=(3, 5), Drawer=(3, 5),
        SideTable=(0, 1), Shelf=(0, 1), GarbageCan=(0, 1),
    ),
    "archive": _room(
        "Book Pen CD KeyChain Candle DeskLamp FloorLamp",
        Desk=1, Cabinet=(3, 5), Drawer=(4, 5), Safe=(0, 1), Shelf=(0, 2), SideTable=(0, 1),
    ),
    "laundry": _room(
        "Cloth Bowl Mug Book KeyChain Candle DeskLamp FloorLamp",
        SinkBasin=1, SideTable=1, CounterTop=(0, 1), Cabinet=(4, 5), Drawer=(3, 5), Shelf=(0, 2),
        GarbageCan=(0, 1),
    ),
    "studio": _room(
        "Apple Mug Bowl Cloth Book KeyChain CD DeskLamp",
        Desk=1, CounterTop=(0, 1), Fridge=1, Microwave=1, SinkBasin=1, Cabinet=(3, 5),
        Drawer=(3, 5), Shelf=(0, 1), Safe=(0, 1),
    ),
}

_COOKING = (
    "Apple Potato Tomato Egg Lettuce Bread WineBottle Mug Cup Plate Bowl Pot Pan Kettle Spoon "
    "Fork Knife ButterKnife Spatula Ladle SaltShaker PepperShaker DishSponge SoapBottle "
    "HousePlant"
)
_LEISURE = (
    "Book Pen Pencil CD CellPhone KeyChain CreditCard Watch Laptop RemoteControl Newspaper "
    "Pillow TissueBox Box Vase Statue DeskLamp FloorLamp HousePlant Television"
)

STANDARD: dict[str, Room] = {
    "kitchen": _room(
        _COOKING,
        CounterTop=(2, 3), Cabinet=(4, 8), Drawer=(2, 5), Fridge=1, Microwave=1, SinkBasin=1,
        StoveBurner=(2, 4), CoffeeMachine=(0, 1), Toaster=(0, 1), DiningTable=(0, 1),
        SideTable=(0, 1), Shelf=(0, 3), GarbageCan=1,
    ),
    "bathroom": _room(
        "SoapBar SoapBottle SprayBottle Cloth Candle ToiletPaper Towel HandTowel DishSponge "
        "TissueBox",
        SinkBasin=(1, 2), Toilet=1, BathtubBasin=(0, 1), CounterTop=(1, 2), Cabinet=(3, 6),
        Drawer=(2, 5), Shelf=(1, 3), Cart=(0, 1), TowelHolder=(1, 2), HandTowelHolder=(1, 2),
        ToiletPaperHanger=1, LaundryHamper=(0, 1), GarbageCan=1,
    ),
    "bedroom": _room(
        "AlarmClock Book Pen Pencil CD CellPhone KeyChain CreditCard Watch Laptop Pillow "
        "TissueBox Box Vase Mug Bowl Cloth Candle DeskLamp HousePlant Television",
        Bed=(1, 2), Desk=(1, 2), SideTable=(1, 3), Drawer=(4, 8), Shelf=(2, 5), Dresser=(1, 2),
        ArmChair=(0, 1), LaundryHamper=(0, 1), Safe=(0, 1), Cabinet=(0, 3), GarbageCan=1,
    ),
    "livingroom": _room(
        _LEISURE,
        Sofa=(1, 2), ArmChair=(1, 2), CoffeeTable=(1, 2), SideTable=(1, 3), TVStand=(0, 1),
        DiningTable=(0, 1), Shelf=(2, 5), Drawer=(2, 6), Cabinet=(0, 4), Ottoman=(0, 1),
        Desk=(0, 1), Safe=(0, 1), GarbageCan=1,
    ),
    "study": _room(
        "Book Pen Pencil CD CellPhone KeyChain CreditCard Watch Laptop Newspaper TissueBox "
        "Box Vase Statue Mug AlarmClock DeskLamp FloorLamp HousePlant",
        Desk=(2, 3), Shelf=(3, 6), Drawer=(4, 8), Cabinet=(2, 4), Safe=1, ArmChair=(0, 1),
        SideTable=(1, 2), Dresser=(0, 1), GarbageCan=1,
    ),
    "loft": _room(
        "Apple Tomato Egg Bread Mug Cup Plate Bowl Pot Pan Spoon Fork Knife Cloth SoapBottle "
        "Book Pen CellPhone KeyChain Laptop RemoteControl Pillow Vase AlarmClock DeskLamp "
        "FloorLamp HousePlant",
        CounterTop=(1, 2), Cabinet=(3, 6), Drawer=(2, 5), Fridge=1, Microwave=1, SinkBasin=1,
        StoveBurner=2, DiningTable=1, Bed=1, Desk=(0, 1), Sofa=1, CoffeeTable=1,
        SideTable=(1, 2), Shelf=(0, 2), GarbageCan=1,
    ),
}
# fmt: on
