"""Runs that somebody has changed to harm whoever looks at them. Each function changes a copy of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stapo.run.per_token import encode_per_token

Record = dict[str, Any]

TEXT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202ecod\x1b]0;owned\x07"
SHOWN = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\\u{202e}cod"
"""What a page shows of it, without the control codes at its end."""

_TEXTS_OF_STEPS = ("observation", "action", "response", "prompt", "blind_prompt", "problem", "retriever_error")


def change(run: Path, how: Callable[[Record], object], iteration: int = 1) -> None:
    """Change every record of a transcript, and let it have no summary."""
    path = run / "transcripts" / f"iteration-{iteration:05d}.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        how(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (run / "steps.jsonl").unlink(missing_ok=True)


def with_hostile_texts(run: Path) -> None:
    """Markup, a change of direction and control codes in every text of a transcript."""

    def spoil(record: Record) -> None:
        record |= dict.fromkeys(("goal", "task_type", "task_id", "stop_reason", "env"), TEXT) | {"frame": [TEXT, TEXT]}
        for step in record["steps"]:
            step |= dict.fromkeys(_TEXTS_OF_STEPS, TEXT) | {"admissible": [TEXT]}
            count = len(TEXT)
            numbers = dict.fromkeys(("entropy", "logprob", "kl"), [1.0] * count)
            step |= {"tokens": count, "per_token": encode_per_token({"characters": [1] * count, **numbers})}
            step.pop("scored", None)

    change(run, spoil)


def with_a_huge_observation(run: Path, characters: int = 10_000_000) -> None:
    """An observation of ten megabytes in every first step of a transcript."""

    def swell(record: Record) -> None:
        record["steps"][0]["observation"] = "long " * (characters // 5)

    change(run, swell)


def with_many_steps(run: Path, steps: int = 100_000) -> None:
    """One trajectory that never ends; the others of its transcript are gone."""
    path = run / "transcripts" / "iteration-00001.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    step = json.dumps(record.pop("steps")[0])
    head = json.dumps({**record, "iteration": 1})[:-1]
    path.write_text(f'{head}, "steps": [{", ".join([step] * steps)}]}}\n')
    (run / "steps.jsonl").unlink(missing_ok=True)


def with_many_tokens(run: Path, tokens: int = 200_000) -> None:
    """Responses of 200,000 tokens of one character each."""

    def lengthen(record: Record) -> None:
        numbers = {name: [0.5] * tokens for name in ("entropy", "logprob")}
        held = encode_per_token({"characters": [1] * tokens, **numbers})
        record["steps"][0] |= {"response": "x" * tokens, "tokens": tokens, "per_token": held}

    change(run, lengthen)
