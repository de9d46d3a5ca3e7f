"""The date that a chat template writes belongs to the run.

1. Templates are given the time of the run's start, in UTC, in whatever way they ask for it.
2. Training, probes, evaluations and diagnoses of one run, on whatever day, make the same prompts.
3. A policy without a run has the day on which a command first needs it.
4. Only templates that write a date need to know when a run began.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

import stapo.diagnosis.run as diagnoses
from dated import GRANITE, LLAMA, at
from stapo.api.evaluation import frozen_model, saved_policy
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.diagnosis.protocol import make_spec
from stapo.errors import RunDirectoryError
from stapo.policy import load_policy
from stapo.rollout.encoding import PromptEncoder
from stapo.run import RunDirectory
from stapo.training.callbacks import Callbacks
from stapo.training.loop import Trainer
from stapo.training.preparation import SFTStage
from toy_world import small_policy, toy_settings

START = "2026-01-31T23:50:00"
BEFORE, AFTER = "Today Date: 31 Jan 2026", "Today Date: 03 Feb 2026"


@pytest.fixture
def on_day(monkeypatch):
    """Set the clocks; `monkeypatch` puts them back."""
    import dated

    for module in (dated.templates, dated.frames, dated.directory):
        monkeypatch.setattr(module, "datetime", module.datetime)
    return lambda text: at(text)()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dated") / "model"
    policy = small_policy()
    policy.tokenizer.chat_template = LLAMA
    policy.save(folder)
    return folder


def begin(model, out, **changes):
    config = from_data(RunConfig, toy_settings(model, **changes))
    return config, RunDirectory.create(out, to_data(config), ["test"])


def first_line(encoder):
    return encoder.decode(encoder.encode("hello")).split("\n")[0].removeprefix("<|system|>")


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template, expected",
    [
        (LLAMA, BEFORE),
        (GRANITE, "Today's Date: January 31, 2026, 23:50."),
        ("{{ strftime_now('%Y') }}\n{{ messages[0].content }}", "2026"),
        (LLAMA.replace("strftime_now", "another"), "Today Date: 26 Jul 2024"),
        ("{% set date_string = '1 May 1999' %}" + LLAMA, "Today Date: 1 May 1999"),
    ],
)
@pytest.mark.parametrize("start", [START + "+00:00", "2026-02-01T09:20:00+09:30", "2026-01-31T15:50:00-08:00"])
def test_templates_are_given_the_start_of_the_run(template, expected, start):
    tokenizer = small_policy().tokenizer
    tokenizer.chat_template = template
    assert first_line(PromptEncoder(tokenizer, lambda: datetime.fromisoformat(start))) == expected


def test_a_template_without_a_date_is_called_as_ever():
    class Strict:
        """As those of tokenizers that take no arguments for templates."""

        chat_template = "{{ date }}"

        def apply_chat_template(self, messages, add_generation_prompt, tokenize):
            return messages[0]["content"]

        def encode(self, text, add_special_tokens=True):
            return [ord(c) for c in text]

    def never():
        raise AssertionError("nobody needs the date")

    assert PromptEncoder(Strict(), never).encode("ab") == [97, 98]


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_whatever_is_done_with_a_run_has_its_date(model, tmp_path, on_day, monkeypatch):
    on_day(START)
    config, run = begin(model, tmp_path / "run", optim__iterations=1)
    first = Trainer(config, load_policy(str(model), config.model), run)
    first.train()
    on_day("2026-02-03T00:10:00")
    again = Trainer(config, load_policy(str(model), config.model), RunDirectory.open(run.path))
    stage = SFTStage(config, run, again.policy, Callbacks(), None)
    evaluated = saved_policy(run, config, "final").collector(Callbacks())
    asked = []
    monkeypatch.setattr(diagnoses, "measure", recording(diagnoses.measure, asked))
    subject = diagnoses.DiagnosisTarget(run, config, "final", tmp_path / "diagnosis")
    diagnoses.diagnose([subject], make_spec(config, ["toy/heldout/red"], "heldout", group_size=2))
    expected = first.collector.encoder.encode("hello")
    assert first_line(first.collector.encoder) == BEFORE
    assert again.collector.encoder.encode("hello") == expected
    assert PromptEncoder(again.policy.tokenizer, stage.training.clock).encode("hello") == expected
    assert evaluated.encoder.encode("hello") == expected
    prompts = [evaluated.encoder.decode(step.prompt_ids) for step in asked[0].batch.steps]
    assert prompts
    assert all(BEFORE in prompt for prompt in prompts)
    for collector in (first.collector, again.collector, evaluated):
        collector.close()


def recording(function, results):
    def record(*args):
        results.append(function(*args))
        return results[-1]

    return record


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_a_frozen_model_has_the_day_of_the_command(model, on_day):
    config = from_data(RunConfig, toy_settings(model))
    on_day("2026-02-03T23:59:00")
    collector = frozen_model("settings", config, str(model)).collector(Callbacks())
    on_day("2026-02-04T00:01:00")
    assert first_line(collector.encoder) == AFTER
    collector.close()


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [None, "yesterday", 17, [], "", "2026-13-01T00:00:00", "x" * 100_000])
def test_a_run_that_does_not_tell_when_it_began(model, toy_model, tmp_path, said):
    config, run = begin(model, tmp_path / "run")
    run.write_info({**run.info(), "started": said})
    with pytest.raises(RunDirectoryError, match="when the run began") as caught:
        Trainer(config, load_policy(str(model), config.model), run)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    plain, other = begin(toy_model, tmp_path / "plain")
    other.write_info({**other.info(), "started": said})
    trainer = Trainer(plain, load_policy(str(toy_model), plain.model), other)
    assert not trainer.collector.encoder.uses_chat_template
    trainer.collector.close()


@pytest.mark.parametrize(
    "said", [START, START + "Z", START + "+00:00", "2026-02-01T00:50:00+01:00", "2026-01-31 23:50:00"]
)
def test_the_start_of_a_run_is_read_in_utc(toy_model, tmp_path, said):
    _, run = begin(toy_model, tmp_path / "run")
    run.write_info({**json.loads((run.path / "run.json").read_text()), "started": said})
    assert run.started() == datetime(2026, 1, 31, 23, 50, tzinfo=UTC)
