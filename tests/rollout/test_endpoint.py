"""A server that speaks OpenAI's protocol, as a sampler: what is sent, what is read, and what a failure costs."""

from __future__ import annotations

import json
import math
import threading
import time

import pytest

from sick_server import SickServer, free_port, http
from stapo.agent import RESPONSE_BEGINS, AgentConfig
from stapo.calls import CallOptions
from stapo.envs.guard import Trouble
from stapo.errors import ConfigError, EndpointError, FailureLimitError
from stapo.rollout.collect import Collector
from stapo.rollout.endpoint import EndpointSampler, read_answer
from stapo.rollout.evaluate import Protocol, evaluate, summarise
from stapo.rollout.faults import Boundary
from stapo.rollout.spelled import END, SpelledText, spell, unspell
from stapo.rollout.types import StopReason
from toy_world import ToyEnv, small_policy

FAST = CallOptions(connect_s=0.5, read_s=2.0, total_s=3.0, attempts=3, backoff_s=0.01, connections=4)
AGENT = AgentConfig(prompt="compact", response="action", history_length=1, max_prompt_tokens=200, max_response_tokens=6)


def chat(content, finish="stop", **more):
    message = {"role": "assistant", "content": content, **more}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}]}).encode()


def ok(content, finish="stop", **more):
    return http("200 OK", chat(content, finish, **more), "Content-Type: application/json")


def error(status, message):
    return http(status, json.dumps({"error": {"message": message}}).encode(), "Content-Type: application/json")


@pytest.fixture
def serve():
    servers = []

    def start(behave):
        servers.append(SickServer(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def sampler(server_or_url, model="m", **settings):
    url = server_or_url if isinstance(server_or_url, str) else server_or_url.url + "/v1"
    return EndpointSampler(url, model, 6, **{"options": FAST, **settings})


def ask(asked, *prompts, temperature=0.0):
    return asked.sample([spell(p) for p in prompts], [(0, 7, i, 0, 0) for i in range(len(prompts))], temperature)


# What is sent.


def test_chat_sends_one_user_message(serve):
    server = serve(lambda c, n, b: c.sendall(ok("look")))
    ask(sampler(server, "tiny"), "Prompt: 日本\n>", temperature=0.4)
    assert server.heads[0].startswith("POST /v1/chat/completions HTTP/1.1")
    assert server.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Prompt: 日本\n>"}],
            "temperature": 0.4,
            "top_p": 1.0,
            "stream": False,
            "max_tokens": 6,
        }
    ]


def test_completions_send_the_prompt_as_it_stands(serve):
    answer = json.dumps({"choices": [{"text": " look", "finish_reason": "length"}]}).encode()
    server = serve(lambda c, n, b: c.sendall(http("200 OK", answer)))
    (sample,) = ask(sampler(server, api="completions"), "Rules" + RESPONSE_BEGINS + "so far")
    assert server.heads[0].startswith("POST /v1/completions HTTP/1.1")
    assert server.bodies[0]["prompt"] == "Rulesso far"
    assert (unspell(sample.ids), sample.ended) == (" look", False)


def test_the_beginning_of_a_response_goes_into_the_message_of_a_chat(serve):
    server = serve(lambda c, n, b: c.sendall(ok("look")))
    ask(sampler(server), "Rules" + RESPONSE_BEGINS + "so far")
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Rules\nso far"}]


def test_seeds_are_sent_when_asked_for_and_belong_to_the_stream(serve):
    server = serve(lambda c, n, b: c.sendall(ok("look")))
    asked = sampler(server, send_seeds=True, options=CallOptions(connections=1))
    ask(asked, "a", "b", temperature=1.0)
    ask(asked, "a", "b", temperature=1.0)
    ask(asked, "a", temperature=0.0)
    seeds = [body.get("seed") for body in server.bodies]
    assert seeds[:2] == seeds[2:4]
    assert seeds[0] != seeds[1]
    assert all(0 <= seed < 2**31 for seed in seeds[:4])
    assert seeds[4] is None


def test_the_newer_name_of_the_length_limit_is_learned(serve):
    def behave(connection, number, body):
        if "max_tokens" in body:
            connection.sendall(error("400 Bad", "'max_tokens' is not supported; use 'max_completion_tokens'."))
        else:
            connection.sendall(ok(f"limit {body['max_completion_tokens']}"))

    server = serve(behave)
    asked = sampler(server)
    assert [unspell(s.ids) for s in ask(asked, "a", "b")] == ["limit 6", "limit 6"]
    assert [unspell(s.ids) for s in ask(asked, "c")] == ["limit 6"]
    assert len(server.bodies) == 5


