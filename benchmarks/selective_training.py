"""Train the readings of the selective terms that did no harm on stored policies, beside GiGPO and two controls.

    python benchmarks/selective_training.py PRESET --out DIR [--seeds 0 1 2] [--starts 3] [--jobs 1] [SETTINGS ...]
    python benchmarks/selective_training.py --out DIR --table

Variants: `gigpo`; `gigpo` with another split of its micro-batches, which moves numbers by rounding alone, so that its
difference is noise; `stapo` as the paper writes it; `stapo-random`, which flags as many steps at random; and `stapo`
without groups whose standard deviation is below .05 nats, and with R_TA of a step counted up to .5 nats (`cap`) or up
to the reference's own and .5 nats (`target`). `stapo compare` makes all runs, seed by seed. Called again after a stop,
the same command continues; more seeds may be added.

The table has success on held-out tasks, its difference to GiGPO and to random flags with paired intervals (95 % over
all variants together, by Bonferroni), and means over the last five iterations: R_TA of flagged steps, KL to the
reference, share of invalid actions.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from stapo.comparison.plan import cell_folder, read_plan
from stapo.comparison.statistics import Pairs, mean_std, pair, paired_difference
from stapo.errors import StapoError
from stapo.run import RunDirectory

BASELINE, RANDOM = "gigpo", "stapo-random"
CALLS: tuple[tuple[str, ...], ...] = (
    ("--algorithms", BASELINE, "stapo", RANDOM),
    (
        *("--algorithms", "stapo", "--vary", "algorithm.outlier.min_std=0.05"),
        *("--vary", "algorithm.selective.bound=cap,target", "--vary", "algorithm.selective.bound_at=0.5"),
    ),
    ("--algorithms", BASELINE, "--vary", "optim.micro_tokens=4095"),
)
"""Arguments of `stapo compare`; each call adds to the comparison of the one before it."""

LAST = 5
"""Iterations that a table's means of training are over."""

Episodes = dict[tuple[int, str], float]


def main() -> int:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", help="preset or file of settings")
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", type=int, default=3, help="SFT starts; seed s begins with start s modulo this")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--dry-run", action="store_true", help="print the plans and what they cost; run nothing")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    args, settings = parser.parse_known_args()
    if not args.table:
        if args.preset is None:
            parser.error("the preset is missing; expected one, such as memory-uncertain, or --table")
        # The first call knows all seeds, so that starts are shared out alike; later seeds wait for the earlier ones.
        for number in range(1, len(args.seeds) + 1):
            seeds = args.seeds if args.dry_run else args.seeds[:number]
            for call in CALLS:
                words = [args.preset, *call, "--seeds", *map(str, seeds), "--starts", str(args.starts)]
                more = ["--dry-run"] if args.dry_run else ["--jobs", str(args.jobs)]
                words += ["--baseline", BASELINE] if BASELINE in call else []
                command = [sys.executable, "-m", "stapo", "compare", *words, "--out", str(args.out), *more, *settings]
                if code := subprocess.run(command, check=False).returncode:
                    return code
            if args.dry_run:
                return 0
    try:
        print(table(args.out))
    except StapoError as err:
        sys.exit(f"error: {err}")
    return 0


def table(folder: Path) -> str:
    """A markdown table of the finished runs of a comparison.

    Raises:
        RunDirectoryError: there is no comparison in the folder.
    """
    plan = read_plan(folder)
    runs = {(cell.label, cell.seed): RunDirectory(cell_folder(folder, cell)) for cell in plan.cells}
    done = {key: run for key, run in runs.items() if run.path.is_dir() and run.info()["status"] == "done"}
    episodes = {key: _episodes(run) for key, run in done.items()}
    # Each variant is compared with two others, but the two with themselves.
    level = 1 - 0.05 / (2 * len(plan.variants) - 2)
    lines = [
        f"| variant | runs | success | minus GiGPO [{level:.1%}] | by seed | minus random flags [{level:.1%}] "
        "| flagged | R_TA | KL to reference | invalid |",
        "|---" * 10 + "|",
    ]
    for variant in plan.variants:
        mine = {seed: found for (label, seed), found in episodes.items() if label == variant.label}
        if not mine:
            continue
        rows = [row for seed in mine for row in done[variant.label, seed].rows("metrics")[-LAST:]]
        success = mean_std([fmean(found.values()) for found in mine.values()])
        against, by_seed = difference(mine, {s: episodes[BASELINE, s] for s in mine if (BASELINE, s) in done}, level)
        random, _ = difference(mine, {s: episodes[RANDOM, s] for s in mine if (RANDOM, s) in done}, level)
        deviation = "" if success.sd is None else f" ± {success.sd:.3f}"
        cells = [
            f"`{variant.label}`",
            str(success.n),
            f"{success.mean:.3f}{deviation}",
            *(("", "") if variant.label == BASELINE else (against, by_seed)),
            "" if variant.label == RANDOM else random,
            _mean([row["outlier"]["flagged_share"] for row in rows], ".1%"),
            _mean([row["update"].get("r_ta") for row in rows], ".2f"),
            _mean([row["update"]["ref_kl"] for row in rows], ".3f"),
            _mean([1 - row["valid_actions"] for row in rows], ".1%"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(ours: dict[int, Episodes], theirs: dict[int, Episodes], level: float) -> tuple[str, str]:
    """Paired difference in success with its interval, and by seed; of the seeds that both have."""
    pairs: list[Pairs] = []
    for seed in sorted(set(ours) & set(theirs)):
        shared = sorted(set(ours[seed]) & set(theirs[seed]))
        one, two = ([found[seed][key] for key in shared] for found in (ours, theirs))
        pairs.append(pair([task for _, task in shared], one, two))
    if not pairs:
        return "", ""
    found = paired_difference(pairs, level=level)
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]", ", ".join(f"{x:+.3f}" for x in found.by_seed)


def _episodes(run: RunDirectory) -> Episodes:
    """Outcomes of the sampled episodes of the last full evaluation, by number and task."""
    rows = [row for row in run.rows("eval_episodes") if row["mode"] == "sampled"]
    last = max((row["iteration"] for row in rows), default=0)
    return {(row["episode"], row["task_id"]): float(row["won"]) for row in rows if row["iteration"] == last}


def _mean(values: Sequence[Any], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(fmean(known), form) if known else ""


if __name__ == "__main__":
    sys.exit(main())
