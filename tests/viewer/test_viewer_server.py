"""The server answers this machine's pages, reads the runs that it was given, and nothing else; it writes nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hostile_runs import TEXT, with_hostile_texts

from stapo import texts
from stapo.cli.main import main
from stapo.texts import escape_control_chars
from stapo.viewer.pages import columns

SECRET = "not for pages"


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def first_iteration(server):
    return server.api("run", run="toy")["transcripts"][0]


def first_trajectory(server):
    at = first_iteration(server)
    group = server.api("iteration", run="toy", iteration=at)["groups"][0]
    return {"iteration": at, "group": group["group"], "member": group["members"][0]["member"]}


def test_a_run_from_list_to_step(view, runs):
    server = view(runs)
    (entry,) = server.api("runs")["runs"]
    assert (entry["name"], entry["status"], entry["done"]) == ("toy", "done", 2)
    page = server.api("run", run="toy")
    assert page["columns"]["iteration"] == [1, 2]
    assert {f["key"] for f in page["figures"]} >= {"success", "entropy", "seconds"}
    iteration = server.api("iteration", run="toy", iteration=page["transcripts"][0])
    group = iteration["groups"][0]
    member = group["members"][0]
    place = {"iteration": iteration["iteration"], "group": group["group"], "member": member["member"]}
    line = server.api("record", run="toy", **place)
    assert [s["action"] for s in line["steps"]] == [s["action"] for s in member["steps"]]
    step = server.api("step", run="toy", step=1, **place)["step"]
    assert step["blind_prompt"] == line["steps"][1]["blind_prompt"]
    assert "prompt" not in member["steps"][1]


def test_a_record_is_cleaned_as_the_page_of_a_step_is(view, runs):
    with_hostile_texts(runs / "toy")
    server = view(runs)
    place = first_trajectory(server)
    body = server.raw(f"/api/record?run=toy&{urlencode(place)}")[2].decode()
    record, shown = json.loads(body), server.api("step", run="toy", step=0, **place)
    step = record["steps"][0]
    assert step["response"] == shown["step"]["response"] == escape_control_chars(TEXT)
    assert record["goal"] == shown["group"]["goal"] == step["admissible"][0] == step["response"]
    assert not {"\u202e", "\x1b", "\x07"} & set(body + "".join(record["frame"]))


def test_nothing_is_written(view, runs):
    before = snapshot(runs)
    server = view(runs)
    at = first_iteration(server)
    for path in ("runs", "run?run=toy", "version?run=toy", f"iteration?run=toy&iteration={at}"):
        assert server.raw(f"/api/{path}")[0] == 200
    assert snapshot(runs) == before


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_get(view, runs, method):
    assert view(runs).raw("/api/runs", method)[0] == 405


def test_other_sites_are_refused(view, runs):
    server = view(runs)
    assert server.raw("/api/runs", Host="evil.example")[0] == 400
    assert server.raw("/api/runs", Host=f"localhost:{server.port}")[0] == 200
    assert server.raw("/api/runs", Origin="http://evil.example")[0] == 403
    assert server.raw("/api/runs", Sec_Fetch_Site="cross-site")[0] == 403
    assert server.raw("/api/runs", Origin=server.url.rstrip("/"))[0] == 200


def test_a_link_on_another_site_opens_the_page_and_no_data(view, runs):
    server = view(runs)
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert server.raw("/", **followed)[0] == 200
    assert server.raw("/api/runs", **followed)[0] == 403
    assert server.raw("/", **{**followed, "Sec_Fetch_Dest": "iframe"})[0] == 403
    assert server.raw("/", **followed, Origin="http://evil.example")[0] == 403
    assert server.raw("/", **followed, Host="evil.example")[0] == 400


def test_a_config_without_an_end_is_a_remark(view, runs):
    os.truncate(runs / "toy" / "config.yaml", 1 << 40)
    page = view(runs).api("run", run="toy")
    assert any("config.yaml cannot be read" in said for said in page["remarks"])
    assert page["columns"]["iteration"] == [1, 2]


def test_a_secret_is_not_shown_token_by_token(view, runs, monkeypatch):
    server = view(runs)
    place = {**first_trajectory(server), "step": 0}
    step = server.api("step", run="toy", **place)["step"]
    assert len(step["tokens_of_response"]) > 0
    assert len(step["response"]) >= 4
    monkeypatch.setattr(texts, "_secrets", texts._Secrets())
    texts.remember_secret(step["response"])
    hidden = server.api("step", run="toy", **place)["step"]
    assert step["response"] not in hidden["response"]
    assert hidden["tokens_of_response"] == []
    assert "holds a secret" in hidden["remarks"][0]


def test_rows_of_a_generation_that_is_over_come_from_the_first_on(view, runs):
    server = view(runs)
    server.api("table_state", run="toy")

    def first_row(generation: int) -> int:
        body = server.raw(f"/api/table?run=toy&first=3&generation={generation}")[2]
        return json.loads(body[4 : 4 + int.from_bytes(body[:4], "little")])["first_row"]

    assert (first_row(0), first_row(1)) == (3, 0)


def test_rows_with_names_of_their_own_cost_no_more_memory():
    found = columns([{f"name {i} {k}": k for k in range(1_000)} for i in range(5)])
    assert len(found) == 2_000
    assert found["name 1 7"] == [None, 7, None, None, None]


def test_every_answer_has_the_policy(view, runs):
    server = view(runs)
    for path, status in (
        ("/", 200),
        ("/static/app.js", 200),
        ("/api/runs", 200),
        ("/api/run?run=no", 404),
        ("/no", 404),
    ):
        found, headers, body = server.raw(path)
        assert found == status
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert b"Traceback" not in body
    assert b"<script>" not in server.raw("/")[2]


OUTSIDE = ["..", "../secret", "toy/..", "toy/../../secret", "/etc", "%2e%2e", "..%2fsecret", "toy/transcripts", "."]


@pytest.mark.parametrize("name", [*OUTSIDE, "{tmp}", "toy\0", "x" * 5000])
def test_paths_are_not_names(view, runs, tmp_path, name):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "run.json").write_text(SECRET)
    server = view(runs)
    for path in ("run", "version"):
        for given in (name, quote(name, safe="")):
            status, _, body = server.raw(f"/api/{path}?run={quote(given.replace('{tmp}', str(tmp_path)), safe='')}")
            assert (status, SECRET in body.decode()) == (404, False)


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_only_built_files_are_served(view, runs, path):
    status, _, body = view(runs).raw(f"/static/{path}")
    assert status == 404
    assert b"import" not in body
    assert b"root:" not in body


@pytest.mark.parametrize(
    "query", ["", "iteration=", "iteration=-1", "iteration=1e3", "iteration=١", "iteration=" + "9" * 400]
)
def test_numbers_are_checked(view, runs, query):
    status, _, body = view(runs).raw(f"/api/iteration?run=toy&{quote(query, safe='=&')}")
    assert status == 400
    assert b"whole number" in body


@pytest.mark.parametrize("what", ["transcripts", "metrics.jsonl", "transcripts/iteration-00001.jsonl", "run"])
def test_links_are_not_followed(view, runs, tmp_path, what):
    outside = tmp_path / "outside"
    target = runs / "toy" if what == "run" else runs / "toy" / what
    target.rename(outside)
    target.symlink_to(outside)
    server = view(runs)
    status, _, body = server.raw("/api/run?run=toy")
    assert status == 404
    assert what == "run" or b"symbolic link" in body


def test_a_damaged_run_costs_its_own_pages_alone(view, runs, toy_run):
    broken = runs / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    (broken / "config.yaml").write_text("a: [")
    transcript = sorted((runs / "toy" / "transcripts").iterdir())[0]
    lines = transcript.read_bytes().splitlines(keepends=True)
    transcript.write_bytes(lines[0] + b'{"iteration": 1, "steps": "odd"}\n' + lines[1][:40])
    server = view(runs)
    listed = {entry["name"]: entry["status"] for entry in server.api("runs")["runs"]}
    assert listed == {"broken": "damaged", "toy": "done"}
    status, _, body = server.raw("/api/run?run=broken")
    assert status == 404
    assert b"cannot be read" in body
    found = server.api("iteration", run="toy", iteration=first_iteration(server))
    assert [len(group["members"]) for group in found["groups"]] == [1]
    assert "another form" in found["remarks"][0]


def test_a_running_run_grows_and_is_not_touched(view, runs):
    from stapo.run import RunDirectory

    run = RunDirectory(runs / "toy")
    run.write_info({**run.info(), "status": "running"})
    server = view(runs)
    with run.lock():
        before = server.api("version", run="toy")
        assert before["status"] == "running"
        row = {**run.rows("metrics")[-1], "iteration": 3}
        run.append("metrics", row)
        after = server.api("version", run="toy")
        assert after["version"] != before["version"]
        assert server.api("run", run="toy")["columns"]["iteration"] == [1, 2, 3]
        assert (runs / "toy" / ".lock").read_text() == f"{os.getpid()}\n"
    assert server.api("version", run="toy")["status"] == "killed"


def test_texts_are_shown_and_do_not_act(view, runs):
    transcript = sorted((runs / "toy" / "transcripts").iterdir())[0]
    record = json.loads(transcript.read_text().splitlines()[0])
    record["steps"][0] |= {"observation": "\u202eevil\x1b[31m \ud800 " + "x" * 3_000_000, "entropy": float("nan")}
    transcript.write_text(json.dumps(record) + "\n")
    server = view(runs)
    at = first_iteration(server)
    step = server.api("iteration", run="toy", iteration=at)["groups"][0]["members"][0]["steps"][0]
    assert step["observation"].startswith(r"\u{202e}evil\u{1b}[31m \u{d800} xxx")
    assert step["observation"].endswith("more characters in the transcript file)")
    assert len(step["observation"]) < 2_000
    assert step["entropy"] is None
    place = {"iteration": at, "group": record["group"], "member": record["member"], "step": 0}
    assert len(server.api("step", run="toy", **place)["step"]["observation"]) < 250_000


def test_more_steps_than_fit_on_a_page(view, runs):
    transcript = sorted((runs / "toy" / "transcripts").iterdir())[0]
    first = json.loads(transcript.read_text().splitlines()[0])
    step = {key: first["steps"][0][key] for key in ("action", "observation", "response", "prompt", "blind_prompt")}
    long = {**first, "group": 0, "steps": [step | {"step": k, "action": f"act {k}"} for k in range(30_000)]}
    other = {**first, "group": 1, "steps": [step | {"step": 0}]}
    transcript.write_text(f"{json.dumps(long)}\n{json.dumps(other)}\n")
    server = view(runs)
    at = first_iteration(server)
    found = server.api("iteration", run="toy", iteration=at)
    assert [(len(m["steps"]), m["length"]) for g in found["groups"] for m in g["members"]] == [(20_000, 30_000)]
    assert "10,001 steps did not fit" in found["remarks"][0]
    place = {"iteration": at, "member": first["member"]}
    assert server.api("step", run="toy", group=0, step=25_000, **place)["step"]["action"] == "act 25000"
    answer = server.api("step", run="toy", group=1, step=0, **place)
    assert (answer["group"]["goal"], answer["member"]["length"]) == (first["goal"], 1)


def test_a_token_is_asked_for(view, runs):
    server = view(runs, token="sesame")
    assert server.raw("/")[0] == 200
    assert server.raw("/api/runs")[0] == 401
    assert server.raw("/api/runs", Authorization="Bearer wrong")[0] == 401
    assert server.raw("/api/runs", Authorization="Bearer sesame", Host="anything.example")[0] == 200


def test_several_folders_have_names_of_their_own(view, runs, toy_run):
    names = [entry["name"] for entry in view(runs, toy_run, runs / "toy").api("runs")["runs"]]
    assert names == ["runs/toy", "run", "toy"]


@pytest.fixture
def many(toy_run, tmp_path):
    """A folder of 300 runs."""
    for number in range(300):
        folder = tmp_path / "many" / f"run-{number:03d}"
        folder.mkdir(parents=True)
        for name in ("run.json", "metrics.jsonl", "evals.jsonl"):
            (folder / name).write_bytes((toy_run / name).read_bytes())
        (folder / "config.yaml").write_text("algorithm: {name: stapo}\noptim: {iterations: 2}\n")
    return tmp_path / "many"


def test_hundreds_of_runs_are_listed(view, many):
    server = view(many)
    # A list takes a second at most; runs that are not read by then follow with the next one.
    while any(entry["status"] == "reading" for entry in server.api("runs")["runs"]):
        time.sleep(1)
    listed = server.api("runs")["runs"]
    assert [entry["name"] for entry in listed] == [f"run-{number:03d}" for number in range(300)]
    assert {(entry["status"], entry["done"], entry["planned"]) for entry in listed} == {("done", 2, 2)}


def test_a_long_list_comes_in_parts(many):
    from stapo.viewer.catalog import Catalog

    now = 0.0

    def clock():
        nonlocal now
        now += 0.01
        return now

    catalog = Catalog([many], clock)
    statuses = []
    for _ in range(4):
        statuses.append([entry.found.status for entry in catalog.entries()])
        now += 10
    read = [sum(status == "done" for status in one) for one in statuses]
    assert 0 < read[0] < read[1]
    assert read[-1] == 300
    assert all(len(one) == 300 for one in statuses)


def test_the_command(runs):
    command = [sys.executable, "-m", "stapo", "view", str(runs), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        port = int(url.rpartition(":")[2].rstrip("/"))
        with socket.create_connection(("127.0.0.1", port), timeout=300) as raw:
            raw.sendall(b"GET /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert b'"name":"toy"' in answer
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=300) == 130
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()


@pytest.mark.parametrize(
    "args, said",
    [
        (["no-such-folder"], "'no-such-folder' is not a folder"),
        (["--host", "0.0.0.0"], "needs a token"),
        (["--port", "70000"], "expected 0 to 65535"),
        (["--prot", "1"], "Did you mean '--port'"),
    ],
)
def test_wrong_input(runs, monkeypatch, capsys, args, said):
    monkeypatch.chdir(runs.parent)
    assert main(["view", *args, "--no-browser"]) == 2
    assert said in capsys.readouterr().err


def test_the_extra_is_named(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert main(["view", str(runs), "--no-browser"]) == 2
    assert "pip install '.[server]'" in capsys.readouterr().err
