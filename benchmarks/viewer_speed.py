"""How fast `stapo view` opens a run of 1,000 iterations with 100,000 recorded steps, and the memory of its server.

    python benchmarks/viewer_speed.py [--run RUN] [--repeats 5]

Without RUN the run of `big_run.py` is written first (500 MB in a temporary folder). Times are taken in Chromium, driven
by Playwright: opening is the time from the address to the list of all steps, first with a server that has just been
started, then again; a filter is the time from the change of a choice to the frame that shows the selection. Medians,
with the slowest in brackets; a busy machine makes them longer. Without Chromium or Playwright, only reading is timed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from big_run import write_big_run
from stapo.run.step_table import StepTable
from stapo.viewer.tables import packed

_FILTER = """([label, value]) => new Promise((done) => {
  const choice = [...document.querySelectorAll('.filters label')].find((l) => l.textContent.trim().startsWith(label));
  const control = choice.querySelector('select, input');
  const shown = () => document.querySelector('[data-count]').dataset.count;
  const before = shown(), began = performance.now();
  if (control.type === 'checkbox') control.click();
  else { control.value = value; control.dispatchEvent(new Event('change', { bubbles: true })); }
  const look = () => shown() === before ? requestAnimationFrame(look)
    : requestAnimationFrame(() => done([performance.now() - began, Number(shown())]));
  look();
})"""
# Each changes the number of steps that are shown, or its end would not be seen.
_FILTERS = (("outcome", "1"), ("outlier", "any"), ("outlier", ""), ("outcome", "0"), ("outcome", ""))


def read_alone(run: Path, repeats: int) -> None:
    """Print how long the columns take to be read and packed, without a server."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        table = StepTable(run)
        table.refresh()
        read = time.perf_counter()
        size = len(packed(table))
        times.append((read - began, time.perf_counter() - read))
    reading, packing = (statistics.median(part) for part in zip(*times, strict=True))
    print(f"columns of {table.rows:,} steps: read in {reading:.2f} s, packed in {packing:.2f} s ({size / 1e6:.1f} MB)")
    began = time.perf_counter()
    found = table.search("a text that no step holds", seconds=60.0)
    print(f"search through all transcripts: {time.perf_counter() - began:.1f} s, {len(found.rows)} found")


@contextmanager
def serving(run: Path) -> Iterator[tuple[str, int]]:
    """A server of its own; its address and process id."""
    command = [sys.executable, "-m", "stapo", "view", str(run), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        words = (word for line in server.stdout for word in line.split())
        address = next((word.rstrip(".,") for word in words if word.startswith("http://127.0.0.1:")), None)
        if address is None:
            raise SystemExit("error: 'stapo view' did not start; give the command itself to see why.")
        yield address, server.pid
    finally:
        server.terminate()
        server.wait(60)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far: what a busy machine does not change."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_page(devtools: Any) -> float:
    """Processor time of the page's process so far."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in metrics if one["name"] == "ProcessTime")


def memory_mb(pid: int) -> float:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def opened(page: Any, address: str, name: str, steps: int) -> float:
    """Seconds until a page that was not open before shows all steps."""
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(f"{address}#/run/{name}/steps")
    page.locator(f'[data-count="{steps}"]').wait_for()
    return time.perf_counter() - began


def measure(run: Path, repeats: int) -> None:
    """Print the times in a browser, and the memory of the server."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("playwright is not installed (the extra dev has it), so nothing is timed in a browser")
        return
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("there is no Chromium, so nothing is timed in a browser")
        return
    table = StepTable(run)
    table.refresh()
    steps, name = table.rows, run.resolve().name
    first, again, filtered, memory, cpu = [], [], list[float](), [], list[tuple[float, float]]()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(repeats):
            with serving(run) as (address, pid):
                page = browser.new_page()
                page.set_default_timeout(300_000)
                devtools = page.context.new_cdp_session(page)
                devtools.send("Performance.enable")
                before = cpu_seconds(pid), cpu_of_page(devtools)
                first.append(opened(page, address, name, steps))
                cpu.append((cpu_seconds(pid) - before[0], cpu_of_page(devtools) - before[1]))
                again.append(opened(page, address, name, steps))
                for choice in _FILTERS:
                    took, _ = page.evaluate(_FILTER, list(choice))
                    filtered.append(took)
                memory.append(memory_mb(pid))
                page.close()
        browser.close()
    print(f"{steps:,} steps in Chromium, {repeats} servers, load of the machine {os.getloadavg()[0]:.1f}:")
    server, browser_page = (statistics.median(part) for part in zip(*cpu, strict=True))
    print(f"  opened in {statistics.median(first):.2f} s ({max(first):.2f}), again in {statistics.median(again):.2f} s")
    print(f"  processor time of opening: {server:.2f} s of the server, {browser_page:.2f} s of the page")
    print(
        f"  filtered in {statistics.median(filtered):.0f} ms ({max(filtered):.0f}), {len(filtered)} changes of filters"
    )
    print(f"  memory of the server: {statistics.median(memory):.0f} MB ({max(memory):.0f})")


def main() -> None:
    """Write the run where none is given, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = args.run
        if run is None:
            run = Path(folder) / "big"
            write_big_run(run, iterations=1000, groups=2, members=10, turns=5)
        read_alone(run, args.repeats)
        measure(run, args.repeats)


if __name__ == "__main__":
    main()
