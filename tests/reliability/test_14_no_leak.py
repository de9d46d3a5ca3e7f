"""After use, processes, threads, file descriptors and memory are back where they were.

1. A thousand times reset and closed, an environment of this package leaves nothing.
2. Neither does a pool of workers, opened and closed, whatever happened in between.
3. Workers do not outlive their parent, however it ends and whatever they are doing.
4. Nor do the programs that their environments start, those with a session of their own included.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from slow import slow_except
from stapo.envs import ENVIRONMENTS, make
from stapo.envs.guard import Started
from stapo.envs.pool import LocalPool
from stapo.envs.supervisor import descendants
from stapo.envs.worker_pool import WorkerPool
from unruly_world import CHILDREN, HANGS, TASKS

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts what /proc tells")

ENVIRONMENTS_HERE: dict[str, dict] = {
    "alfworld": {"scenes": "tiny", "games_per_type": 2},
    "search": {},
    "sokoban": {"levels": 20},
    "webshop": {"size": "tiny", "catalog_products": 20},
}
"""Every environment of this package, with options that make it small."""

AROUND_OTHERS = {"gymnasium", "openenv"}
"""Those around environments of other packages; `make test-ecosystem` plays them."""

CYCLES, PATIENCE = 1_000, 20.0
GROWTH = 4 << 20
"""Bytes that are no leak: over 1,000 cycles, anything kept per cycle would be more."""


def held():
    """Child processes, threads and open files of this process."""
    gc.collect()
    children = sorted(c for p in Path("/proc/self/task").glob("*/children") for c in p.read_text().split())
    return children, threading.active_count(), sorted(os.listdir("/proc/self/fd"))


def memory():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_every_environment_of_this_package_is_listed():
    assert set(ENVIRONMENTS._lazy) == set(ENVIRONMENTS_HERE) | AROUND_OTHERS


@pytest.mark.parametrize("name", slow_except(ENVIRONMENTS_HERE, "search"))
def test_a_thousand_episodes_leave_nothing(name):
    options = ENVIRONMENTS_HERE[name]
    tasks = list(make(name, **options).tasks)[:8]

    def cycle(number):
        env = make(name, **options)
        seen = env.reset(tasks[number % len(tasks)])
        for _ in range(3):
            seen = env.step(seen.admissible[number % len(seen.admissible)] if seen.admissible else "look")
            if seen.done:
                break
        env.close()

    for number in range(100):
        cycle(number)
    before, size, started, done = held(), memory(), time.monotonic(), 0
    while done < CYCLES and time.monotonic() - started < PATIENCE:
        cycle(done)
        done += 1
    assert done >= 100
    assert held() == before
    assert memory() - size < GROWTH


# -- 2 -----------------------------------------------------------------------------------------------------------------


def use(pool, actions=("hi",)):
    pool.grow(4)
    assert all(isinstance(out, Started) for out in pool.reset([(slot, TASKS[0]) for slot in range(4)]))
    for action in actions:
        pool.step([(slot, action) for slot in range(4)])


@pytest.mark.parametrize("fault", slow_except(["", "os_exit", "raise", "kill"], "os_exit"))
def test_pools_that_come_and_go_leave_nothing(fault):
    def cycle():
        with closing(WorkerPool("unruly", {"fault": fault}, 2, 20.0)) as pool:
            use(pool, ("hi", "boom"))

    cycle()
    before, size = held(), memory()
    for _ in range(20 if not fault else 5):
        cycle()
    assert held() == before
    assert memory() - size < GROWTH


def test_a_pool_that_is_forgotten_leaves_nothing():
    before = held()
    pool = WorkerPool("unruly", {}, 2, 20.0)
    use(pool)
    pids = [pid for worker in pool._workers for pid in (worker.pid, worker.process.pid)]
    del pool
    gc.collect()
    assert gone(pids)
    assert held() == before


def test_a_forked_copy_of_the_parent_takes_no_workers_along():
    with closing(WorkerPool("unruly", {}, 1, 20.0)) as pool:
        use(pool)
        child = os.fork()
        if child == 0:
            del pool
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
        use(pool)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_replaces_environments_without_piling_them_up(workers):
    options = {"scenes": "tiny", "games_per_type": 2}
    task = make("alfworld", **options).tasks[0]
    pool = WorkerPool("alfworld", options, 1, 20.0) if workers else LocalPool(partial(make, "alfworld", **options))
    with closing(pool):
        pool.grow(1)

        def cycles(count):
            for _ in range(count):
                pool.reset([(0, task)])
                pool.discard(0)
            pid = pool._workers[0].pid if workers else os.getpid()
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        before = cycles(100)
        assert cycles(500) - before < GROWTH


# -- 3 -----------------------------------------------------------------------------------------------------------------

PARENT = """
import os, signal, sys, threading, time
sys.path[:0] = {path!r}
import unruly_world
from stapo.envs.worker_pool import WorkerPool
pool = WorkerPool({world!r}, {options!r}, 2, 600.0)
pool.grow(2)
def begin():
    pool.reset([(0, unruly_world.TASKS[0]), (1, unruly_world.TASKS[0])])
