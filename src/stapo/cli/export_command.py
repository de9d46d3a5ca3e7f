"""`stapo export RUN --out FILE`."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.words import write_line
from stapo.errors import ConfigError
from stapo.texts import counted


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write episodes into a file that SFT learns from (sft.data): those of a run's transcripts.

    Steps whose response was invalid stay in the history and are not imitated. The file holds the fingerprint of
    environment, prompts and response format; SFT under others refuses it and says what differs.

    Attributes:
        source: run folder, as 'stapo train' writes it; with --demonstrations also a preset or file.
        out: file to write, which does not exist yet.
        won: leave out episodes that were not won.
        chat: write chat messages, a line for each step, as SFT trainers read them (default: episodes, from which SFT
            writes the prompts anew).
        demonstrations: write what the environment's demonstrator plays for SFT (sft.episodes and so on), in place of
            transcripts.
    """

    EXAMPLES = """
stapo export runs/tiny-stapo-20260101-120000 --won --out won.jsonl
stapo export tiny --demonstrations --out demonstrations.jsonl
stapo train tiny --sft.data won.jsonl
"""
    NOTES = """
'stapo eval RUN --split train --k 4 --record FILE' plays more episodes than transcripts hold, with
a run, a frozen model or a teacher behind a server.
"""

    source: Positional[str] = arg("RUN", needs="a run directory, as 'stapo train' writes it")
    out: str | None = arg("FILE", None, needs="the name of a file")
    won: bool = False
    chat: bool = False
    demonstrations: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.api.exporting import export

        if self.out is None:
            raise ConfigError("'stapo export' needs a file: stapo export RUN --out FILE.")
        count = export(self.source, self.out, won=self.won, chat=self.chat, demonstrations=self.demonstrations)
        write_line(f"{counted(count, 'episode')} in {self.out}; learn from them: --sft.data {self.out}")
        return 0


COMMAND = Export
