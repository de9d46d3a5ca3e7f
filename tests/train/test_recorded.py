"""SFT from files.

1. From the demonstrator's record it gives the weights that the demonstrator gives.
2. What a policy has played is recorded as it was: in evaluations and in transcripts.
3. Invalid steps are history alone; a response that was cut off gets no end token.
4. Chat messages: each assistant message is a row under what precedes it.
5. What does not fit is refused, with its line and what to do; nothing is trained or overwritten.
"""

from __future__ import annotations

import json
import tracemalloc

import pytest

import stapo
from stapo.cli.main import main
from stapo.config.training import SFTConfig
from stapo.errors import ConfigError
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.record import RecordedEpisode, RecordedStep, episode_of_transcript, read_episode
from stapo.run.lines import MOST_BYTES, read_lines
from stapo.training.demonstrations import imitated
from stapo.training.factories import RunEnv
from stapo.training.recorded import chat_steps, read_steps
from stapo.training.sft import _batches
from toy_world import small_policy, toy_settings

SMALL = {
    "model": {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 400},
    "sft": {"steps": 6, "episodes": 12, "batch_size": 8, "wander": 0.2},
    "optim": {"iterations": 0},
    "eval": {"episodes": 2, "greedy": False},
    "env.options.max_steps": 6,
}