if {in_thread}:
    thread = threading.Thread(target=begin)
    thread.start()
    thread.join(600)
else:
    begin()
print(*[worker.pid for worker in pool._workers], flush=True)
{then}
"""
THEN = {
    "idle": ("", "time.sleep(600)"),
    "hangs": ("hang", "pool.step([(0, 'boom'), (1, 'hi')])"),
    "spins": ("spin", "pool.step([(0, 'boom'), (1, 'hi')])"),
    "stopped": ("", "[os.kill(w.pid, signal.SIGSTOP) for w in pool._workers]; time.sleep(600)"),
}


def gone(pids, patience=10.0):
    """Whether all of these processes end; what only waits to be collected has ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent(fault, then, in_thread=False, world="unruly", **options):
    path = [entry for entry in sys.path if entry]
    code = PARENT.format(path=path, world=world, options={"fault": fault, **options}, in_thread=in_thread, then=then)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    return process, pids


@pytest.mark.parametrize(
    "state, in_thread", slow_except(product(THEN, [False, True]), *((s, False) for s in THEN), ("hangs", True))
)
def test_workers_end_with_a_parent_that_is_killed(state, in_thread):
    if state == "stopped" and in_thread:
        pytest.skip("only the kernel can end a stopped process, and it needs the main thread")
    process, pids = parent(*THEN[state], in_thread)
    with process:
        time.sleep(0.3)
        assert all(map(alive, pids))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=300)
        assert gone(pids)


FORGETS = ["pass", "sys.exit(3)", "os._exit(0)", "raise ValueError"]


@pytest.mark.parametrize("then", slow_except(FORGETS, "os._exit(0)", "raise ValueError"))
def test_workers_end_with_a_parent_that_forgets_them(then):
    process, pids = parent("", then)
    with process:
        process.wait(timeout=300)
        assert gone(pids)


def test_a_thread_that_ends_takes_no_workers_along():
    """The kernel would take the end of the thread that started them for the end of the parent."""
    pool = WorkerPool("unruly", {}, 1, 20.0)
    with closing(pool):
        thread = threading.Thread(target=use, args=(pool,))
        thread.start()
        thread.join(600)
        time.sleep(0.2)
        assert alive(pool._workers[0].pid)
        pool.step([(0, "hi")])


# -- 4 -----------------------------------------------------------------------------------------------------------------

ENDS = {
    "closed": lambda pool: pool.close(),
    "exits": lambda pool: pool.step([(0, "boom")]),
    "hangs": lambda pool: pool.step([(0, "boom")]),
    "killed from outside": lambda pool: (os.kill(pool._workers[0].pid, signal.SIGKILL), pool.step([(0, "hi")])),
}
FAULT_OF = {"exits": "os_exit", "hangs": "hang"}
WAYS_AND_ENDS = [(way, end) for way in CHILDREN for end in ENDS]
ENOUGH = [pair for pair in WAYS_AND_ENDS if pair[1] == "exits" or pair[0] == "daemon"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says to whom orphans fall")
@pytest.mark.parametrize("way, end", slow_except(WAYS_AND_ENDS, *ENOUGH))
def test_what_a_worker_started_ends_with_it(way, end):
    seconds = 2 * HANGS if end == "hangs" else 600.0
    with closing(WorkerPool("parent", {"way": way, "fault": FAULT_OF.get(end, "")}, 1, seconds, 600.0)) as pool:
        pool.grow(1)
        assert isinstance(pool.reset([(0, TASKS[0])])[0], Started)
        started = [pid for pid in descendants(pool._workers[0].process.pid) if pid != pool._workers[0].pid]
        assert started
        assert all(map(alive, started))
        ENDS[end](pool)
        assert gone(started)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says to whom orphans fall")
@pytest.mark.parametrize("way", slow_except(CHILDREN, "daemon"))
def test_what_a_worker_started_ends_with_a_parent_that_is_killed(way):
    process, pids = parent("", "time.sleep(600)", world="parent", way=way)
    with process:
        started = [pid for pid in descendants(process.pid) if pid not in pids]
        assert len(started) == 4  # two supervisors, and what each environment has started
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=300)
        assert gone(pids + started)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_everybody_are_left_to_the_pool(number):
    """Schedulers send them to every process of a job; the run then stops at a safe point, with its workers."""
    with closing(WorkerPool("unruly", {}, 1, 20.0)) as pool:
        use(pool)
        for pid in (pool._workers[0].process.pid, pool._workers[0].pid):
            os.kill(pid, number)
        assert [out.text for out in pool.step([(0, "hi")])] == ["It heard hi."]
