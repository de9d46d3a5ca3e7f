"""Episodes of runs and demonstrators as files that SFT learns from: `stapo.export`."""

from __future__ import annotations

import os
from pathlib import Path

from stapo.api.runs import Run, left_as_found
from stapo.api.settings import Source, checked, settings_of
from stapo.documents import shown
from stapo.envs.protocol import NO_SHAPES
from stapo.errors import ConfigError
from stapo.rollout.record import episode_of_transcript, fingerprint, record_lines
from stapo.run.lines import read_lines, require_new, write_lines
from stapo.texts import counted
from stapo.training.demonstrations import demonstrated
from stapo.training.factories import RunEnv
from stapo.training.recorded import chat_lines, shapes_of


@checked()
def export(
    source: Run | Source,
    out: str | os.PathLike[str],
    *,
    won: bool = False,
    chat: bool = False,
    demonstrations: bool = False,
) -> int:
    """Write episodes into a new file, as `sft.data` reads them.

    Args:
        source: a run or its folder, whose transcripts are taken (`log.transcript_every`, `log.transcript_groups`); with
            `demonstrations` also settings.
        out: the file, which does not exist yet.
        won: leave out episodes that were not won.
        chat: chat messages, as SFT trainers read them, a line for each step; otherwise episodes, from which prompts are
            written anew.
        demonstrations: the episodes that the environment's demonstrator plays for SFT (`sft.episodes` and so on).

    Returns:
        how many episodes were written.

    Raises:
        ConfigError: the file exists, or there is no episode to write.
        StapoError: the run or the settings cannot be used.
    """
    path, run = Path(out), None
    if isinstance(source, Run):
        run, config = source, source.config
    elif isinstance(source, str | os.PathLike) and (Path(source) / "run.json").exists():
        run = Run(source)
        config = run.config
    elif demonstrations:
        config, _ = settings_of(source)
    else:
        raise ConfigError(f"{shown(source)} is not a run directory, whose transcripts could be exported.")
    if config.envs:
        raise ConfigError(
            f"the environments of '{source}' are {', '.join(config.envs)}, and a file holds episodes of one; play them "
            "with 'stapo eval --environment NAME --record FILE'."
        )
    require_new(path)
    with left_as_found():
        env = RunEnv(config)
        try:
            if demonstrations or run is None:
                episodes, shapes = demonstrated(
                    env.pool, config.agent, config.sft, config.env.split, config.seed, slot=env.PLAYED
                )
            else:
                rows = (line for transcript in run.directory.transcripts() for line in read_lines(transcript))
                episodes = [episode_of_transcript(row, where) for where, row in rows]
                shapes = shapes_of(env, config) if chat else NO_SHAPES
        finally:
            env.close()
    kept = [episode for episode in episodes if episode.won or not won]
    if not kept:
        raise ConfigError(
            f"there is nothing to export: none of {counted(len(episodes), 'episode')} was won."
            if episodes
            else f"'{source}' has no transcripts; play episodes with 'stapo eval {source} --record FILE'."
        )
    if chat:
        write_lines(path, chat_lines(kept, config, shapes))
    else:
        write_lines(path, record_lines(kept, fingerprint(config.agent, config.env.name, config.env.options)))
    return len(kept)
