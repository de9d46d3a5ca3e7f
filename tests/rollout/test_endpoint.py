"""A server that speaks OpenAI's protocol, as a sampler: what is sent, what is read, and what a failure costs."""

from __future__ import annotations

import gzip
import json
import math
import threading
import time
import tracemalloc
import zlib
from email.utils import formatdate

import pytest

from sick_server import SickServer, free_port, http
from slow import slow_except
from stapo.agent import AgentConfig, Prompt
from stapo.envs import Observation, StepResult
from stapo.envs.guard import EnvFailure
from stapo.envs.search.protocols import PROTOCOLS
from stapo.errors import ConfigError, EndpointError, FailureLimitError
from stapo.http_client import CallOptions
from stapo.rollout.answers import read_message
from stapo.rollout.collect import Collector
from stapo.rollout.endpoint import EndpointSampler
from stapo.rollout.episode import Episode
from stapo.rollout.evaluate import EvalProtocol, evaluate, summarize
from stapo.rollout.faults import Boundary
from stapo.rollout.text_codec import END, THOUGHT_APART, TextCodec, spell, told_of_server, unspell
from stapo.rollout.types import StopReason, Trajectory
from stapo.server_errors import pause_asked
from toy_world import ToyEnv, small_policy

THOUGHT = "<think>why</think>look"
FAST = CallOptions(connect_s=60.0, read_s=60.0, total_s=120.0, attempts=3, backoff_s=0.01, connections=4)
"""No pauses; deadlines that only a server that hangs can reach. A test of a deadline sets its own."""
AGENT = AgentConfig(prompt="compact", response="action", history_length=1, max_prompt_tokens=200, max_response_tokens=6)


def chat(content, finish="stop", **more):
    message = {"role": "assistant", "content": content, **more}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}]}).encode()


def ok(content, finish="stop", **more):
    return http("200 OK", chat(content, finish, **more), "Content-Type: application/json")


def error(status, message):
    return http(status, json.dumps({"error": {"message": message}}).encode(), "Content-Type: application/json")


def read_answer(data, api):
    found = read_message(data, api)
    return found.text, found.ended


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
    return asked.sample(
        [TextCodec().encode(p) for p in prompts], [(0, 7, i, 0, 0) for i in range(len(prompts))], temperature
    )


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
    (sample,) = ask(sampler(server, api="completions"), Prompt("Rules", "so far"))
    assert server.heads[0].startswith("POST /v1/completions HTTP/1.1")
    assert server.bodies[0]["prompt"] == "Rulesso far"
    assert (unspell(sample.ids), sample.ended) == (" look", False)


def test_the_beginning_of_a_response_goes_into_the_message_of_a_chat(serve):
    server = serve(lambda c, n, b: c.sendall(ok("look")))
    ask(sampler(server), Prompt("Rules", "so far"))
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
    four = threading.Barrier(4)

    def behave(connection, number, body):
        with guard:
            now[0] += 1
            most[0] = max(most[0], now[0])
        four.wait(300)
        with guard:
            now[0] -= 1
        connection.sendall(ok(body["messages"][0]["content"]))

    answers = ask(sampler(serve(behave)), *map(str, range(12)))
    assert [unspell(a.ids) for a in answers] == [str(i) for i in range(12)]
    assert most[0] == 4


def test_waiting_for_a_turn_is_not_held_against_a_request(serve):
    server = serve(lambda c, n, b: (time.sleep(1.0), c.sendall(ok("look"))))
    options = CallOptions(read_s=3.8, total_s=3.8, connections=1)
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
        ({"content": "why</think>b"}, "<think>why</think>b"),
    ],
)
def test_what_the_model_wrote(message, text):
    assert read_answer(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode(), "chat") == (
        text,
        True,
    )


WHOLE = [
    ({"message": {"content": "look"}, "reasoning_content": "why"}, THOUGHT),
    ({"message": {"content": "look", "reasoning_text": "why"}}, THOUGHT),
    ({"message": {"content": {"parts": [{"text": "look"}], "role": "model"}}}, "look"),
    ({"message": {"content": [{"type": "text", "text": ""}]}}, ""),
    ({"message": {"content": ""}, "content_filter_results": {"hate": {"filtered": False}}}, ""),
    ({"delta": {"content": "look"}}, "look"),
    ({"text": "look"}, "look"),
]


