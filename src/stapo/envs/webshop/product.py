"""One product: how it is read from the original files, and the compact record it is kept as."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any

from stapo.errors import GameFileError

NO_PRICE = 100.0
"""What a product without a price costs."""

NO_ATTRIBUTES = "DUMMY_ATTR"
"""The one attribute of a product that the attributes file does not tell any of."""

_LONGEST_ID = 10
_AMOUNT = re.compile(r"\d[\d,]{0,12}(\.\d{1,4})?")
_NOT_PRICE = re.compile(r"[^\d.]")


@dataclass(frozen=True, slots=True)
class Request:
    """What a person wrote for a product (items_human_ins.json); options are values, or (name, value) pairs."""

    instruction: str
    attributes: list[str]
    options: list[str] | list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Product:
    """A product as the shop uses it.

    Attributes:
        asin: id, at most ten characters.
        title: name as shown.
        description: text of the Description page.
        bullets: lines of the Features page.
        prices: one price, or the ends of a range, in dollars.
        category: one of a handful, such as "beauty".
        query: the search term it was found under, lower-case.
        product_category: path of categories, separated by "›".
        options: option name -> values, both lower-case, in page order.
        attributes: attributes it has.
        instruction: text of its synthetic goals, None where it is not asked for.
        instruction_attributes: attributes that the synthetic goals ask for.
        requests: what people wrote for it.
    """

    asin: str
    title: str
    description: str
    bullets: list[str]
    prices: list[float]
    category: str
    query: str
    product_category: str
    options: dict[str, list[str]]
    attributes: list[str]
    instruction: str | None
    instruction_attributes: list[str]
    requests: list[Request]

    @property
    def price_tag(self) -> str:
        """The price as pages show it."""
        return " to ".join(f"${price}" for price in self.prices)

    def document(self) -> str:
        """What the search reads of it."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        return " ".join([self.title, self.description, *self.bullets[:1], options]).lower()


def is_skipped(raw: Any) -> bool:
    """Whether the shop leaves a product out: one without an id, or with one that is too long."""
    asin = raw.get("asin") if isinstance(raw, dict) else None
    if isinstance(asin, float) and asin != asin:
        return True
    return isinstance(asin, str) and (asin == "nan" or len(asin) > _LONGEST_ID)


def read_product(raw: Any, extra: Any, requests: Any, where: str) -> Product:
    """Make a product of its entries in the three files.

    Args:
        raw: its element of items_shuffle*.json.
        extra: its entry of items_ins_v2*.json, None where there is none.
        requests: its entry of items_human_ins.json, None where there is none.
        where: the place, in messages.

    Raises:
        GameFileError: something that the shop needs is missing or of another type; product and field are named.
    """
    if not isinstance(raw, dict):
        raise GameFileError(f"{where} is {type(raw).__name__} {raw!r:.40}, expected an object with fields.")
    asin = raw.get("asin")
    # Half characters cannot be written to files, and arrays of texts lose zeros at the end.
    if not isinstance(asin, str) or not asin or not asin.isprintable():
        raise GameFileError(
            f"{where} has the asin {asin!r:.40}, expected a text of 1 to {_LONGEST_ID} printable characters."
        )
    where = f"product '{asin}' ({where})"
    bullets = raw.get("small_description")
    if bullets is None:
        bullets = []
    elif isinstance(bullets, str):
        bullets = [bullets]
    return Product(
        asin=asin,
        # The release has products with an empty title.
        title=_text(raw, "name", where),
        description=_text(raw, "full_description", where, ""),
        bullets=_texts(bullets, "small_description", where),
        prices=read_prices(raw.get("pricing"), where),
        category=_text(raw, "category", where, "") or "other",
        query=_text(raw, "query", where, "").lower().strip(),
        product_category=_text(raw, "product_category", where, ""),
        options=_options(raw.get("customization_options"), where),
        **_asked(extra, where),
        requests=_requests(requests, where),
    )


