"""Writes the figures of docs/environments/alfworld-generated.md.

Run ``python benchmarks/alfworld_generated.py`` to print them, with ``--write`` to put them into the
page, between its ``<!-- figures -->`` marks. Everything but the load time is the same on every
machine.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.alfworld.game import TASK_TYPES
from stapo.envs.alfworld.generator import GeneratedGames
from stapo.envs.alfworld.generator.goals import is_held_out, offers
from stapo.envs.alfworld.generator.layouts import HELDOUT, SPLITS, families
from stapo.envs.alfworld.generator.sizes import KINDS, SIZES

PAGE = Path(__file__).parents[1] / "docs" / "environments" / "alfworld-generated.md"
SAMPLE = "generated-small/heldout/pick_clean_then_place_in_recep/000004"


@dataclass
class Tally:
    """What was counted over the listed games of one size."""

    lengths: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    receptacles: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    commands: list[int] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    blind: list[float] = field(default_factory=list)
    informed: list[float] = field(default_factory=list)
    doors: int = 0
    usual: int = 0
    closed: int = 0
    starts: int = 0
    new_pairs: int = 0
    heldout: int = 0


def facts(text: str, predicate: str) -> list[list[str]]:
    """The arguments of every fact of a predicate."""
    return [m.split() for m in re.findall(rf"\({predicate} ([^()]*)\)", text)]


def looks(places: set[str], hits: set[str]) -> float:
    """Expected places looked at, in random order without repeats, until the first hit."""
    return (len(places) + 1) / (len(hits) + 1)


def tally(scenes: str, per_type: int) -> Tally:
    """Count over `per_type` games of each type and split."""
    result = Tally()
    source = GeneratedGames(scenes, per_type)
    env = AlfworldEnv(scenes=scenes, games_per_type=per_type)
    for split in SPLITS:
        for task_id in source.ids(split):
            game = source.load(task_id)
            init, goal = game.pddl_problem.split("(:goal")
            types = dict(facts(init, "receptacleType"))
            kinds = dict(facts(init, "objectType"))
            doors = {r for (r,) in facts(init, "openable")}
            result.receptacles.append(len(types))
            result.doors += len(doors)
            result.objects.append(len(kinds))
            asked = [t.removesuffix("Type") for t in re.findall(r"objectType \?o1? (\w+)", goal)]
            for thing, place in facts(init, "inReceptacle"):
                if kinds[thing].removesuffix("Type") == asked[-1]:
                    result.starts += 1
                    result.closed += place in doors
                    result.usual += types[place].removesuffix("Type") in KINDS[asked[-1]].usual
            at = {r: t.removesuffix("Type") for r, t in types.items()}
            hits = {r for o, r in facts(init, "inReceptacle") if kinds[o] == asked[-1] + "Type"}
            likely = {r for r, t in at.items() if t in KINDS[asked[-1]].usual}
            result.blind.append(looks(set(at), hits))
            result.informed.append(
                looks(likely, hits & likely) if hits & likely else len(likely) + looks(set(at) - likely, hits)
            )
            if split == HELDOUT:
                result.heldout += 1
                others = re.findall(r"(?:receptacleType \?r|objectType \?ot) (\w+)Type", goal)
                result.new_pairs += is_held_out(asked[-1], others[0])
            start = env.reset(task_id)
            result.words |= set(re.findall(r"[a-z]+|\d+", start.text.lower()))
            plan = env.expert_plan()
            result.lengths[game.task_type][len(plan)] += 1
            for command in plan:
                step = env.step(command)
                result.words |= set(re.findall(r"[a-z]+|\d+", step.text.lower()))
                for offered in step.admissible or []:
                    result.words |= set(offered.split())
                result.commands.append(len(step.admissible or []))
            if not step.won:
                raise SystemExit(f"{task_id} is not solved by its own plan")
    return result


def load_time(scenes: str) -> float:
    """Median seconds of `load`."""
    source = GeneratedGames(scenes)
    ids = source.ids("train")
    source.load(ids[0])
    times = []
    for task_id in ids[:: max(1, len(ids) // 300)]:
        began = time.perf_counter()
        source.load(task_id)
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def table(head: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def goals_of(scenes: str, split: str, *, held_out: bool) -> int:
    """Distinct (task type, object, target) that a split can ask for."""
    return len({o.goal for t in TASK_TYPES for room in offers(scenes, split, t, held_out) for o in room})


def overview(tallies: dict[str, Tally]) -> str:
    """One row per quantity, one column per size."""
    rows: list[list[object]] = []

    def row(name: str, values: list[object]) -> None:
        rows.append([name, *values])

    sizes = list(tallies)
    layouts = {s: Counter(f.split for f in families(s)) for s in sizes}
    things = {s: {name for room in SIZES[s].rooms.values() for name in room.objects} for s in sizes}
    pieces = {s: {name for room in SIZES[s].rooms.values() for name in room.furniture} for s in sizes}
    row("rooms", [", ".join(sorted(SIZES[s].rooms)) for s in sizes])
    row(
        "layouts, train / heldout",
        [f"{layouts[s]['train']} / {layouts[s]['heldout']}" for s in sizes],
    )
    row("object types", [len(things[s]) for s in sizes])
    row("receptacle types", [len(pieces[s]) for s in sizes])
    row("words and numbers in all texts", [len(tallies[s].words) for s in sizes])
    row("goals asked in train", [goals_of(s, "train", held_out=False) for s in sizes])
    row("goals asked in heldout alone", [goals_of(s, "heldout", held_out=True) for s in sizes])
    row(
        "share of heldout games with such a goal",
        [f"{t.new_pairs / t.heldout:.0%}" for t in tallies.values()],
    )
    for name in ("receptacles", "objects"):
        row(
            f"{name} per scene, mean (range)",
            [f"{mean(v):.1f} ({min(v)}-{max(v)})" for v in (getattr(t, name) for t in tallies.values())],
        )
    row(
        "commands on offer per step, mean (most)",
        [f"{mean(t.commands):.1f} ({max(t.commands)})" for t in tallies.values()],
    )
    row("receptacles with a door", [f"{t.doors / sum(t.receptacles):.0%}" for t in tallies.values()])
    row("wanted object where usual", [f"{t.usual / t.starts:.0%}" for t in tallies.values()])
    row("wanted object behind a door", [f"{t.closed / t.starts:.0%}" for t in tallies.values()])
    row(
        "places looked at until it is found, any order / usual places first",
        [f"{mean(t.blind):.1f} / {mean(t.informed):.1f}" for t in tallies.values()],
    )
    row("load, median", [f"{load_time(s) * 1e3:.2f} ms" for s in sizes])
    return table(["", *sizes], rows)


def lengths(result: Tally) -> str:
    """Games by length of the shortest plan, one row per task type."""
    span = sorted({n for counter in result.lengths.values() for n in counter})
    rows: list[list[object]] = []
    for task_type in TASK_TYPES:
        counter = result.lengths[task_type]
        total = sum(n * k for n, k in counter.items())
        average = f"{total / counter.total():.1f}"
        rows.append([task_type, *(counter[n] or "" for n in span), average])
    return table(["actions", *map(str, span), "mean"], rows)


def episode(task_id: str) -> str:
    """The text of a game played by the expert."""
    env = AlfworldEnv(scenes=task_id.split("/")[0].removeprefix("generated-"))
    lines = [env.reset(task_id).text]
    for command in env.expert_plan():
        lines += [f"> {command}", env.step(command).text]
    return "```text\n" + "\n".join(lines) + "\n```"


def figures(per_type: int) -> str:
    """The whole block of figures."""
    tallies = {scenes: tally(scenes, per_type) for scenes in SIZES}
    parts = [
        f"Counted over {per_type} games of each task type in each split (fewer where a size lists "
        "fewer), played by the expert, which solved all of them.",
        overview(tallies),
    ]
    for scenes, result in tallies.items():
        parts += [f"Games by length of the shortest plan, `{scenes}`:", lengths(result)]
    parts += [f"A game played by the expert, `{SAMPLE}`:", episode(SAMPLE)]
    return "\n\n".join(parts)


def main() -> None:
    """Print the figures or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=200, help="games per type and split")
    parser.add_argument("--write", action="store_true", help="update the page")
    options = parser.parse_args()
    block = figures(options.games)
    if not options.write:
        print(block)
        return
    before, _, after = PAGE.read_text().partition("<!-- figures -->")
    _, _, after = after.partition("<!-- end of figures -->")
    PAGE.write_text(f"{before}<!-- figures -->\n\n{block}\n\n<!-- end of figures -->{after}")


if __name__ == "__main__":
    main()