@pytest.mark.parametrize("choice, text", WHOLE)
def test_a_choice_in_the_form_of_another_server(choice, text):
    assert read_answer(json.dumps({"choices": [choice]}).encode(), "chat") == (text, True)


@pytest.mark.parametrize(
    "said", [{"code": 0, "message": ""}, {"code": 200, "message": "ok"}, {}, "", "null", "success"]
)
def test_an_error_that_says_there_was_none_is_none(said):
    answer = {"error": said, "choices": [{"message": {"content": "look"}, "finish_reason": "stop"}]}
    assert read_answer(json.dumps(answer).encode(), "chat") == ("look", True)


def test_an_empty_response_is_a_response(serve):
    (sample,) = ask(sampler(serve(lambda c, n, b: c.sendall(ok("", "length")))), "p")
    assert (sample.ids, sample.ended) == ([END], False)


@pytest.mark.parametrize(
    "body, said",
    [
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "a document without choices[0].message"),
        (b'{"choices": []}', "a document without choices[0].message"),
        (b'{"choices": [{"message": 5}]}', "a document without choices[0].message"),
        (b'{"choices": [{"message": {"content": 5}}]}', "content that is not text"),
    ],
)
def test_malformed_answers_are_failures_of_the_endpoint(serve, body, said):
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", body))))
    (trouble,) = ask(asked, "p")
    assert isinstance(trouble, EnvFailure)
    assert trouble.boundary == Boundary.ENDPOINT
    assert said in trouble.error
    assert asked.counts == {"malformed": 1}


PARTS = [
    ([{"type": "text", "text": "look"}], "look"),
    ([{"type": "output_text", "text": "lo"}, "ok"], "look"),
    ([{"text": "lo"}, None, {"type": "text", "text": {"value": "ok"}}, {"type": "image_url", "image_url": {}}], "look"),
    ({"type": "text", "text": "look"}, "look"),
    ([{"type": "thinking", "thinking": [{"type": "text", "text": "why"}]}, {"type": "text", "text": "look"}], THOUGHT),
    ([{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "look"}], THOUGHT),
    ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}]}, "look"], THOUGHT),
    ([{"type": "reasoning", "text": "why"}, {"type": "redacted_thinking", "data": "x"}, {"text": "look"}], THOUGHT),
    ([{"text": "why", "thought": True}, {"text": "look"}], THOUGHT),
    ([], ""),
]


@pytest.mark.parametrize("content, text", PARTS)
def test_content_may_be_a_list_of_parts(content, text):
    assert read_answer(chat(content), "chat") == (text, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "why"},
        {"reasoning": "why"},
        {"reasoning": {"content": "why"}},
        {"thinking": "why"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "why", "signature": "x"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "why"}]},
        {"reasoning_content": "", "reasoning": None, "thinking": "why", "reasoning_details": 5},
    ],
)
def test_a_thought_is_kept_wherever_the_server_puts_it(fields):
    assert read_answer(chat("look", **fields), "chat") == (THOUGHT, True)


@pytest.mark.parametrize(
    "finish, ended",
    [("stop", True), ("eos_token", True), ("end_turn", True), (None, True), (7, True), ("length", False),
     ("MAX_TOKENS", False), ("model_context_window_exceeded", False), ({"type": "length", "length": 6}, False)],
)  # fmt: skip
def test_why_a_response_ended(finish, ended):
    assert read_answer(chat("look", finish), "chat") == ("look", ended)


@pytest.mark.parametrize(
    "more", [{"refusal": None, "tool_calls": []}, {"tool_calls": [{"id": "1"}]}, {"refusal": "no"}]
)
def test_text_beside_what_is_no_text_is_the_response(serve, more):
    (sample,) = ask(sampler(serve(lambda c, n, b: c.sendall(ok("look", **more)))), "p")
    assert unspell(sample.ids) == "look"


