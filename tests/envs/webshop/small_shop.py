"""A shop of a few products made by hand, as files of the original formats."""

from __future__ import annotations

import json

ODD = "B0ODD00001"
"""Its option values read like buttons, hold quotes and letters beyond ASCII, and occur twice."""


def product(asin, name, **fields):
    return {
        "asin": asin, "name": name, "full_description": "", "small_description": [], "pricing": "$10.00",
        "images": ["x"], "product_category": "Home › Lamps", "average_rating": "", "category": "garden",
        "query": "Lamps ", "customization_options": "", **fields,
    }  # fmt: skip


def values(*names):
    return [{"value": name, "image": None} for name in names]


PRODUCTS = [
    product(
        "B0LAMP0001", "Brass desk lamp", pricing="$19.99 to $29.99", full_description="A lamp of brass.",
        small_description=["dimmable ", ""],
        customization_options={"Size": values("Large", "small/flat"), "Color": values("Navy Blue", "red"), "Fit": None},
    ),
    product(
        ODD, "Odd lamp", pricing="",
        customization_options={
            "Shape": values("Reviews", "Buy Now", "Attributes", "search", "next >", '12" wide', "tür"),
            "color": values("plain", "plain", "shared"),
            "style": values("shared", "shape"),
        },
    ),
    product("B0LAMP0001", "A second product of the same id"),
    product("nan", "No id"),
    product("B0LAMP000123", "An id that is too long"),
    product("B0DEAR0001", "Chandelier of gold", pricing="$1,299.00", category="fashion", small_description="bullet"),
    product("B0LAMP0002", "Brass floor lamp", pricing="$15.50"),
    *[product(f"B0MORE{i:04d}", f"Paper shade number {i}") for i in range(25)],
]  # fmt: skip

ATTRIBUTES = {
    "B0LAMP0001": {
        "attributes": ["dimmable", "solid brass"],
        "instruction": "Find me dimmable lamps",
        "instruction_attributes": ["dimmable"],
    },
    ODD: {"attributes": ["odd"], "instruction": "Find me odd lamps", "instruction_attributes": ["odd"]},
    "B0DEAR0001": {"attributes": ["gold"], "instruction": "Find me chandeliers", "instruction_attributes": ["gold"]},
    "B0LAMP0002": {"attributes": []},
}

HUMAN = {
    "B0LAMP0001": [
        {"instruction": "i want a brass lamp.", "instruction_attributes": ["solid brass"],
         "instruction_options": ["navy blue"], "attributes": [], "options": []},
        {"instruction": "anything.", "instruction_attributes": [], "instruction_options": []},
        {"instruction": "a dimmable one", "instruction_attributes": ["dimmable"], "instruction_options": []},
    ]
}  # fmt: skip


def write(folder, products=PRODUCTS, attributes=ATTRIBUTES, human=HUMAN):
    """Write the three files; returns the path of the products."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "items_shuffle_small.json"
    path.write_text(json.dumps(products), encoding="utf-8")
    (folder / "items_ins_v2_small.json").write_text(json.dumps(attributes), encoding="utf-8")
    (folder / "items_human_ins.json").write_text(json.dumps(human), encoding="utf-8")
    return path