def read_prices(pricing: Any, where: str) -> list[float]:
    """The price, or both ends of the range, that a text such as "$1,299.00" or "$5.99 to $7.99" gives.

    Raises:
        GameFileError: not a text with dollar amounts.
    """
    if not pricing:
        return [NO_PRICE]
    # Mirrors of the files have numbers, amounts without a sign, and lists of amounts.
    if isinstance(pricing, list) and all(isinstance(part, str) for part in pricing):
        pricing = " to ".join(pricing)
    if (isinstance(pricing, int | float) and not isinstance(pricing, bool) and 0 < pricing < float("inf")) or (
        isinstance(pricing, str) and _AMOUNT.fullmatch(pricing.strip())
    ):
        pricing = f"${pricing}"
    try:
        found = [float(Decimal(_NOT_PRICE.sub("", part))) for part in pricing.split("$")[1:]]
    except (InvalidOperation, AttributeError) as err:
        raise GameFileError(f"{where} has the pricing {pricing!r:.40}, expected '$9.99' or '$5.99 to $7.99'.") from err
    if not all(map(isfinite, found)):
        raise GameFileError(f"{where} has the pricing {pricing!r:.40}, more than a number can hold. Repair it.")
    if not found:
        raise GameFileError(f"{where} has the pricing {pricing!r:.40} without a '$', expected '$9.99', or none at all.")
    return found[:2]


def pack(product: Product) -> bytes:
    """The record of a product."""
    fields = {name: getattr(product, name) for name in Product.__slots__}
    fields["options"] = list(product.options.items())
    fields["requests"] = [[r.instruction, r.attributes, r.options] for r in product.requests]
    # Half characters do occur in scraped text.
    return json.dumps(list(fields.values()), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def unpack(record: bytes) -> Product:
    """The product of a record that `pack` made."""
    fields: list[Any] = json.loads(record.decode("utf-8", "surrogatepass"))
    options, attributes, instruction, asked, requests = fields[8:]
    fields[8:] = [dict(options), attributes, instruction, asked, [_request(*request) for request in requests]]
    return Product(*fields)


def _request(instruction: str, attributes: list[str], options: list[Any]) -> Request:
    pairs = [(option[0], option[1]) for option in options if not isinstance(option, str)]
    return Request(instruction, attributes, pairs or options)


def _text(raw: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = raw.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise GameFileError(f"{where} has the {key} {value!r:.40}, expected a text. Repair it or take it out.")
    return value


def _texts(value: Any, key: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise GameFileError(f"{where} has the {key} {value!r:.40}, expected a list of texts. Repair it or take it out.")
    return value


def _options(raw: Any, where: str) -> dict[str, list[str]]:
    if not raw:
        return {}
    try:
        return {
            name.lower(): [
                (entry if isinstance(entry, str) else entry["value"]).strip().replace("/", " | ").lower()
                for entry in entries
            ]
            for name, entries in raw.items()
            if entries is not None
        }
    except (AttributeError, KeyError, TypeError) as err:
        raise GameFileError(
            f"{where} has the customization_options {raw!r:.60}, expected option names with lists of "
            '{"value": text}. Repair them or take the product out.'
        ) from err


def _asked(extra: Any, where: str) -> dict[str, Any]:
    if extra is None:
        extra = {}
    if not isinstance(extra, dict):
        raise GameFileError(f"{where} has the attributes entry {extra!r:.40}, expected an object. Repair the file.")
    instruction = extra.get("instruction")
    if instruction is not None and not isinstance(instruction, str):
        raise GameFileError(f"{where} has the instruction {instruction!r:.40}, expected a text. Repair the file.")
    asked = _texts(extra.get("instruction_attributes") or [], "instruction_attributes", where)
    return {
        "attributes": _texts(extra.get("attributes", [NO_ATTRIBUTES]) or [], "attributes", where),
        # A goal that asks for no attribute cannot be scored.
        "instruction": instruction if asked else None,
        "instruction_attributes": asked,
    }


def _requests(raw: Any, where: str) -> list[Request]:
    found = []
    if raw is not None and not isinstance(raw, list):
        raise GameFileError(f"{where} has the human instructions {raw!r:.40}, expected a list. Repair the file.")
    for entry in raw or []:
        if not isinstance(entry, dict):
            raise GameFileError(f"{where} has the human instruction {entry!r:.40}, expected an object. Repair it.")
        attributes = _texts(entry.get("instruction_attributes"), "instruction_attributes", where)
        options = entry.get("instruction_options") or []
        pairs = list(options.items()) if isinstance(options, dict) else []
        values = _texts([value for _, value in pairs] if pairs else options, "instruction_options", where)
        if attributes:
            found.append(Request(_text(entry, "instruction", where), attributes, pairs or values))
    return found