@pytest.mark.parametrize(
    "answer, kind, said",
    [
        (chat("", "content_filter"), "content_filter", "a filter of the server"),
        (chat("take th", "content_filter"), "content_filter", "a filter of the server"),
        (chat(None, "SAFETY"), "content_filter", "a filter of the server"),
        (chat(None, "stop", refusal="I cannot do that."), "refusal", "I cannot do that."),
        (chat([{"type": "refusal", "refusal": "I cannot."}]), "refusal", "I cannot."),
        (chat("", "refusal"), "refusal", "a refusal in the place of a text"),
        (chat(None, "tool_calls", tool_calls=[{"id": "1", "function": {"name": "go"}}]), "tool_calls", "no text"),
        (chat("", "function_call", function_call={"name": "go"}), "tool_calls", "no text"),
        (chat([{"type": "tool_use", "name": "go"}]), "tool_calls", "no text"),
        (b'{"choices": [], "prompt_filter_results": [{"x": {"filtered": true}}]}', "content_filter", "held the prompt"),
        (chat(None, "OTHER"), "provider_error", "finish_reason 'other'"),
        (
            b'{"choices": [{"message": {"content": ""}, "finish_reason": "stop", "content_filter_results": '
            b'{"hate": {"filtered": true}}}]}',
            "content_filter",
            "a filter of the server",
        ),
        (chat([{"type": "image_url", "image_url": {}}]), "malformed", "content that is not text"),
        (b'{"message": {"role": "assistant", "content": "look"}, "done": true}', "malformed", "without choices[0]"),
        (b'{"choices": [], "usage": {}}', "malformed", "without choices[0].message"),
        (b'{"choices": null}', "malformed", "without choices[0].message"),
        (b'{"choices": {"0": 1}}', "malformed", "without choices[0].message"),
        (b'{"choices": [null]}', "malformed", "without choices[0].message"),
        (b'{"choices": [{"message": {"content": [5]}}]}', "malformed", "content that is not text"),
        (b'{"choices": [{"message": {"content": true}}]}', "malformed", "content that is not text"),
        (b'{"choices": [{"message": {"content": "lo', "malformed", "not JSON"),
        (b"\xff\xfe\x00", "malformed", "not JSON"),
        (b"", "malformed", "not JSON"),
        (b'{"a":' * 50_000, "malformed", "not JSON"),
        (b"data: {}\n\ndata: [DONE]\n\n", "malformed", "not JSON"),
    ],
)
def test_what_is_not_the_policys_is_a_failure_of_the_server(serve, answer, kind, said):
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", answer))))
    (trouble,) = ask(asked, "p")
    assert isinstance(trouble, EnvFailure)
    assert trouble.boundary == Boundary.ENDPOINT
    assert said in trouble.error
    assert asked.counts == {kind: 1}


@pytest.mark.parametrize("of", ["content", "reasoning_content", "text"])
def test_an_answer_beyond_its_limit_is_cut_while_it_comes(serve, of):
    """Eight megabytes for a limit of six tokens: what is kept is a multiple of the limit, and counted."""
    field = "x" * (8 << 20)
    message = {"text": field} if of == "text" else {"message": {"content": "", **{of: field}}}
    api = "completions" if of == "text" else "chat"
    answer = json.dumps({"choices": [{**message, "finish_reason": "stop"}]}).encode()
    sent = http("200 OK", answer)
    asked = sampler(serve(lambda c, n, b: c.sendall(sent)), api=api)
    tracemalloc.start()
    (sample,) = ask(asked, "p")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 6 <= len(unspell(sample.ids)) < 6 * 200
    assert not sample.ended
    assert asked.counts == {"cut": 1}
    assert peak < 4 << 20


@pytest.mark.parametrize("tail", ["\\u65e5", "\\ud83d\\ude00", "\\n", '\\"', "\\\\", "日"])
def test_a_cut_falls_between_characters(tail):
    """Wherever the bytes end, what is there is read; an escape that is cut is left out."""
    whole = b'{"choices": [{"index": 0, "message": {"content": "' + (tail * 40).encode()
    said = json.loads(f'"{tail * 40}"')
    for length in range(60, len(whole) + 1):
        found = read_message(whole[:length], "chat", 1000, cut=True)
        assert said.startswith(found.said.rstrip("?")), length
        assert found.cut
        assert not found.ended


def test_a_long_answer_without_text_is_a_failure(serve):
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", b" " * (1 << 20)))))
    (trouble,) = ask(asked, "p")
    assert "and no text at their beginning" in trouble.error
    assert asked.counts == {"oversized": 1}


