"""Configuration files as other people write them: odd ones are one clear error within seconds; files extend others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stapo import documents
from stapo.algo import get_algorithm
from stapo.cli.main import main
from stapo.config.presets import describe_presets, load_config, preset_names
from stapo.errors import ConfigError, StapoError, UnknownNameError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "aliases that unfold to millions": (BOMB, "20,000 values"),
    "an alias of itself": ("a: &a [*a]\n", "contains itself"),
    "a mapping of itself": ("&a {a: *a}\n", "contains itself"),
    "a month 13": ("seed: 2024-13-45\n", "cannot be used|month"),
    "a date": ("seed: 2024-01-01\n", "seed is datetime.date"),
    "an int that is none": ("seed: !!int abc\n", "abc"),
    "a float that is none": ("seed: !!float abc\n", "abc"),
    "a bool that is none": ("seed: !!bool abc\n", "cannot be used"),
    "a time that is none": ("seed: !!timestamp abc\n", "cannot be used"),
    "an object of Python": ("seed: !!python/object/apply:os.system ['true']\n", "constructor"),
    "a tag of its own": ("seed: !mine 3\n", "constructor"),
    "a set": ("seed: !!set {a, b}\n", "seed is {"),
    "bytes": ("seed: !!binary aGk=\n", "seed is b'hi'"),
    "no base64": ("seed: !!binary a\n", "cannot be used"),
    "not a number": ("optim: {learning_rate: .nan}\n", "learning_rate is nan"),
    "infinite": ("optim: {learning_rate: .inf}\n", "learning_rate is inf"),
    "beyond all floats": ("optim: {learning_rate: 1e999}\n", "learning_rate is inf"),
    "below all floats": ("optim: {learning_rate: 1e-400}\n", "learning_rate is 0"),
    "octal": ("seed: 010\n", "base 8"),
    "base 60": ("seed: 1:30\n", "base 60"),
    "a huge number": ("seed: " + "9" * 5000 + "\n", "cannot be used|digits"),
    "a huge number in hex": ("seed: 0x" + "f" * 5000 + "\n", "seed is <int"),
    "a seed beyond 64 bits": ("seed: 18446744073709551616\n", "seed is 18446744073709551616"),
    "a tab": ("optim:\n\titerations: 1\n", "cannot start any token"),
    "a key twice": ("seed: 1\nseed: 2\n", "given twice at line 2"),
    "a nested key twice": ("optim: {epochs: 1, epochs: 2}\n", "'epochs' is given twice"),
    "a list": ("- 1\n- 2\n", "holds list"),
    "a number": ("3\n", "holds int"),
    "zero": ("0\n", "holds int"),
    "false": ("false\n", "holds bool"),
    "an empty list": ("[]\n", "holds list"),
    "text": ("seed\n", "holds str"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "not YAML"),
    "a list as key": ("[1, 2]: 3\n", "not YAML|cannot be used"),
    "a number as key": ("1: 3\n", "unknown key '1'"),
    "a date as key": ("2024-01-01: 3\n", "unknown key"),
    "escape sequences": ('"\\e[2Ja": 3\n', "unknown key"),
    "half a character": ('env: {name: "\\ud800"}\n', "env.name"),
    "half a character as key": ('"\\ud800": 1\n', "unknown key"),
    "NUL": ('model: {path: "a\\0b"}\n', "model.path"),
    "deep lists": ("[" * 5000, "nested too deep"),
    "deep mappings": ("{a: " * 5000, "nested too deep"),
    "a deep option": ("env: {options: {a: " + "[" * 50 + "]" * 50 + "}}\n", "env.options.a"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), "not UTF-8"),
    "binary": (bytes(range(256)), "not UTF-8|not YAML"),
    "a pickle": (b"cos\nsystem\n(S'true'\ntR.", "holds str|not YAML"),
    "control characters": ("seed: 1 # \x00\n", "not YAML"),
    "large": ("#" * 300_000, "larger than"),
    "many keys": ("".join(f"a{i}: 1\n" for i in range(10_000)), "values|larger"),
    "per_algorithm of a list": ("per_algorithm: [1]\n", "per_algorithm"),
    "an algorithm that is a list": ("algorithm: [1]\n", "algorithm is"),
    "an algorithm whose name is a list": ("algorithm: {name: [1]}\n", "algorithm.name is"),
    "an algorithm of a list by --algorithm": ("algorithm: {name: [1], loss: {beta: 1}}\n", "algorithm.name is|unknown"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_is_one_error(tmp_path, name):
    content, said = FILES[name]
    (tmp_path / "c.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StapoError, match=said) as found:
        load_config(str(tmp_path / "c.yaml"))
    assert len(str(found.value)) < 800
    assert str(found.value).isprintable()


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "{}\n", "\ufeff{}\n"])
def test_a_file_that_says_nothing_gives_the_defaults(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    assert load_config(str(tmp_path / "c.yaml")).seed == 0


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "c.yaml").write_text("\ufeffseed: 3\n", encoding="utf-8")
    assert load_config(str(tmp_path / "c.yaml")).seed == 3


READ_OTHERWISE = [
    "[" * 100_000, "{a: " * 50_000, "a: &x [*x]", "- &a 1\n- &a 2\n- *a", "a: \ud800", "a: \x07", "a:\tb", "\ta: 1",
    "!", "! a", "{a?: 1}", "? a\n: b", "? [a]", "[a:b]", "{a:1}", "{a, b: }", "[a,,b]", "%YAML 2.0\n---\na",
    "--- a\n--- b", "a: 'x\n\n  y'", "\ufeffa: 1", "a: \u2028 b", "a: b: c", "é: 😀", "a: |\n  x\n y",
    "b: 2\n<<: {a: 1}", "...", "@x", "",
]  # fmt: skip


@pytest.mark.skipif(documents._Scanned is None, reason="PyYAML was built without libyaml")
def test_a_file_means_the_same_with_and_without_libyaml(monkeypatch):
    """The faster scanner decides nothing: the other reads what it refuses or takes more kindly."""

    def read(text):
        try:
            return repr(documents.parse_yaml(text))
        except ValueError as err:
            return str(err)

    texts = [path.read_text() for path in (Path(documents.__file__).parent / "recipes").rglob("*.yaml")]
    assert len(texts) > 20
    texts += READ_OTHERWISE
    fast = [read(text) for text in texts]
    monkeypatch.setattr(documents, "_Scanned", None)
    assert fast == [read(text) for text in texts]


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name, said in (
        ("folder.yaml", "directory|plain file"),
        ("pipe.yaml", "not a plain file"),
        ("loop.yaml", "cannot be read"),
        ("none.yaml", "cannot be read"),
        ("n" * 5000 + ".yaml", "cannot be read"),
        ("n" * 5000, "unknown preset or file"),
    ):
        with pytest.raises(StapoError, match=said):
            load_config(str(tmp_path / name))
    with pytest.raises(ConfigError, match="not a plain file"):
        load_config("/dev/zero")


@pytest.mark.parametrize("args, said", [
    (["--seed", "18446744073709551616"], "seed is 18446744073709551616"),
    (["--seed", "-1"], "seed is -1"),
    (["--seed", "1.5"], "--seed"),
    (["--seed", "abc"], "--seed"),
    (["--seed", ""], "--seed"),
    (["--optim.learning-rate", "3e38"], "optim.learning_rate is 3e+38"),
    (["--optim.learning-rate", "nan"], "optim.learning_rate is nan"),
    (["--optim.learning-rate", "inf"], "optim.learning_rate is inf"),
    (["--optim.learning-rate=-1"], "optim.learning_rate is -1"),
    (["--optim.learning-rate", "1e-400"], "optim.learning_rate is 0"),
    (["--optim.lerning-rate", "1"], "Did you mean '--optim.learning-rate'?"),
    (["--optim.schedule", "cosin"], "--optim.schedule"),
    (["--rollout.groups", "9" * 30], "rollout.groups is 999"),
    (["--model.layers", "99999999"], "model.layers"),
    (["--env.max_steps", ".nan"], "env.options.max_steps is nan"),
    (["--rollout.group-size", "1"], "rollout.group_size is 1"),
])  # fmt: skip
def test_the_command_line_refuses_the_same_in_one_line(capsys, args, said):
    assert main(["train", "tiny", "--dry-run", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize("value", ["2024-13-45", "010", "[[", "!!int x", "&a [*a]"])
def test_options_that_are_no_numbers_are_text(capsys, value):
    assert main(["train", "tiny", "--dry-run", "--env.tasks", value]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


# -- groups of one -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["stapo", "gigpo", "grpo", "rloo", "dapo", "hgpo", "empg", "gspo", "dr-grpo"])
def test_a_group_of_one_has_nobody_to_compare_with(tmp_path, algorithm):
    (tmp_path / "c.yaml").write_text("rollout: {group_size: 1}\n")
    with pytest.raises(ConfigError, match=r"rollout\.group_size is 1.*Set rollout\.group_size to 2"):
        load_config(str(tmp_path / "c.yaml"), algorithm)


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce++"])
def test_algorithms_without_groups_take_it(tmp_path, algorithm):
    (tmp_path / "c.yaml").write_text("rollout: {group_size: 1}\n")
    assert load_config(str(tmp_path / "c.yaml"), algorithm).rollout.group_size == 1


def test_dynamic_sampling_of_groups_of_one_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("rollout: {group_size: 1}\nalgorithm: {name: ppo, sampling: {dynamic: true}}\n")
    with pytest.raises(ConfigError, match=r"sampling\.dynamic"):
        load_config(str(tmp_path / "c.yaml"))


def test_without_iterations_nothing_is_compared(tmp_path):
    (tmp_path / "c.yaml").write_text("rollout: {group_size: 1}\noptim: {iterations: 0}\n")
    assert load_config(str(tmp_path / "c.yaml")).rollout.group_size == 1


# -- extends -----------------------------------------------------------------------------------------------------------


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return str(folder / f"{next(iter(files))}.yaml")


def test_a_file_extends_a_preset(tmp_path):
    path = write(tmp_path, mine="extends: tiny\nseed: 7\noptim: {iterations: 3}\n")
    mine, tiny = load_config(path), load_config("tiny")
    assert (mine.seed, mine.optim.iterations) == (7, 3)
    assert (mine.env, mine.model, mine.sft, mine.algorithm) == (
        tiny.env, tiny.model, tiny.sft, tiny.algorithm
    )  # fmt: skip
    assert mine.optim.learning_rate == tiny.optim.learning_rate


def test_a_file_extends_a_file_beside_it_which_extends_another(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, base="extends: search-tiny\nseed: 1\nlog: {keep_saves: 5}\n")
    path = write(tmp_path / "sub", mine="extends: ../base.yaml\nseed: 2\n")
    config = load_config(path)
    assert (config.seed, config.log.keep_saves, config.env.name) == (2, 5, "search")


def test_the_name_of_an_environment_stands_for_its_preset_there_too(tmp_path):
    assert load_config(write(tmp_path, mine="extends: webshop\n")) == load_config("webshop-tiny")


def test_another_algorithm_over_what_is_extended(tmp_path):
    write(tmp_path, base="algorithm: {name: stapo, loss: {beta: 0.5}, outlier: {lam: 1.5}}\n")
    path = write(tmp_path, mine="extends: base.yaml\nalgorithm: grpo\n")
    found = load_config(path).algorithm
    assert (found.name, found.loss.beta) == ("grpo", 0.5)
    assert found.outlier == get_algorithm("grpo").outlier
    path = write(tmp_path, mine="extends: base.yaml\nalgorithm: {outlier: {lam: 3.0}}\n")
    found = load_config(path).algorithm
    assert (found.name, found.loss.beta, found.outlier.lam) == ("stapo", 0.5, 3.0)


@pytest.mark.parametrize(
    "files, said",
    [
        ({"a": "extends: a.yaml\n"}, "extends itself"),
        ({"a": "extends: b.yaml\n", "b": "extends: ./a.yaml\n"}, "extends itself"),
        (
            {"a0": "extends: a1.yaml\n", **{f"a{i}": f"extends: a{i + 1}.yaml\n" for i in range(1, 12)}},
            "8 are the most",
        ),
        ({"a": "extends: tinny\n"}, "Did you mean 'tiny'"),
        ({"a": "extends: none.yaml\n"}, r"none.yaml' cannot be read.*'.*a.yaml' extends 'none.yaml'"),
        ({"a": "extends: [tiny]\n"}, r"extends of .* is \['tiny'\]"),
        ({"a": "extends: null\n"}, "extends of .* is None"),
        ({"a": "extends: ''\n"}, "extends of"),
        ({"a": 'extends: "a\\0.yaml"\n'}, "extends of"),
        ({"a": "extends: b.yaml\n", "b": "[1]\n"}, "holds list"),
        ({"a": "extends: /etc/passwd\n"}, "unknown preset or file"),
    ],
)
def test_what_cannot_be_extended(tmp_path, files, said):
    with pytest.raises((ConfigError, UnknownNameError), match=said):
        load_config(write(tmp_path, **files))


def test_a_cycle_by_way_of_a_link_is_one(tmp_path):
    path = write(tmp_path, a="extends: b.yaml\n")
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(path)


# -- presets -----------------------------------------------------------------------------------------------------------


def test_every_preset_is_described():
    found = {preset.name: preset for preset in describe_presets()}
    assert list(found) == preset_names()
    tiny = load_config("tiny")
    assert found["tiny"].environment == "alfworld"
    assert found["tiny"].size == f"{tiny.optim.iterations} x {tiny.rollout.groups} x {tiny.rollout.group_size}"
    assert all(len(preset.about) > 10 for preset in found.values())


def test_they_are_listed(capsys):
    assert main(["presets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in preset_names())
    assert main(["presets", "--json"]) == 0
    assert main(["presets", "tiny"]) == 2
