"""The eval command of verifiers on our environments: our taskset, and theirs for servers of the OpenEnv protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stapo

pytest.importorskip("verifiers.v1", reason="verifiers is in an environment of its own: make test-verifiers")
from pydantic import ValidationError
from stapo_text import StapoTextConfig

from scripted_endpoint import endpoint

OPTIONS = {"levels": 40}


def evaluate(folder, base_url, *argv):
    """Runs `vf-eval`; returns its exit code, what it wrote, and the finished episodes by the name of their task."""
    programs = Path(sys.executable).parent
    command = [
        str(programs / "vf-eval"), *argv, "-m", "scripted", "--client.base-url", base_url,
        "--client.api-key-var", "NO_KEY", "--no-push", "--no-rich", "--output-dir", str(folder), "--run.name", "run",
    ]  # fmt: skip
    # verifiers starts its programs with uv.
    env = {**os.environ, "NO_KEY": "none", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=1200)
    traces = folder / "run" / "traces.jsonl"
    found = [json.loads(line) for line in traces.read_text().splitlines()] if traces.exists() else []
    return done.returncode, done.stdout + done.stderr, {one["task"]["data"]["name"]: one for one in found}


def of(episode):
    """Return, metrics and number of turns of an episode with one player."""
    (trace,) = episode["traces"]
    assert not episode["errors"]
    assert not trace["errors"]
    rewards = {name: reward["score"] for name, reward in trace["rewards"].items()}
    return rewards, trace["metrics"], sum(node["sampled"] for node in trace["nodes"])


def plans():
    """The expert's plan for each held-out room, by what is seen first, and its return by the task's name."""
    env = stapo.make("sokoban", **OPTIONS)
    moves, returns = {}, {}
    for task in env.tasks_of("heldout"):
        first = env.reset(task)
        moves[first.text] = env.expert_plan()
        returns[task] = (sum(env.step(move).reward for move in moves[first.text]), len(moves[first.text]))
    return moves, returns


def test_an_expert_behind_an_endpoint_wins_and_gets_the_environments_return(tmp_path):
    moves, returns = plans()

    def answer(messages):
        shown = next(message["content"] for message in messages if message["role"] == "user")
        plan = next(plan for text, plan in moves.items() if text in shown)
        return f"<think>up, perhaps?</think> <action>{plan[sum(m['role'] == 'assistant' for m in messages)]}</action>"

    with endpoint(answer) as url:
        code, wrote, found = evaluate(
            tmp_path, url, "stapo-text", "--env.taskset.split", "heldout", "--env.taskset.options", json.dumps(OPTIONS),
            "-n", "3",
        )  # fmt: skip
    assert code == 0, wrote
    assert len(found) == 3
    for name, episode in found.items():
        expected, steps = returns[name]
        rewards, metrics, turns = of(episode)
        assert rewards == {"episode_return": pytest.approx(expected)}
        assert metrics["won"] == 1.0
        assert metrics["steps"] == turns == steps


def test_one_that_wanders_loses_at_the_step_limit(tmp_path):
    with endpoint(lambda messages: "I would rather not.") as url:
        code, wrote, found = evaluate(
            tmp_path, url, "stapo-text", "--env.taskset.options", json.dumps({**OPTIONS, "max_steps": 4}), "-n", "1",
        )  # fmt: skip
    assert code == 0, wrote
    (episode,) = found.values()
    rewards, metrics, turns = of(episode)
    assert rewards == {"episode_return": pytest.approx(-0.4)}
    assert (metrics["won"], metrics["steps"], turns) == (0.0, 4.0, 4)


@pytest.mark.parametrize("wrong, said", [
    ({"environment": "sokobann"}, "Did you mean 'sokoban'?"),
    ({"options": {"boxs": 2}}, "Did you mean 'boxes'?"),
    ({"options": {"boxes": 9}}, "boxes is 9, expected a whole number from 1 to 3"),
    ({"split": "test"}, "unknown split 'test'"),
    ({"sead": 1}, "sead"),
])  # fmt: skip
def test_what_cannot_be_played_is_no_taskset(wrong, said):
    with pytest.raises(ValidationError) as caught:
        StapoTextConfig(id="stapo-text", **wrong)
    assert said in str(caught.value)


def test_the_command_says_what_cannot_be_played_before_anything_runs(tmp_path):
    code, wrote, found = evaluate(
        tmp_path, "http://127.0.0.1:9/v1", "stapo-text", "--env.taskset.environment", "sokobann"
    )
    assert code != 0
    assert "Did you mean 'sokoban'?" in " ".join(wrote.replace("│", " ").split())
    assert "Traceback" not in wrote
    assert not found


THEIRS = """
[env.taskset]
id = "openenv"
base_url = "http://{address}"
resets = [{resets}]

[env.player.harness]
id = "null"

[env.player.runtime]
type = "subprocess"
"""


def test_their_taskset_for_openenv_plays_on_our_server(tmp_path):
    """The observation reaches the model as JSON, the response is the command."""
    moves, returns = plans()
    command = [sys.executable, "-m", "stapo", "serve-env", "sokoban", "--env.levels", "40", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split("on ws://")[1].split()[0].removesuffix("/ws")

        def answer(messages):
            shown = next(message["content"] for message in messages if message["role"] == "user")
            plan = moves[json.loads(shown)["observation"]["text"]]
            return plan[sum(message["role"] == "assistant" for message in messages)]

        tasks = sorted(returns)[:2]
        resets = ", ".join(f'{{task_id = "{task}"}}' for task in tasks)
        settings = tmp_path / "openenv.toml"
        settings.write_text(THEIRS.format(address=address, resets=resets))
        with endpoint(answer) as url:
            code, wrote, found = evaluate(tmp_path, url, "@", str(settings))
        assert code == 0, wrote
        got = [of(episode)[0]["openenv_reward"] for _, episode in sorted(found.items())]
        assert got == [pytest.approx(returns[task][0]) for task in tasks]
    finally:
        server.terminate()
        assert server.wait(60) == 143