@pytest.mark.parametrize("packing", ["gzip", "deflate", "x-gzip"])
def test_packed_answers_are_read(serve, packing):
    data = zlib.compress(chat("look")) if packing == "deflate" else gzip.compress(chat("look"), mtime=0)
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", data, f"Content-Encoding: {packing}"))))
    assert unspell(ask(asked, "p")[0].ids) == "look"


def test_a_packed_answer_is_unpacked_up_to_the_limit(serve):
    """A bomb of 64 MB in 64 kB: its text is cut as any other, and never unpacked."""
    bomb = gzip.compress(b'{"choices": [{"message": {"content": "' + bytes([120]) * (64 << 20), 9, mtime=0)
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", bomb, "Content-Encoding: gzip"))))
    tracemalloc.start()
    (sample,) = ask(asked, "p")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert unspell(sample.ids) == "x" * 6 * 128
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "data, packing", [(gzip.compress(gzip.compress(chat("a"), mtime=0), mtime=0), "gzip, gzip"), (b"x", "br"),
                      (b"no zip", "gzip"), (gzip.compress(chat("look" * 99), mtime=0)[:-30], "gzip")]
)  # fmt: skip
def test_answers_packed_otherwise_than_they_say_are_failures(serve, data, packing):
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", data, f"Content-Encoding: {packing}"))))
    (trouble,) = ask(asked, "p")
    assert "not as encoded as they say" in trouble.error
    assert asked.counts == {"malformed": 1}


# Half characters.


@pytest.mark.parametrize("where", ["content", "reasoning_content", "parts"])
def test_half_characters_of_a_server_are_replaced(serve, where):
    given = {"content": '"content": "go \\ud800"', "parts": '"content": [{"type": "text", "text": "go \\udc00"}]'}
    field = given.get(where, '"content": "", "reasoning_content": "go \\ud800"')
    data = b'{"choices": [{"message": {' + field.encode() + b"}}]}"
    (sample,) = ask(sampler(serve(lambda c, n, b: c.sendall(http("200 OK", data)))), "p")
    assert "go ?" in unspell(sample.ids)


def test_half_characters_of_a_page_do_not_reach_a_server(serve):
    server = serve(lambda c, n, b: c.sendall(ok("look")))
    (sample,) = ask(sampler(server), "a page \ud83d with \udc00 halves 😀")
    assert unspell(sample.ids) == "look"
    assert server.bodies[0]["messages"][0]["content"] == "a page ? with ? halves 😀"


def test_an_evaluation_outlives_a_half_character(serve):
    """Once, in the middle of an answer: what the model said goes into later prompts, rows and transcripts."""
    half = http("200 OK", b'{"choices": [{"message": {"content": "eve\\ud800"}}]}')
    server = serve(lambda c, n, b: c.sendall(half if n == 2 else ok("even")))
    (trajectories,) = play(collector(sampler(server)))
    assert summarize([trajectories])["errors"] == 0
    assert sum(step.response == "eve?" for t in trajectories for step in t.steps) == 1


# Thoughts.


@pytest.mark.parametrize(
    "text, thought, said",
    [
        ("why</think><action>look</action>", "<think>why</think>", "<action>look</action>"),
        ("\nwhy\n</think>\n\n<action>look</action>", "<think>\nwhy\n</think>", "\n\n<action>look</action>"),
        ("<think>why</think><action>look</action>", "<think>why</think>", "<action>look</action>"),
        (" \n<THINK>why</THINK>look", " \n<THINK>why</THINK>", "look"),
        ("<think>a <think> </think> b</think>look", "<think>a <think> </think> b</think>", "look"),
        ("a <think> </think> b</think>look", "<think>a <think> </think> b</think>", "look"),
        ("<think>I use <think> tags</think>look", "<think>I use <think> tags</think>", "look"),
        ("</think>look", "<think></think>", "look"),
        ("<think>never closed <action>go</action>", "", "<think>never closed <action>go</action>"),
        ("<action>look</action><think>late</think>", "", "<action>look</action><think>late</think>"),
        ("look", "", "look"),
    ],
)
def test_where_a_thought_ends(text, thought, said):
    found = read_message(chat(text), "chat")
    assert (found.thought, found.said) == (thought, said)