def test_no_more_requests_at_once_than_allowed(serve):
    guard, now, most = threading.Lock(), [0], [0]

    def behave(connection, number, body):
        with guard:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with guard:
            now[0] -= 1
        connection.sendall(ok(body["messages"][0]["content"]))

    answers = ask(sampler(serve(behave)), *map(str, range(12)))
    assert [unspell(a.ids) for a in answers] == [str(i) for i in range(12)]
    assert most[0] == 4


def test_waiting_for_a_turn_is_not_held_against_a_request(serve):
    server = serve(lambda c, n, b: (time.sleep(0.3), c.sendall(ok("look"))))
    options = CallOptions(read_s=1.0, total_s=0.8, connections=1)
    answers = ask(sampler(server, options=options), "a", "b", "c", "d")
    assert [unspell(a.ids) for a in answers] == ["look"] * 4


# What is read.


def test_responses_are_text_without_numbers(serve):
    server = serve(lambda c, n, b: c.sendall(ok("go 日本")))
    (sample,) = ask(sampler(server), "p")
    assert sample.ids == [*map(ord, "go 日本"), END]
    assert sample.ended
    assert len(sample.logprobs) == len(sample.entropies) == len(sample.ids)
    assert all(map(math.isnan, sample.logprobs + sample.entropies))


@pytest.mark.parametrize(
    "message, text",
    [
        ({"content": "a"}, "a"),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": "b", "reasoning_content": "why"}, "<think>why</think>b"),
        ({"content": "b", "reasoning": "why"}, "<think>why</think>b"),
        ({"content": "<think>x</think>b", "reasoning_content": "why"}, "<think>x</think>b"),
    ],
)
def test_what_the_model_wrote(message, text):
    assert read_answer(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode(), "chat") == (
        text,
        True,
    )


def test_an_empty_response_is_a_response(serve):
    (sample,) = ask(sampler(serve(lambda c, n, b: c.sendall(ok("", "length")))), "p")
    assert (sample.ids, sample.ended) == ([END], False)


@pytest.mark.parametrize(
    "body, said",
    [
        (b"<html>", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "a document without choices[0].message"),
        (b'{"choices": []}', "a document without choices[0].message"),
        (b'{"choices": [{"message": 5}]}', "a document without choices[0].message"),
        (b'{"choices": [{"message": {"content": 5}}]}', "content that is no text"),
    ],
)
def test_malformed_answers_are_failures_of_the_endpoint(serve, body, said):
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", body))))
    (trouble,) = ask(asked, "p")
    assert isinstance(trouble, Trouble)
    assert trouble.boundary == Boundary.ENDPOINT
    assert said in trouble.error
    assert asked.counts == {"malformed": 1}


# What fails.


def test_one_failed_request_is_one_trouble(serve):
    def behave(connection, number, body):
        bad = body["messages"][0]["content"] == "bad"
        connection.sendall(error("400 Bad", "context too long") if bad else ok("look"))

    asked = sampler(serve(behave))
    first, second, third = ask(asked, "fine", "bad", "fine")
    assert unspell(first.ids) == unspell(third.ids) == "look"
    assert second.boundary == Boundary.ENDPOINT
    assert "status 400, expected 200. It says: context too long" in second.error
    assert asked.counts == {"answered": 2, "http_400": 1}


@pytest.mark.parametrize("status", ["429 Slow down", "503 Busy", "408 Late"])
def test_what_may_pass_is_tried_again(serve, status):
    asked = sampler(serve(lambda c, n, b: c.sendall(error(status, "later") if n < 3 else ok("look"))))
    (sample,) = ask(asked, "p")
    assert unspell(sample.ids) == "look"
    assert asked.counts == {f"http_{status[:3]}": 2, "answered": 1}


def test_a_pause_that_the_server_asks_for_is_kept(serve):
    server = serve(lambda c, n, b: c.sendall(http("429 Slow", b"", "Retry-After: 1") if n < 2 else ok("look")))
    start = time.monotonic()
    ask(sampler(server), "p")
    assert time.monotonic() - start >= 1


def test_a_pause_does_not_outlast_the_deadline(serve):
    server = serve(lambda c, n, b: c.sendall(http("429 Slow", b"", "Retry-After: 9999")))
    (trouble,) = ask(sampler(server, options=CallOptions(total_s=0.5)), "p")
    assert "no more time after 0.5 s" in trouble.error