def weights(run):
    return (run.path / "checkpoints" / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def config():
    return stapo.load_config("tiny", **SMALL)


@pytest.fixture(scope="module")
def file(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "demonstrations.jsonl"
    assert stapo.export(config, path, demonstrations=True) == 12
    return path


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_the_same_rows_give_the_same_weights(config, file, tmp_path):
    shown = stapo.train(config, tmp_path / "shown")
    learned = stapo.train(stapo.load_config(config, sft={"data": str(file)}), tmp_path / "learned")
    assert weights(learned) == weights(shown)
    steps = [s for _, row in list(read_lines(file))[1:] for s in row["steps"]]
    assert 0 < sum(not s["imitate"] for s in steps) < len(steps)  # wandering: played, not imitated


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy_run(toy_model, tmp_path_factory):
    return stapo.train(toy_settings(toy_model, optim__iterations=1), tmp_path_factory.mktemp("toy") / "run")


def episodes_in(path):
    return [read_episode(row, where) for where, row in list(read_lines(path))[1:]]


def test_transcripts_are_exported(toy_run, tmp_path):
    count = stapo.export(toy_run, tmp_path / "all.jsonl")
    transcript = [r for path in toy_run.directory.transcripts() for _, r in read_lines(path)]
    found = episodes_in(tmp_path / "all.jsonl")
    assert count == len(found) == len(transcript)
    assert [[s.response for s in e.steps] for e in found] == [[s["response"] for s in r["steps"]] for r in transcript]
    won = stapo.export(toy_run, tmp_path / "won.jsonl", won=True)
    assert won == sum(r["won"] for r in transcript)
    assert 0 < won < count, "nothing is shown"


def test_an_evaluation_is_recorded_and_learned_from(toy_run, toy_model, tmp_path):
    found = stapo.evaluate(toy_run, split="train", k=3, seeds=[0], record=tmp_path / "won.jsonl", won=True)
    kept = episodes_in(tmp_path / "won.jsonl")
    assert len(kept) == round(found.success * 18) > 0
    assert all(e.won and len(e.steps) == 3 for e in kept)
    sft = {"steps": 2, "batch_size": 4, "data": str(tmp_path / "won.jsonl")}
    run = stapo.train(toy_settings(toy_model, optim__iterations=0, sft=sft), tmp_path / "run")
    assert weights(run) != weights(toy_run)


def test_the_command_line(toy_run, tmp_path, capsys):
    out = str(tmp_path / "out.jsonl")
    assert main(["export", str(toy_run.path), "--won", "--out", out]) == 0
    assert "--sft.data" in capsys.readouterr().out
    assert main(["export", str(toy_run.path), "--out", out]) == 2
    assert "exists already" in capsys.readouterr().err
    record = str(tmp_path / "record.jsonl")
    assert main(["eval", str(toy_run.path), "--episodes", "2", "--seeds", "0", "--record", record]) == 0
    assert len(episodes_in(tmp_path / "record.jsonl")) == 2
    assert main(["eval", str(toy_run.path), "--record", record]) == 2


# -- 3 -----------------------------------------------------------------------------------------------------------------


def steps_of(*steps):
    episode = RecordedEpisode("t", "please the red judge.", True, tuple(steps))
    agent = stapo.load_config(toy_settings("none")).agent
    return imitated(episode, agent, "goal_history", stapo.envs.protocol.NO_SHAPES)


def test_invalid_steps_are_history_alone():
    one = RecordedStep("a judge", "a judge", None, "sing", "sing", imitate=False)
    (step,) = steps_of(one, RecordedStep("a bench", "a bench", None, "hum", "hum"))
    assert "did sing" in step.prompt.text
    assert step.action == "hum"


def test_a_response_that_was_cut_off_has_no_end_token():
    policy = small_policy()
    cut, whole = (RecordedStep("a", "a", None, "hum", "hum", ended=ended) for ended in (False, True))
    encoder = PromptEncoder(policy.tokenizer)
    config = SFTConfig(steps=2, batch_size=1, curriculum=0.0, blind_fraction=0.0)
    (cut_row,), (whole_row,) = (next(_batches(steps_of(s), encoder, config, 0)) for s in (cut, whole))
    assert whole_row.response_ids == [*cut_row.response_ids, policy.tokenizer.eos_token_id]
    assert policy.tokenizer.eos_token_id not in cut_row.response_ids


# -- 4 -----------------------------------------------------------------------------------------------------------------

CHAT = [
    {"role": "system", "content": "You please judges."},
    {"role": "user", "content": "A judge listens."},
    {"role": "assistant", "content": "sing", "weight": 0},
    {"role": "tool", "content": "The judge heard something even."},
    {"role": "user", "content": "Go on."},
    {"role": "assistant", "content": [{"type": "text", "text": "hum"}]},
]


def test_an_assistant_message_is_a_row_under_what_precedes_it():
    (step,) = chat_steps(CHAT, "line 1")
    assert (step.prompt.system, step.prompt.text) == ("You please judges.", "The judge heard something even.\nGo on.")
    assert [(turn.text, turn.said) for turn in step.prompt.turns] == [("A judge listens.", "sing")]
    assert (step.action, step.ended) == ("hum", True)
    assert [s.action for s in chat_steps([{**m, "weight": 1} for m in CHAT], "line 1")] == ["sing", "hum"]


@pytest.mark.parametrize("preset", ["tiny", "tiny-conversation"])
def test_chat_messages_hold_the_rows_that_episodes_hold(preset, tmp_path):
    config = stapo.load_config(preset, **{**SMALL, "sft": {**SMALL["sft"], "curriculum": 0.0, "blind_fraction": 0.0}})
    stapo.export(config, tmp_path / "episodes.jsonl", demonstrations=True)
    stapo.export(config, tmp_path / "chat.jsonl", demonstrations=True, chat=True)
    encoder = PromptEncoder(small_policy().tokenizer)
    env = RunEnv(config)
    try:
        rows = [
            [
                (encoder.encode(step.prompt), encoder.encode_response(step.action, step.command, step.ended))
                for step in read_steps(stapo.load_config(config, sft={"data": str(tmp_path / name)}), env)
            ]
            for name in ("episodes.jsonl", "chat.jsonl")
        ]
    finally:
        env.close()
    assert rows[0] == rows[1]


# -- 5 -----------------------------------------------------------------------------------------------------------------


def edited(file, tmp_path, change):
    lines = file.read_text().splitlines()
    lines = change(lines) or lines
    (tmp_path / "edited.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "edited.jsonl"


def set_in(lines, number, **values):
    lines[number] = json.dumps({**json.loads(lines[number]), **values})


def broken(lines):
    lines[3] = lines[3][:-20]


def chat_line(**message):
    return [json.dumps({"messages": [{"role": "user", "content": "go"}, {"role": "assistant", **message}]})]


BAD = {
    "a broken line": (broken, "line 4 is no JSON"),
    "a line that is no object": (lambda lines: lines.insert(2, "[1]"), "line 3 holds [1], expected an object"),
    "no steps": (lambda lines: set_in(lines, 2, steps=None), "line 3 has None as 'steps', expected list"),
    "a step of another type": (lambda lines: set_in(lines, 2, steps=[7]), "line 3, steps[0] is 7"),
    "a step without a response": (
        lambda lines: set_in(lines, 2, steps=[{"observation": "a", "action": "b"}]),
        "line 3, steps[0] has nothing as 'response', expected str",
    ),
    "odd commands": (
        lambda lines: set_in(lines, 2, steps=[{"observation": "a", "action": "b", "response": "b", "admissible": [1]}]),
        "has admissible [1], expected a list of texts, or null",
    ),
    "a later format": (lambda lines: set_in(lines, 0, stapo_record=9), "record format 9, this version reads format 1"),
    "no header": (lambda lines: lines[1:], "line 1 is neither the header of a record"),
    "a header alone": (lambda lines: lines[:1], "holds no step to imitate"),
    "tool calls apart": (lambda _: chat_line(content=None, tool_calls=[{}]), "messages[1] has tool_calls"),
    "no text": (lambda _: chat_line(content=3), "messages[1] has the content 3, expected text"),
    "a role": (lambda _: chat_line(content="a", role="system"), "messages[1] has the role 'system' here"),
    "messages that are none": (lambda _: [json.dumps({"messages": "hi"})], "expected a list of messages"),
    "chat with blind prompts": (lambda _: chat_line(content="go"), "sft.blind_fraction is 0.1; set it to 0"),
}  # fmt: skip


@pytest.mark.parametrize("change, said", BAD.values(), ids=BAD)
def test_bad_files_are_refused_before_anything_is_trained(config, file, tmp_path, change, said):
    path = edited(file, tmp_path, change)
    with pytest.raises(ConfigError) as err:
        stapo.train(stapo.load_config(config, sft={"data": str(path)}), tmp_path / "run")
    assert said in str(err.value)
    assert not (tmp_path / "run" / "sft.jsonl").exists()


def test_a_line_that_never_ends_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"messages": []}\n')
        file.truncate(16 * MOST_BYTES)  # a hole: a line of zeros
    lines = read_lines(path)
    assert next(lines)[1] == {"messages": []}
    tracemalloc.start()
    with pytest.raises(ConfigError, match=r"line 2 is longer than 67,108,864 bytes; shorten or remove the line"):
        next(lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MOST_BYTES
    with pytest.raises(ConfigError, match="line 1 is longer than 15 bytes"):
        next(read_lines(path, 15))


def test_a_file_that_is_not_there(config, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        stapo.train(stapo.load_config(config, sft={"data": str(tmp_path / "none.jsonl")}), tmp_path / "run")


def test_another_prompt_or_environment_is_refused_with_what_differs(config, file, tmp_path):
    other = stapo.load_config(
        config, sft={"data": str(file)}, agent={"history_length": 3}, **{"env.options.scenes": "small"}
    )
    with pytest.raises(ConfigError) as err:
        stapo.train(other, tmp_path / "run")
    assert "agent.history_length: 1 in the file, 3 here" in str(err.value)
    assert "env.options.scenes: 'tiny' in the file, 'small' here" in str(err.value)
    longer = stapo.load_config(config, sft={"data": str(file)}, agent={"max_prompt_tokens": 300})
    assert stapo.train(longer, tmp_path / "run").status == "done"


def test_a_file_that_changed_since_the_run_began(config, file, tmp_path):
    path = edited(file, tmp_path, lambda lines: None)
    settings = stapo.load_config(config, sft={"data": str(path)}, log={"save_seconds": 0.0})

    class Stop(stapo.Callback):
        def on_save(self, event):
            if event.stage == "sft":
                raise stapo.StopTraining

    assert stapo.train(settings, tmp_path / "run", callbacks=[Stop()]).status == "stopped"
    edited(file, tmp_path, lambda lines: lines[:-1])
    with pytest.raises(ConfigError, match="has changed since the run began"):
        stapo.train(settings, tmp_path / "run")


def test_transcripts_of_earlier_versions_say_what_to_do():
    with pytest.raises(ConfigError, match="stapo eval RUN --record FILE"):
        episode_of_transcript({"steps": [{"observation": "a"}]}, "line 1")


def test_a_folder_that_is_not_a_run(tmp_path):
    with pytest.raises(ConfigError, match="is not a run directory"):
        stapo.export(str(tmp_path), tmp_path / "out.jsonl")