QUOTED = [
    "the answer must look like <action> </action>",
    "not <action>go north</action>, and no <think> tags </think> again",
    "first <search>what</search> then <answer>that</answer>",
    "<information>what a page said</information> </search></answer>",
]


def episode_of(served, agent):
    trajectory = Trajectory("t", "", "", 0, 0)
    playing = Episode(TextCodec(), agent, trajectory, blind_mask="goal", anchor="observation", reward_scale=1.0)
    playing.begin(Observation("a page", "a goal", admissible=["go north", "look"]))
    playing.prompt()
    (sample,) = ask(served, "p")
    action = playing.answer(sample)
    playing.observe(StepResult("done", None, 0.0, done=True, won=True))
    return action, trajectory.steps[0]


@pytest.mark.parametrize("thought", QUOTED)
@pytest.mark.parametrize(
    "response, text, action",
    [
        ("think_action", "<action>look</action>", "look"),
        ("action", "look", "look"),
        ("choice", "2", "look"),
        ("search_answer", "<search>who</search>", "<search>who</search>"),
        ("search_answer_single", "<answer>it</answer>", "<answer>it</answer>"),
    ],
)
@pytest.mark.parametrize("form", slow_except(["field", "parts", "block", "opened"], "field", "block"))
def test_a_thought_is_kept_and_never_read_as_a_command(serve, thought, response, text, action, form):
    answers = {
        "field": chat(text, reasoning_content=thought),
        "parts": chat([{"type": "thinking", "thinking": thought}, {"type": "text", "text": text}]),
        "block": chat(f"<think>{thought}</think>{text}"),
        "opened": chat(f"{thought}</think>{text}"),
    }
    prompt = "search-r1" if response.startswith("search") else "standard"
    agent = AgentConfig(prompt=prompt, response=response, max_prompt_tokens=900, max_response_tokens=200)
    server = serve(lambda c, n, b: c.sendall(http("200 OK", answers[form])))
    asked = EndpointSampler(server.url + "/v1", "m", 200, options=FAST)
    taken, step = episode_of(asked, agent)
    assert (step.valid, step.problem) == (True, "")
    assert step.response == f"<think>{thought}</think>{text}"
    if prompt == "standard":
        assert taken == action
    else:
        assert taken.endswith(f"</think>{action}")
        protocol = PROTOCOLS["search-r1"]
        assert protocol.read(taken) == protocol.read(action)


def test_a_thought_that_quotes_nothing_stays_as_it_is_in_what_a_search_agent_reads_on_from(serve):
    agent = AgentConfig(prompt="search-r1", response="search_answer", max_prompt_tokens=900, max_response_tokens=50)
    server = serve(lambda c, n, b: c.sendall(ok("<search>who</search> more", reasoning_content="a < b")))
    action, _ = episode_of(sampler(server), agent)
    assert action == "<think>a < b</think><search>who</search>"


def test_without_an_action_nothing_is_taken_from_a_thought_apart(serve):
    agent = AgentConfig(response="think_action", max_prompt_tokens=900, max_response_tokens=50)
    server = serve(lambda c, n, b: c.sendall(ok("look", reasoning_content="<action>go north</action>")))
    action, step = episode_of(sampler(server), agent)
    assert (action, step.valid, step.problem) == ("look", False, "no_action_tag")


class _Closing:
    """A tokenizer whose chat template closes a thought at once."""

    chat_template = "{{ messages }}"

    def apply_chat_template(self, messages, **options):
        return f"{messages}<think>\n\n</think>\n\n"


@pytest.mark.parametrize("form", ["think_action", "tagged"])
def test_an_empty_thought_that_the_servers_template_writes_is_read_with_the_response(form):
    agent, codec = AgentConfig(response=form), TextCodec(_Closing())
    said = spell("<action>look</action>")
    assert codec.parse(said, agent, ()).valid
    assert codec.opening(said) == "<think>\n\n</think>\n\n"
    thought = [*spell("<think>a</think>"), THOUGHT_APART, *said]
    assert codec.parse(thought, agent, ()).thought == "a"
    assert codec.opening(thought) == ""
    assert TextCodec().parse(said, agent, ()).valid == (form == "tagged")
    assert codec.parse(spell("look"), AgentConfig(response="action"), ()).valid


