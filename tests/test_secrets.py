"""Secrets: which keys are taken, and that nothing that is said or written holds one, whole or in pieces."""

from __future__ import annotations

import base64
import contextlib
import copy
import importlib.util
import json
import random
from pathlib import Path

import pytest
import yaml

from sick_server import SickServer, http
from stapo import texts
from stapo.cli.main import main
from stapo.config.run_config import EnvConfig, RunConfig
from stapo.errors import ConfigError, EndpointError, RunDirectoryError, UnknownNameError
from stapo.http_client import CallFailed, checked_key, key_from, read_address
from stapo.retrieval.http_client import HttpRetriever
from stapo.rollout.endpoint import EndpointSampler
from stapo.run import RunDirectory
from stapo.verl_plugin.launch import command

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "try_secrets.py"
KEY = "sk-9fQ2xLr7Vb0Tz4Wm8Kc1"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """What one test remembers is not hidden in the next."""
    monkeypatch.setattr(texts, "_secrets", texts._Secrets())


@pytest.fixture(scope="module")
def trying():
    spec = importlib.util.spec_from_file_location("try_secrets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Which keys are taken.


@pytest.mark.parametrize("around", ["{}", "{}\n", "{}\r\n", "  {}\t", "\ufeff{}", "{}\u00a0"])
def test_blanks_around_a_key_are_stripped(monkeypatch, around):
    monkeypatch.setenv("STAPO_API_KEY", around.format(KEY))
    assert key_from("STAPO_API_KEY") == KEY
    server = SickServer(lambda c, n, b: c.sendall(http("200 OK", b"{}")))
    EndpointSampler(server.url, "m", 6).check()
    server.close()
    assert f"authorization: bearer {KEY}".lower() in server.heads[0].lower()


@pytest.mark.parametrize("nothing", ["", " ", "\n", "\ufeff\r\n"])
def test_an_empty_key_is_none(monkeypatch, nothing):
    monkeypatch.setenv("STAPO_API_KEY", nothing)
    assert key_from("STAPO_API_KEY") is None


@pytest.mark.parametrize(
    "odd, said",
    [("\n", "a line end"), ("\r\n", "a line end"), (" ", "a blank or a tab"), ("\t", "a blank or a tab"),
     ('"', "a quote"),
     ("\0", "a control character"), ("\x1b", "a control character"), ("'", "a quote"), ("é", "not ASCII"),
     ("\udc80", "not ASCII"), ("日", "not ASCII"), ("x" * 9000, "9,023 characters")],
)  # fmt: skip
@pytest.mark.parametrize("place", [6, len(KEY)])
def test_what_no_key_has_is_refused_without_showing_it(odd, said, place):
    odd_key = KEY[:place] + odd + KEY[place:]
    if not odd.strip() and place == len(KEY):
        assert checked_key(odd_key, "the environment variable STAPO_API_KEY") == KEY
        return
    with pytest.raises(ConfigError, match=said) as caught:
        checked_key(odd_key, "the environment variable STAPO_API_KEY")
    assert "STAPO_API_KEY" in str(caught.value)
    assert not any(KEY[i : i + 4] in str(caught.value) for i in range(len(KEY) - 3))


def test_a_key_in_the_place_of_a_name_is_not_shown(monkeypatch, capsys):
    with pytest.raises(ConfigError, match="not the key itself") as caught:
        key_from(KEY)
    assert KEY not in str(caught.value)
    for given in (KEY, "hf_aBcDeFgHiJkLmNoPqRsTuV"):
        argv = ["eval", "tiny", "--endpoint", "http://127.0.0.1:1", "--model", "m", "--key-variable", given]
        assert main(argv) == 2
        assert given[:8] not in capsys.readouterr().err


# Addresses.

ADDRESSES = [
    "http://user:{}@127.0.0.1:1/v1", "http://{}@127.0.0.1:1", "http://user:a/{}@127.0.0.1:1", "HTTPS://u:{}@h",
    "http://127.0.0.1:1/v1?api_key={}", "http://h?a=b&key={}", "http://h/?X-API-KEY={}", "http://h/?access_token={}",
    "http://h/?subscription-key={}", "http://h/?sig={}", "http://h/?code={}", "http://h/#token={}", "http://h/?a#key={}",
    "http://h/?%6bey={}", "http://h/?password={}", "http://h/?token=&{}", "http://h/{}/v1",
]  # fmt: skip


@pytest.mark.parametrize("form", ADDRESSES)
def test_an_address_with_a_secret_is_refused_without_showing_it(form, capsys):
    address = form.format(KEY)
    for refuse in (
        lambda: read_address(address, "endpoint"),
        lambda: EndpointSampler(address, "m", 6),
        lambda: HttpRetriever(address),
        lambda: RunConfig(env=EnvConfig(options={"deep": [{"retriever": address}]})),
        lambda: command([f"+data.stapo={{a:'{address}'}}"]),
    ):
        with pytest.raises(ConfigError) as caught:
            refuse()
        assert KEY[:8] not in str(caught.value)
    assert main(["train", "search-tiny", "--env.retriever", address]) == 2
    assert KEY[:8] not in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:8000", "https://h/v1?keyword=a&corpus=wiki", "http://[::1]:81/retrieve", "http://h/v1?k=3"],
)
def test_addresses_without_secrets_are_taken(address):
    assert str(read_address(address, "retriever")) == address
    assert RunConfig(env=EnvConfig(options={"retriever": address})).env.options == {"retriever": address}