def test_nothing_of_the_key_is_said(serve, monkeypatch):
    monkeypatch.setenv("STAPO_API_KEY", "sk-secret")
    server = serve(lambda c, n, b: c.sendall(error("401 No", "Incorrect API key provided: sk-secret.")))
    asked = sampler(server)
    (trouble,) = ask(asked, "p")
    assert "Authorization: Bearer sk-secret".lower() in server.heads[0].lower()
    assert "Incorrect API key provided: ***." in trouble.error
    with pytest.raises(EndpointError, match="wants another API key") as caught:
        asked.check()
    assert "sk-secret" not in str(caught.value) + repr(vars(asked))


def test_the_key_comes_from_the_variable_that_is_named(serve, monkeypatch):
    monkeypatch.delenv("STAPO_API_KEY", raising=False)
    monkeypatch.setenv("OTHER_KEY", "k2")
    server = serve(lambda c, n, b: c.sendall(ok("look")))
    ask(sampler(server), "p")
    ask(sampler(server, key_variable="OTHER_KEY"), "p")
    assert "authorization" not in server.heads[0].lower()
    assert "authorization: bearer k2" in server.heads[1].lower()


def test_check_finds_a_server_that_is_not_there():
    with pytest.raises(EndpointError, match="Is it running") as caught:
        sampler(f"http://127.0.0.1:{free_port()}/v1").check()
    assert caught.value.kind == "refused"


@pytest.mark.parametrize("answer", [http("404 Not Found", b""), http("200 OK", b'{"data": []}')])
def test_check_lets_servers_without_a_list_pass(serve, answer):
    server = serve(lambda c, n, b: c.sendall(answer))
    sampler(server).check()
    assert server.heads[0].startswith("GET /v1/models ")


@pytest.mark.parametrize(
    "url, settings, said",
    [
        ("ftp://x", {}, "is no address"),
        ("http://user:pass@x/v1", {}, "holds a password"),
        ("http://x/v1", {"api": "chta"}, "api is 'chta', expected one of chat, completions. Did you mean 'chat'"),
        ("http://x/v1", {"model": ""}, "has no name"),
    ],
)
def test_settings_are_checked(url, settings, said):
    with pytest.raises(ConfigError, match=said) as caught:
        EndpointSampler(url, settings.pop("model", "m"), 6, **settings)
    assert "pass@" not in str(caught.value)


# Episodes.


def collector(asked, **settings):
    return Collector(ToyEnv, SpelledText(), asked, AGENT, **settings)


def play(played_by, episodes=6):
    return evaluate(played_by, ToyEnv().tasks_of("heldout"), Protocol("heldout", episodes, 0.0, (0,)))


def test_episodes_are_played(serve):
    """Sayings of an even number of characters win; see `ToyEnv`."""
    server = serve(lambda c, n, b: c.sendall(ok("odd" if "blue" in b["messages"][0]["content"] else "even")))
    (trajectories,) = play(collector(sampler(server)))
    assert [t.won for t in trajectories] == ["blue" not in t.task_id for t in trajectories]
    assert {s.action for t in trajectories for s in t.steps} == {"odd", "even"}
    assert summarise([trajectories])["errors"] == 0


def test_a_failure_costs_one_episode_under_its_own_boundary(serve):
    def behave(connection, number, body):
        blue = "blue" in body["messages"][0]["content"]
        connection.sendall(error("400 Bad", "no blue here") if blue else ok("even"))

    server = serve(behave)
    played_by = collector(sampler(server), retries=1)
    (trajectories,) = play(played_by)
    lost = [t for t in trajectories if t.stop_reason is StopReason.ERROR]
    assert [t.task_id for t in lost] == ["toy/heldout/blue"]
    assert lost[0].failure.boundary is Boundary.ENDPOINT
    assert sum(t.won for t in trajectories) == 5
    assert [(f.boundary, f.attempt) for f in played_by.take_failures()] == [("endpoint", 1), ("endpoint", 2)]


def test_repeated_failures_stop_with_the_last_error(serve):
    server = serve(lambda c, n, b: c.sendall(error("404 Not Found", "model 'm' does not exist")))
    with pytest.raises(FailureLimitError, match=r"boundary endpoint: .*It says: model 'm' does not exist"):
        play(collector(sampler(server), max_failures=3))


def test_prompts_are_counted_in_tokens_where_there_is_a_tokenizer():
    policy = small_policy()
    text = "now The judge heard something even.\nstep 1\ngoal please the red judge.\n>"
    counted, estimated = SpelledText(policy.tokenizer), SpelledText()
    assert counted.length(counted.encode(text)) == len(policy.tokenizer.encode(text))
    assert estimated.length(spell("x" * 8)) == 2
    assert estimated.length(spell("x" * 9)) == 3