# What fails.


# Where a response ends.

STOP = ("</action>",)


def trimming(field, said, thought=None):
    """A server that ends at stop texts, leaves them out, and says in `field` which one it was; or says nothing."""

    def behave(connection, number, body):
        end = min((at for text in body.get("stop", ()) if (at := said.find(text)) >= 0), default=-1)
        choice = {"message": {"content": said if end < 0 else said[:end]}, "finish_reason": "stop"}
        if thought is not None:
            whole = f"{thought}</think>{said}"
            end = min((at for text in body.get("stop", ()) if (at := whole.find(text)) >= 0), default=len(whole))
            before, _, after = whole[:end].partition("</think>")
            choice["message"] = {"content": after, "reasoning_content": before}
            end = end if end < len(whole) else -1
        if field:
            choice[field] = None if end < 0 else body["stop"][0]
        connection.sendall(http("200 OK", json.dumps({"choices": [choice]}).encode()))

    return behave


def texts(samples):
    return [unspell(s.ids) for s in samples]


@pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
def test_stop_texts_are_sent_and_what_the_server_leaves_out_is_put_back(serve, field):
    server = serve(trimming(field, "<think>a</think><action>go</action> and on"))
    asked = sampler(server, stop=STOP)
    assert texts(ask(asked, "one", "two")) == ["<think>a</think><action>go</action>"] * 2
    assert [b["stop"] for b in server.bodies] == [list(STOP)] * 2
    assert asked.counts == {"answered": 2}
    own = serve(trimming(field, "<action>go"))
    (ended,) = ask(sampler(own, stop=STOP), "one")
    assert (unspell(ended.ids), ended.ended) == ("<action>go", True)


def test_without_stop_texts_none_are_sent(serve):
    server = serve(trimming("", "go</action>"))
    assert texts(ask(sampler(server), "one")) == ["go</action>"]
    assert "stop" not in server.bodies[0]


@pytest.mark.parametrize(
    "said, thought, opened",
    [
        ("<think>no <action>a</action></think><action>go</action>", None, False),
        ("no <action>a</action></think><action>go</action>", None, True),
        ("<action>go</action>", "no <action>a</action> yes", False),
    ],
)
def test_a_stop_text_within_a_thought_ends_nothing(serve, said, thought, opened):
    server = serve(trimming("stop_reason", said, thought))
    asked = sampler(server, stop=STOP)
    asked.opens_thought = opened
    (text,) = texts(ask(asked, "one"))
    assert text.endswith("</think><action>go</action>")
    assert ["stop" in b for b in server.bodies] == [True, False]
    assert asked.counts == {"answered": 2, "asked_again": 1}


def test_a_server_that_does_not_say_which_text_it_was_is_asked_without(serve):
    server = serve(trimming("", "<action>go</action> and on"))
    asked = sampler(server, stop=STOP)
    assert texts(ask(asked, "one")) == ["<action>go</action> and on"]
    assert texts(ask(asked, "two")) == ["<action>go</action> and on"]
    assert ["stop" in b for b in server.bodies] == [True, False, False]


def test_a_server_that_takes_no_stop_texts_is_asked_without(serve):
    def behave(connection, number, body):
        refusal = error("400 Bad Request", "Unsupported parameter: 'stop' is not supported with this model.")
        connection.sendall(refusal if "stop" in body else ok("<action>go</action> on"))

    server = serve(behave)
    asked = sampler(server, stop=STOP)
    assert texts(ask(asked, "one")) == texts(ask(asked, "two")) == ["<action>go</action> on"]
    assert ["stop" in b for b in server.bodies] == [True, False, False]


def test_an_episode_has_what_the_stop_text_completes(serve):
    agent = AgentConfig(prompt="compact", response="tagged", stop=STOP, max_prompt_tokens=400, max_response_tokens=60)
    server = serve(trimming("stop_reason", "<action>look</action> and on"))
    (t,) = Collector(ToyEnv, TextCodec(), sampler(server, stop=STOP), agent).collect(["toy/train/red"], 1, 0.0, (0,))
    assert [(s.response, s.action, s.valid, s.truncated) for s in t.steps] == [
        ("<action>look</action>", "look", True, False)
    ] * 3