def test_the_query_of_an_endpoint_is_kept():
    server = SickServer(lambda c, n, b: c.sendall(http("200 OK", b'{"choices": [{"message": {"content": "a"}}]}')))
    EndpointSampler(server.url + "/v1?api-version=2024-10-21", "m", 6).sample([[97]], [(0,)], 0.0)
    server.close()
    assert server.heads[0].startswith("POST /v1/chat/completions?api-version=2024-10-21 HTTP/1.1")


def test_a_key_does_not_follow_to_another_place():
    """Neither another host, nor another scheme, nor another path of the same: nothing is followed."""
    other = SickServer(lambda c, n, b: c.sendall(http("200 OK", b"{}")))
    first = SickServer(lambda c, n, b: c.sendall(http("307 Go", b"", f"Location: {other.url}/v1/chat/completions")))
    (trouble,) = EndpointSampler(first.url, "m", 6, key=KEY).sample([[97]], [(0,)], 0.0)
    first.close()
    other.close()
    assert "status 307" in trouble.error
    assert (len(first.heads), other.heads) == (1, [])


@pytest.mark.parametrize("setting", ["+trainer.api_key={}", "trainer.hf_token={}", "+a.password='{}'", "++token={}"])
def test_verls_command_holds_no_secret(setting):
    with pytest.raises(ConfigError, match="would hold a secret") as caught:
        command([setting.format(KEY)])
    assert KEY not in str(caught.value)
    harmless = ["data.prompt_key=prompt", "a.max_token_len_per_gpu=8", "+a.token=null", "a.pad_token='<pad>'"]
    assert command(harmless)[3:] == harmless


# Hiding.


def forms(key):
    user = base64.b64encode(f"user:{key}".encode()).decode()
    return [key, key[:9], key[-9:], json.dumps(key), repr(key), user, base64.urlsafe_b64encode(key.encode()).decode()]


@pytest.mark.parametrize("seed", range(5))
def test_a_secret_is_hidden_in_every_form_and_piece(seed):
    draw = random.Random(seed)
    key = "".join(draw.choices("abcdefghijkXYZ0123456789%+/=_-~.", k=draw.randrange(9, 60)))
    texts.remember_secret(key)
    for form in forms(key):
        hidden = texts.hide_secrets(f"before {form} after")
        assert hidden.startswith("before ")
        assert hidden.endswith(" after")
        shown = {form[i : i + 8] for i in range(len(form) - 7)}
        # The ends of what is encoded together with something else belong to both.
        allowed = 4 if form is not key else 0
        assert sum(piece in hidden for piece in shown) <= allowed
        assert texts.HIDDEN in hidden


def test_text_without_secrets_is_the_same_object():
    text = "go to the fridge " * 100
    assert texts.hide_secrets(text) is text
    texts.remember_secret(KEY)
    assert texts.hide_secrets(text) == texts.hide_known_secrets(text) == text


def test_short_keys_are_words_in_what_a_model_says():
    texts.remember_secret("EMPTY")
    assert texts.hide_known_secrets("the fridge is EMPTY") == "the fridge is EMPTY"
    assert texts.hide_secrets("key EMPTY refused") == "key *** refused"


@pytest.mark.parametrize("make", [ConfigError, RunDirectoryError, UnknownNameError, EndpointError])
def test_no_error_of_ours_holds_a_secret(make):
    texts.remember_secret(KEY)
    err = make(f"found {KEY} and {KEY[:10]}…")
    again = copy.copy(err)
    for text in (str(err), repr(err), str(again), str(CallFailed(f"found {KEY} and {KEY[:10]}…", "x"))):
        assert KEY[:8] not in text
        assert "***" in text
    assert isinstance(again, make)


def test_rows_of_a_run_hold_no_secret(tmp_path):
    texts.remember_secret(KEY)
    run = RunDirectory.create(tmp_path / "run", {"seed": 0}, ["stapo", "train", f"--x={KEY}"])
    run.append("failures", {"error": f"the server said {KEY[:12]}", "n": 1, "deep": [{"a": KEY}]})
    for path in (tmp_path / "run").iterdir():
        assert KEY[:8] not in path.read_text()
    assert run.rows("failures") == [{"error": "the server said ***", "n": 1, "deep": [{"a": "***"}]}]


def test_a_server_that_repeats_the_key_in_an_answer_gives_it_away_to_nobody(monkeypatch):
    monkeypatch.setenv("STAPO_API_KEY", KEY)
    said = json.dumps({"choices": [{"message": {"content": f"look {KEY} and {KEY[4:16]}"}}]}).encode()
    server = SickServer(lambda c, n, b: c.sendall(http("200 OK", said)))
    (sample,) = EndpointSampler(server.url, "m", 60).sample([[97]], [(0,)], 0.0)
    server.close()
    assert "".join(map(chr, sample.ids[:-1])) == "look *** and ***"


def test_two_hundred_secrets_leave_no_trace(trying, tmp_path, monkeypatch):
    """Through every command that takes one, in turn; `scripts/try_secrets.py` tries each with each."""
    monkeypatch.delenv("STAPO_API_KEY", raising=False)
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(trying.SETTINGS))
    files = tmp_path / "files"
    files.mkdir()
    with contextlib.ExitStack() as servers:
        urls = {mode: servers.enter_context(trying.echo(mode)) for mode in ("refusal", "inside", "content", "passages")}
        ways = list(trying.Ways(files, urls, settings).all().items())
        for number, secret in enumerate(trying.secrets(200, seed=7)):
            name, way = ways[number % len(ways)]
            said = way(secret)
            assert not trying.pieces_in(said, secret), name
            assert "Traceback" not in said, name
            assert trying.leaks(files, secret) == [], name
