"""Nothing waits for ever.

1. No call in the code that may wait for something else is without a limit of time.
2. The check that says so finds what it should, and nothing else.
3. A pool of environments closes in time, whatever state its workers are in.
4. What is waited for in vain is named.
"""

from __future__ import annotations

import ast
import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from slow import slow_except
from stapo.envs import worker_pool, worker_process
from stapo.envs.guard import EnvFailure
from stapo.envs.worker_pool import WorkerPool
from unruly_world import HANGS, TASKS

SOURCE = Path(__file__).resolve().parent.parent.parent / "src" / "stapo"

TIMEOUT_PLACE = {
    "join": 0,
    "wait": 0,
    "result": 0,
    "select": 0,
    "communicate": 1,
    "get": 1,
    "acquire": 1,
    "wait_for": 1,
}
"""Methods that wait -> place of their timeout among the positional arguments."""

NEED_KEYWORD = {
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
    "futures.wait",
    "as_completed",
    "urlopen",
    "create_connection",
    "requests.get",
    "requests.post",
    "requests.request",
    "httpx.get",
    "httpx.post",
}
NEVER = {"os.wait", "signal.pause", "signal.sigwait", "accept", "recv", "recv_bytes", "serve_forever", "os.read"}
NEED_FLAG = {"os.waitpid": "WNOHANG", "fcntl.flock": "LOCK_NB", "fcntl.lockf": "LOCK_NB"}

ALLOWED = {
    ("envs/worker.py", "os.read"): "the thread that waits for the end of the supervisor; its return ends the process",
    ("trackers/sender.py", "os.read"): "the thread that waits for the end of the run; its return sets the alarm",
    ("envs/supervisor.py", "os.read"): "a pipe that does not block",
    ("envs/worker_process.py", "os.read"): "the pipes of the parent do not block",
    ("adapters/openenv/server.py", "socket.accept"): "of a WebSocket, inside asyncio.timeout",
    ("verl_plugin/trainer.py", "OmegaConf.select"): "a value of a configuration; it never waits",
    ("envs/openenv/session.py", "self._socket.recv"): "of a WebSocket, which takes the seconds as its argument",
    ("rollout/continuous.py", "self._outs.result"): "calls of a pool of environments, each of which has its deadline",
    ("serving/threads.py", "answer.result"): "a future of asyncio that is done; it never waits",
    ("serving/threads.py", "self._inbox.get"): "a daemon thread without work; it keeps nothing from ending",
}


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def limited(call, place):
    """Whether a call has a timeout, by keyword or in its place."""
    given = {k.arg: k.value for k in call.keywords}
    if "timeout" in given:
        return not is_constant(given["timeout"], None)
    return len(call.args) > place and not is_constant(call.args[place], None)


def waits(source):
    """Names of calls that may wait without a limit."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = dotted(call.func)
        last = name.rpartition(".")[2]
        given = {k.arg: k.value for k in call.keywords}

        def named(names, name=name):
            return any(name == n or name.endswith(f".{n}") for n in names)

        if named(NEVER):
            found.append(name)
        elif named(NEED_KEYWORD):
            if not limited(call, 99):
                found.append(name)
        elif named(NEED_FLAG):
            if not any(flag in ast.dump(call) for n, flag in NEED_FLAG.items() if named([n])):
                found.append(name)
        elif isinstance(call.func, ast.Attribute) and last in TIMEOUT_PLACE:
            if last in ("get", "acquire"):
                blocking = call.args[0] if call.args else given.get("block", given.get("blocking"))
                # With a key it is a dict's; without waiting it needs no limit.
                if blocking is not None and not is_constant(blocking, True):
                    continue
            if last == "select" and len(call.args) > 1:
                # select.select(read, write, except, timeout)
                if not limited(call, 3):
                    found.append(name)
            elif not limited(call, TIMEOUT_PLACE[last]):
                found.append(name)
    return found


# -- 1 and 2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_call_waits_for_ever(path):
    place = path.relative_to(SOURCE).as_posix()
    assert [name for name in waits(path.read_text()) if (place, name) not in ALLOWED] == []


def test_what_is_allowed_is_there():
    for place, name in ALLOWED:
        assert name in waits((SOURCE / place).read_text())


@pytest.mark.parametrize(
    "source",
    [
        "thread.join()",
        "thread.join(timeout=None)",
        "process.wait()",
        "self.event.wait(None)",
        "process.communicate()",
        "process.communicate(data)",
        "queue.get()",
        "queue.get(True)",
        "queue.get(block=True)",
        "queue.get(True, None)",
        "future.result()",
        "selector.select()",
        "selector.select(None)",
        "select.select(r, w, x)",
        "lock.acquire()",
        "self._locks[0].acquire(blocking=True)",
        "condition.wait_for(ready)",
        "subprocess.run(['x'])",
        "subprocess.check_output(['x'], timeout=None)",
        "concurrent.futures.wait(all)",
        "urllib.request.urlopen(url)",
        "socket.create_connection(place)",
        "os.waitpid(pid, 0)",
        "fcntl.flock(f, fcntl.LOCK_EX)",
        "connection.recv()",
        "os.read(fd, 10)",
        "signal.pause()",
    ],
)
def test_the_check_finds(source):
    assert len(waits(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "', '.join(names)",
        "thread.join(5)",
        "thread.join(timeout=limit)",
        "process.wait(timeout=1.0)",
        "process.communicate(data, 5)",
        "process.communicate(timeout=5)",
        "settings.get('key')",
        "settings.get('key', None)",
        "queue.get(timeout=1)",
        "queue.get(True, 1)",
        "queue.get(False)",
        "queue.get_nowait()",
        "future.result(timeout=1)",
        "selector.select(timeout=0.1)",
        "select.select(r, w, x, 0)",
        "lock.acquire(timeout=1)",
        "lock.acquire(False)",
        "lock.acquire(blocking=False)",
        "condition.wait_for(ready, 3)",
        "subprocess.run(['x'], timeout=5)",
        "urlopen(url, timeout=5)",
        "os.waitpid(pid, os.WNOHANG)",
        "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "os.path.join(a, b)",
    ],
)
def test_the_check_lets_pass(source):
    assert waits(source) == []


# -- 3 -----------------------------------------------------------------------------------------------------------------


def begun(deadline=600.0, **options):
    pool = WorkerPool("unruly", options, 2, deadline)
    pool.grow(4)
    pool.reset([(slot, TASKS[0]) for slot in range(4)])
    return pool


def signalled(number):
    def state():
        pool = begun()
        for worker in pool._workers:
            os.kill(worker.pid, number)
            if number != signal.SIGKILL:
                os.kill(worker.process.pid, number)
        return pool

    return state


def interrupted():
    """Ctrl-C while both workers hang."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    pool = begun(fault="hang")
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.step([(0, "boom"), (1, "boom")])
    finally:
        signal.signal(signal.SIGALRM, before)
    return pool