@pytest.mark.parametrize(
    "template, thinks, opens, said",
    [
        ("", True, None, "is not known here; --tokenizer NAME tells"),
        ("", False, False, "closes a thought at once"),
        ("<think>\n", True, True, "opens a thought before each response"),
        ("<think>\n\n</think>\n\n", True, False, "closes a thought at once"),
        ("plain", True, False, ""),
    ],
)
def test_what_the_servers_template_opens_is_said_where_it_can_be_known(template, thinks, opens, said):
    policy = small_policy()
    begun = "" if template == "plain" else template
    policy.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}" + begun
    codec = TextCodec(policy.tokenizer if template else None, thinks=thinks)
    assert codec.opens_thought is opens
    assert said in told_of_server(codec)
    assert bool(said) == bool(told_of_server(codec))


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


def in_a_second():
    return formatdate(time.time() + 2, usegmt=True)


@pytest.mark.parametrize(
    "header, least",
    [(lambda: "Retry-After: 1", 1.0), (lambda: "Retry-After: 0.7", 0.7), (lambda: "retry-after-ms: 600", 0.6),
     (lambda: f"Retry-After: {in_a_second()}", 0.9)],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
def test_every_form_of_a_pause_is_kept(serve, header, least, inside):
    def behave(connection, number, body):
        if number > 1:
            connection.sendall(ok("look"))
        elif inside:
            document = b'{"error": {"message": "Rate limit exceeded", "code": 429}}'
            connection.sendall(http("200 OK", document, header()))
        else:
            connection.sendall(http("429 Slow", b"", header()))

    asked = sampler(serve(behave), options=CallOptions(total_s=60.0, backoff_s=0.01))
    start = time.monotonic()
    (sample,) = ask(asked, "p")
    assert time.monotonic() - start >= least
    assert unspell(sample.ids) == "look"
    assert asked.counts == {"rate_limit" if inside else "http_429": 1, "answered": 1}


@pytest.mark.parametrize(
    "headers, pause",
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"x-ms-retry-after-ms": "1250.5"}, 1.2505),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:47 GMT"}, 10.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:49:47 GMT"}, 10.0),
        ({"retry-after": "Sun Nov  6 08:49:47 1994"}, 10.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:47 GMT", "date": "Sun, 06 Nov 1994 08:49:40 GMT"}, 7.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:00:00 GMT"}, 0.0),
        ({"retry-after": "99999999999"}, 86_400.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86_400.0),
        ({"retry-after": "784111787"}, 86_400.0),
        ({"retry-after": "1000000000", "date": "Sun, 09 Sep 2001 01:46:30 GMT"}, 10.0),
        ({"retry-after": "1000000000000", "date": "Sun, 09 Sep 2001 01:46:30 GMT"}, 10.0),
        ({"retry-after": "1994-11-06T08:49:47Z"}, 10.0),
        ({"retry-after": "1994-11-06T09:49:47.500+01:00"}, 10.5),
        *(
            ({"retry-after": form}, 90.0)
            for form in ("90s", "1m30s", "90 seconds", "1.5 min", "90000ms", '"90"', "7, 90")
        ),
        ({"retry-after": ".5"}, 0.5),
        ({"retry-after-ms": "250ms", "retry-after": "2"}, 0.25 / 1000),
        *(
            ({"retry-after": odd}, 0.0)
            for odd in ("", "soon", "-3", "nan", "inf", "1e9", "٣", "9" * 400, "3 apples", "s")
        ),
        ({}, 0.0),
    ],
)
def test_pauses_are_understood_and_bounded(headers, pause):
    assert pause_asked(headers, now=784_111_777.0) == pytest.approx(pause)


