"""What is said while something long goes on, with a clock that the test moves."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stapo.cli.compare_view import Progress
from stapo.cli.progress import Lines, ProgressDisplay
from stapo.comparison.cells import Work
from stapo.comparison.jobs import Ended, Job
from stapo.texts import duration
from stapo.training.callbacks import UpdateEvent


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_line_every_half_minute_with_the_time_that_is_left():
    clock, said = Clock(), []
    lines = Lines(said.append, clock)
    for second in range(0, 100):
        clock.now = 100.0 + second
        lines.stage(f"SFT (loss {second / 100:.2f})", 10 + second, 210)
    # 30 of 200 in 30 s; 60 in 60; 90 in 90.
    assert said == [
        "SFT (loss 0.30): 40 of 210, about 3 min left",
        "SFT (loss 0.60): 70 of 210, about 2 min left",
        "SFT (loss 0.90): 100 of 210, about 2 min left",
    ]


def test_a_stage_without_a_known_end_says_how_much_is_done():
    clock, said = Clock(), []
    lines = Lines(said.append, clock)
    for second in range(0, 70):
        clock.now = 100.0 + second
        lines.stage("reading products", 100 * second, 0)
    assert said == ["reading products: 3,000 so far", "reading products: 6,000 so far"]


def test_a_stage_that_is_done_says_no_more_and_may_begin_anew():
    clock, said = Clock(), []
    lines = Lines(said.append, clock)
    lines.stage("demonstrations", 0, 10)
    clock.now += 40
    lines.stage("demonstrations", 10, 10)
    lines.stage("demonstrations", 0, 10)
    clock.now += 40
    lines.stage("demonstrations", 0, 10)
    assert said == ["demonstrations: 0 of 10"]


def row(number, seconds=2.0):
    return {
        "iteration": number, "success": 0.5, "episode_length": 3.0, "valid_actions": 1.0, "entropy": {"mean": 0.1},
        "outlier": {"flagged_share": 0.01}, "seconds": {"total": seconds},
    }  # fmt: skip


def test_iterations_say_how_long_the_rest_takes(capsys):
    clock = Clock()
    display = ProgressDisplay(quiet=True, iterations=5, clock=clock)
    for number in (3, 4, 5):
        clock.now += 60.0
        display.on_update(UpdateEvent(iteration=number, metrics=row(number, 60.0)))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("%  ")[2] for line in lines] == [
        "60.0 s, about 2 min left",
        "60.0 s, about 60 s left",
        "60.0 s",
    ]


class Gone(io.StringIO):
    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(28, "full")])
def test_output_that_is_gone_ends_no_run(error):
    display = ProgressDisplay(quiet=True, iterations=2)
    stream = Gone()
    stream.error = error
    display.console.file = stream
    for _ in range(2):
        display.on_notice("still there")
        display.on_update(UpdateEvent(iteration=1, metrics=row(1)))
    assert isinstance(display.console, Console)


def test_durations():
    assert [duration(s) for s in (0.4, 89, 90, 5399, 5400)] == ["0 s", "89 s", "2 min", "90 min", "1.5 h"]


def test_a_comparison_without_a_terminal_says_how_long_it_will_take(tmp_path, capsys):
    clock = Clock()

    def work(name, iterations):
        folder = tmp_path / name
        folder.mkdir()
        return Work(Job(name, [], tmp_path / "log", folder), None, 0, iterations, {}, ())

    works = [work("start 00", 0), work("grpo", 100), work("stapo", 100)]
    with Progress(works, quiet=False, clock=clock) as progress:
        progress.changed(works[0].job, "started")
        for second in range(0, 1000, 4):
            clock.now = 100.0 + second
            progress.tick(["start 00"])
        progress.changed(works[0].job, Ended("done"))
        progress.changed(works[1].job, "started")
        for second in range(0, 121, 4):
            clock.now = 1100.0 + second
            (tmp_path / "grpo" / "metrics.jsonl").write_text("{}\n" * second)
            if second == 100:
                progress.changed(works[1].job, Ended("done"))
            progress.tick(["grpo"] if second < 100 else ["stapo"])
    lines = capsys.readouterr().err.splitlines()
    assert "starts: 0 of 1" in lines
    said = [line for line in lines if "iterations" in line]
    assert [line.partition(",")[0] for line in said] == [
        "iterations of all runs: 32 of 200", "iterations of all runs: 64 of 200", "iterations of all runs: 96 of 200",
    ]  # fmt: skip
    assert said[0].endswith("about 3 min left")  # what the start took does not count
    assert all("left" in line for line in said)