def asked_but_not_awaited():
    """As if an error had struck between asking and waiting."""
    pool = begun(fault="hang")
    for worker in pool._workers:
        worker.ask(worker_pool.Asked(0, 0, "step", "boom", "step('boom')"))
        worker.send()
    return pool


def just_started():
    pool = WorkerPool("unruly", {}, 2, 600.0)
    for worker in pool._workers:
        worker._start()
    return pool


def after_trouble():
    pool = begun(fault="os_exit")
    pool.step([(0, "boom"), (1, "boom")])
    return pool


def closed():
    pool = begun()
    pool.close()
    return pool


STATES = {
    "not started": lambda: WorkerPool("unruly", {}, 2, 600.0),
    "just started": just_started,
    "idle": begun,
    "dead": signalled(signal.SIGKILL),
    "stopped": signalled(signal.SIGSTOP),
    "interrupted": interrupted,
    "asked but not awaited": asked_but_not_awaited,
    "after trouble": after_trouble,
    "closing hangs": lambda: begun(fault="hang", call="close"),
    "closing spins": lambda: begun(fault="spin", call="close"),
    "closing dies": lambda: begun(fault="os_exit", call="close"),
    "closed": closed,
}


@pytest.mark.parametrize("state", slow_except(STATES, *list(STATES)[::2], "closing hangs"))
def test_a_pool_closes_in_time_from_every_state(state, monkeypatch):
    monkeypatch.setattr(worker_pool, "_CLOSE_SECONDS", 1.0)
    # The supervisor ends the worker; the pool's own SIGKILL, for one that cannot, would come too late.
    monkeypatch.setattr(worker_process, "_CLEAN_SECONDS", 600.0)
    pool = STATES[state]()
    processes = [worker.process for worker in pool._workers if worker.process is not None]
    started = time.monotonic()
    pool.close()
    # The environments that hang do so for an hour.
    assert time.monotonic() - started < 120.0
    assert all(process.poll() is not None for process in processes)
    assert all(worker.process is None for worker in pool._workers)


def test_closing_waits_for_environments_that_close(tmp_path):
    with closing(WorkerPool("unruly", {"fault": "nothing", "call": "close", "marks": str(tmp_path)}, 2, 60.0)) as pool:
        pool.grow(4)
        pool.reset([(slot, TASKS[0]) for slot in range(4)])
    assert len(list(tmp_path.iterdir())) == 4
    assert 1 <= worker_pool._CLOSE_SECONDS <= 10


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, ask, said",
    [
        ({"fault": "hang"}, lambda p: p.step([(3, "boom")]), "slot 3: step('boom') gave no answer within 3 s"),
        (
            {"fault": "hang", "call": "reset"},
            lambda p: p.reset([(2, TASKS[1])]),
            "slot 2: reset('unruly/b') gave no answer within 3 s",
        ),
    ],
)
def test_what_is_waited_for_in_vain_is_named(options, ask, said):
    with closing(begun(HANGS, **options)) as pool:
        started = time.monotonic()
        (out,) = ask(pool)
        assert isinstance(out, EnvFailure)
        assert f"environment 'unruly', {said} (rollout.env_deadline)" in out.error
        assert HANGS <= time.monotonic() - started < 120.0
