"""`stapo eval --endpoint` and `--model`: frozen models get their row in the same table.

The server is a real one, `transformers serve`, on loopback with a tiny model. Its greedy answers are those of the same
model played in this process, so the two tables have to be equal.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time

import httpx2
import pytest
import yaml

from sick_server import SickServer, free_port, http
from stapo.cli.main import main
from stapo.config.presets import load_config
from stapo.policy import load_policy
from stapo.rollout.endpoint import EndpointSampler
from stapo.rollout.evaluate import EvalProtocol, evaluate
from stapo.rollout.text_codec import TextCodec
from stapo.training.factories import collector_of
from stapo.training.loop import build_collector
from toy_world import ToyEnv, small_policy, toy_settings

SAME = (
    "mode", "protocol", "split", "tasks", "episodes_per_seed", "temperature", "seeds", "environment", "episodes",
    "success", "success_by_seed", "success_std_over_seeds", "by_type", "mean_of_types", "episode_length",
    "success_standard_error", "valid_actions", "repeated_actions", "ineffective_actions", "step_limit", "task_score",
    "errors", "failures",
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of the same tiny model with and without a chat template, and settings for it."""
    folder = tmp_path_factory.mktemp("served")
    policy = small_policy(seed=3, architecture="llama")
    policy.save(folder / "plain")
    policy.tokenizer.chat_template = TEMPLATE
    policy.save(folder / "chat")
    settings = toy_settings(folder / "plain", agent__max_prompt_tokens=400)
    del settings["model"]["path"]
    (folder / "toy.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("fastapi", reason="the server of transformers is not installed (transformers[serving])")
    pytest.importorskip("openai", reason="the server of transformers is not installed (transformers[serving])")
    port = free_port()
    # It loads whatever folder a request names.
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--dtype", "float32"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the server has ended"
            try:
                httpx2.get(f"{url}/health", trust_env=False)
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        else:
            pytest.fail("the server did not start")
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(20)


def evaluated(capsys, *argv, status=0):
    assert main(["eval", *map(str, argv), "--json"]) == status
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("kind, api", [("chat", "chat"), ("plain", "completions")])
def test_the_table_of_a_server_is_that_of_the_same_model_here(models, server, capsys, kind, api):
    model = models / kind
    local = evaluated(capsys, models / "toy.yaml", "--model", model, "--greedy")
    argv = ["--endpoint", server, "--model", model, "--api", api, "--tokenizer", model, "--greedy", "--concurrency", 1]
    served = evaluated(capsys, models / "toy.yaml", *argv)
    assert {key: served[key] for key in SAME} == {key: local[key] for key in SAME}
    assert served["episodes"] == 6
    # A second try after an idle connection that the server closed is counted, too.
    assert served["requests"]["answered"] == 18
    assert (served["endpoint"], served["api"], served["model"]) == (server, api, str(model))
    assert (local["model"], local["settings"]) == (str(model), str(models / "toy.yaml"))


@pytest.mark.slow
def test_the_answers_behind_the_tables_are_the_same(models, server):
    """Equal tables could come of different texts; these may not differ in a character."""
    config = load_config(str(models / "toy.yaml"))
    local = build_collector(config, load_policy(str(models / "chat"), config.model))
    sampler = EndpointSampler(server, str(models / "chat"), config.agent.max_response_tokens)
    served = collector_of(config, TextCodec(), sampler)
    protocol = EvalProtocol("heldout", 0, 0.0, (0,))
    texts = [
        [(s.prompt, s.response, s.action, s.truncated) for t in played for s in t.steps]
        for played_by in (local, served)
        for played in evaluate(played_by, ToyEnv().tasks_of("heldout"), protocol)
    ]
    sampler.close()
    assert len(texts[0]) == 18
    assert any(response for _, response, _, _ in texts[0])
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_sampled_table_for_people(models, server, capsys):
    argv = [models / "toy.yaml", "--endpoint", server, "--model", models / "chat", "--seeds", 0, 1, "--episodes", 3]
    assert main(["eval", *map(str, argv), "--send-seeds"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == f"{models / 'chat'} at {server} (chat), frozen, settings of {models / 'toy.yaml'}"
    assert lines[1].startswith("protocol: 3 episodes on 3 of the 6 tasks of split 'heldout' per seed, 2 seeds (0, 1)")
    assert "requests: answered 18" in out


# A server that is not real is enough for what goes wrong.


@pytest.fixture
def refusing():
    reason = json.dumps({"error": {"message": "the model is not here"}}).encode()
    found = SickServer(lambda c, n, b: c.sendall(http("404 Not Found", reason)))
    yield found.url
    found.close()


def test_a_server_that_refuses_every_request_stops_the_evaluation(models, refusing, capsys):
    argv = ["eval", str(models / "toy.yaml"), "--endpoint", refusing, "--model", "m", "--episodes", "20"]
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert "16 episodes in a row failed" in err
    assert "boundary endpoint" in err
    assert "status 404, expected 200. It says: the model is not here" in err
    assert out == ""


def test_failed_episodes_are_counted_and_shown(models, refusing, capsys):
    argv = [models / "toy.yaml", "--endpoint", refusing, "--model", "m", "--greedy"]
    found = evaluated(capsys, *argv, status=1)
    assert (found["errors"], found["success"]) == (6, 0.0)
    assert found["stop_reasons"] == {"error": 6}
    assert "all 6 were ended by something else" in found["error"]
    assert found["failures"] == {"endpoint": 12}
    assert found["requests"] == {"http_404": 12}
    assert main(["eval", *map(str, argv)]) == 1
    out, err = capsys.readouterr()
    assert "failures by boundary, retried ones included: endpoint 12; lost: 6 episodes" in out
    assert "episodes ended: error 6" in out
    assert err.splitlines()[1].startswith("error: no episode says anything about the policy")
    assert "by boundary: endpoint 6" in err
    assert "It says: the model is not here" in err


@pytest.fixture
def answering():
    body = json.dumps({"choices": [{"message": {"content": "even"}, "finish_reason": "stop"}]}).encode()
    found = SickServer(lambda c, n, b: c.sendall(http("200 OK", body)))
    yield found
    found.close()


def test_prompts_that_are_all_too_long_are_an_error_that_names_the_setting(models, answering, capsys):
    argv = [models / "toy.yaml", "--endpoint", answering.url, "--model", "m", "--greedy"]
    short = [*argv, "--agent.max_prompt_tokens", 8]
    found = evaluated(capsys, *short, status=1)
    assert found["stop_reasons"] == {"prompt_too_long": 6}
    assert (found["success"], found["agent"]) == (0.0, {"max_prompt_tokens": 8})
    assert "agent.max_prompt_tokens is 8" in found["error"]
    assert answering.bodies == [{}]  # the list of models, and no prompt
    assert main(["eval", *map(str, short)]) == 1
    out, err = capsys.readouterr()
    assert "episodes ended: prompt_too_long 6" in out
    assert "agent.max_prompt_tokens 8" in out.splitlines()[1]
    assert err.count("\n") == 2
    proposed = re.search(r"Give (--agent.max_prompt_tokens) ([0-9]+) or more", err)
    found = evaluated(capsys, *argv, *proposed.groups())
    assert sum(found["stop_reasons"].values()) == 6
    assert "prompt_too_long" not in found["stop_reasons"]
    assert "error" not in found


def test_some_episodes_of_the_policy_make_a_result(models, capsys):
    """Too long for one task alone: said, and no error."""
    guard, asked = threading.Lock(), []

    def behave(connection, number, body):
        with guard:
            asked.append(number)
        bad = http("404 Not Found", b"") if "blue" in str(body) else None
        said = json.dumps({"choices": [{"message": {"content": "even"}}]}).encode()
        connection.sendall(bad or http("200 OK", said))

    server = SickServer(behave)
    assert main(["eval", str(models / "toy.yaml"), "--endpoint", server.url, "--model", "m", "--greedy"]) == 0
    out, err = capsys.readouterr()
    server.close()
    assert "1 of 6 episodes ended by something else than the policy" in out
    assert "episodes ended: " in out
    assert "error 1" in out
    assert err.count("\n") == 1
    assert err.startswith(
        "whether the server's chat template opens a thought is not known here; --tokenizer NAME tells"
    )


def test_settings_of_the_agent_reach_the_prompts(models, answering, capsys):
    argv = [models / "toy.yaml", "--endpoint", answering.url, "--model", "m", "--greedy"]
    found = evaluated(capsys, *argv, "--agent.prompt=standard", "--agent.history-length", 0)
    assert found["agent"] == {"prompt": "standard", "history_length": 0}
    assert all(b["messages"][0]["content"].startswith("You reach a goal by giving one") for b in answering.bodies[1:])
    assert "agent" not in evaluated(capsys, *argv)


def test_a_frozen_model_under_the_settings_of_a_run(models, capsys, tmp_path):
    settings = toy_settings(models / "plain", agent__max_prompt_tokens=400, optim__iterations=0)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", str(tmp_path / "toy.yaml"), "--quiet", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    own = evaluated(capsys, tmp_path / "run", "--greedy")
    other = evaluated(capsys, tmp_path / "run", "--greedy", "--model", models / "plain")
    preset = evaluated(capsys, tmp_path / "toy.yaml", "--greedy")
    assert {k: own[k] for k in SAME} == {k: other[k] for k in SAME} == {k: preset[k] for k in SAME}
    assert (own["checkpoint"], other["model"]) == ("final", str(models / "plain"))


@pytest.mark.parametrize(
    "argv, said",
    [
        (["SETTINGS"], "names no pretrained model; say which with --model FOLDER"),
        (["SETTINGS", "--endpoint", "http://127.0.0.1:1/v1"], "--endpoint needs --model NAME"),
        (["SETTINGS", "--model", "m", "--api", "chat"], "--api is for --endpoint URL, which is not given"),
        (["SETTINGS", "--model", "m", "--send-seeds"], "--send-seeds is for --endpoint URL"),
        (["SETTINGS", "--model", "nowhere/at/all"], "model folder 'nowhere/at/all' does not exist"),
        (["webshop-1000", "--model", "MODEL"], "has no chat template, but the prompts of this run"),
        (["SETTINGS", "--model", "MODEL", "--checkpoint", "final"], "--checkpoint and --model exclude each other"),
        (["SETTINGS", "--model", "MODEL", "--save"], "--save is for a run's own policy"),
        (["SETTINGS", "--checkpoint", "final"], "--checkpoint is for a run directory"),
        (["tny", "--model", "MODEL"], "unknown preset or file 'tny'. Did you mean 'tiny'?"),
        (["SETTINGS", "--endpoint", "nonsense", "--model", "m"], "endpoint 'nonsense' is not an address"),
        (["SETTINGS", "--endpoint", "http://127.0.0.1:1", "--model", "m", "--api", "chta"], "Did you mean 'chat'?"),
        (["SETTINGS", "--endpoint", "http://127.0.0.1:1", "--model", "m", "--concurrency", "0"], "of 1 or more"),
        (["SETTINGS", "--endpoint", "http://127.0.0.1:1", "--model", "m", "--timeout", "0"], "seconds above 0"),
        (["SETTINGS", "--endpoint", "http://127.0.0.1:1", "--model", "m", "--attempts", "1"], "Is it running?"),
        (["SETTINGS", "--endpiont", "http://127.0.0.1:1"], "Did you mean '--endpoint'?"),
    ],
)
def test_wrong_input_is_one_line(models, capsys, argv, said):
    places = {"SETTINGS": str(models / "toy.yaml"), "MODEL": str(models / "plain")}
    assert main(["eval", *(places.get(word, word) for word in argv)]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, err.count("\n")) == ("", 1)