PASSING = [
    {"error": {"message": "Rate limit reached for m", "type": "requests", "code": "rate_limit_exceeded"}},
    {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "slow down upstream"}}},
    {"error": {"message": "Provider returned error", "code": 502}, "choices": []},
    {"error": {"message": "hiccup", "code": "503"}, "choices": [{"message": {"content": "half an ans"}}]},
    {"choices": [{"error": {"message": "bad gateway", "code": 502}, "message": {"content": "hal"}}]},
    {"choices": [{"message": {"content": "half"}, "finish_reason": "error"}]},
    {"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"message": "x", "code": 500}}]},
    {"choices": [{"message": {"content": ""}, "finish_reason": "insufficient_system_resource"}]},
    {"error": "Model is overloaded", "error_type": "overloaded"},
    {"object": "error", "message": "engine is busy", "type": "ServiceUnavailable", "code": 503},
    {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 2 seconds."},
    [{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}],
    {"error": True},
    {"choices": [], "base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
    {"choices": [], "status": "error", "message": "busy"},
    {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": None},
    {"error_code": 18, "error_msg": "Open api qps request limit reached, try again"},
    {"status": 503},
]
LASTING = [
    ({"error": {"message": "model 'm' does not exist", "type": "invalid_request_error"}}, "does not exist"),
    ({"error": "model 'm' not found, try pulling it first"}, "not found"),
    ({"base_resp": {"status_code": 1004, "status_msg": "invalid api key"}}, "invalid api key"),
    ({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, "current quota"),
    ({"error": {"message": "No auth credentials found: invalid api key", "code": 401}}, "No auth credentials"),
    ({"object": "error", "message": "maximum context length is 8", "type": "BadRequestError", "code": 400}, "is 8"),
    ({"detail": [{"loc": ["body"], "msg": "Field required", "type": "missing"}]}, "Field required"),
    ({"choices": [{"error": {"message": "flagged", "code": 403}, "message": {"content": ""}}]}, "flagged"),
]


@pytest.mark.parametrize("document", PASSING)
def test_an_error_inside_an_answer_that_may_pass_is_tried_again(serve, document):
    bad = http("200 OK", json.dumps(document).encode())
    asked = sampler(serve(lambda c, n, b: c.sendall(bad if n < 3 else ok("look"))))
    (sample,) = ask(asked, "p")
    assert unspell(sample.ids) == "look"
    assert asked.counts["answered"] == 1
    assert asked.counts["rate_limit"] + asked.counts["provider_error"] == 2


@pytest.mark.parametrize("document, quoted", LASTING)
def test_an_error_inside_an_answer_that_stays_is_quoted_at_once(serve, document, quoted):
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", json.dumps(document).encode()))))
    (trouble,) = ask(asked, "p")
    assert trouble.boundary == Boundary.ENDPOINT
    assert quoted in trouble.error
    assert asked.counts == {"provider_error": 1}


def test_an_error_that_stays_through_all_tries_is_quoted(serve):
    document = {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "slow down, m"}}}
    asked = sampler(serve(lambda c, n, b: c.sendall(http("200 OK", json.dumps(document).encode()))))
    (trouble,) = ask(asked, "p")
    assert "Provider returned error: slow down, m (try 3 of 3)" in trouble.error
    assert asked.counts == {"rate_limit": 3}


def test_a_pause_does_not_outlast_the_deadline(serve):
    server = serve(lambda c, n, b: c.sendall(http("429 Slow", b"", "Retry-After: 9999")))
    started = time.monotonic()
    (trouble,) = ask(asked := sampler(server, options=CallOptions(total_s=900.0)), "p")
    assert time.monotonic() - started < 300
    assert asked.counts == {"http_429": 1}
    assert "pause of 9999 s" in trouble.error


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
        ("ftp://x", {}, "is not an address"),
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
    return Collector(ToyEnv, TextCodec(), asked, AGENT, **settings)


def play(played_by, episodes=6):
    return evaluate(played_by, ToyEnv().tasks_of("heldout"), EvalProtocol("heldout", episodes, 0.0, (0,)))


def test_episodes_are_played(serve):
    """Sayings of an even number of characters win; see `ToyEnv`."""
    server = serve(lambda c, n, b: c.sendall(ok("odd" if "blue" in b["messages"][0]["content"] else "even")))
    (trajectories,) = play(collector(sampler(server)))
    assert [t.won for t in trajectories] == ["blue" not in t.task_id for t in trajectories]
    assert {s.action for t in trajectories for s in t.steps} == {"odd", "even"}
    assert summarize([trajectories])["errors"] == 0


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
    counted, estimated = TextCodec(policy.tokenizer), TextCodec()
    assert counted.length(counted.encode(text)) == len(policy.tokenizer.encode(text))
    assert estimated.length(spell("x" * 8)) == 2
    assert estimated.length(spell("x" * 9)) == 3
