"""The texts that WebShop indexes, from the recorded product file; environments.md, section 2.4."""

from __future__ import annotations

import json
from pathlib import Path


def webshop_documents(shared: Path) -> dict[str, str]:
    """Text by ASIN, in the order of ASINs: Anserini breaks ties by the name of a document."""
    items = json.loads((shared / "data" / "webshop" / "items_shuffle_1000.json").read_text())
    return dict(sorted((item["asin"], _text(item)) for item in items))


def _text(item: dict) -> str:
    bullets = item["small_description"]
    bullets = bullets if isinstance(bullets, list) else [bullets]
    options = [
        f"{name.lower()}: " + ", ".join(v["value"].strip().replace("/", " | ") for v in values)
        for name, values in (item["customization_options"] or {}).items()
        if values
    ]
    parts = [item["name"], item["full_description"] or "", bullets[0] if bullets else "", ", and ".join(options)]
    return " ".join(parts).lower()
