"""Loading games: counts, filters, laziness, and messages that say what is wrong with a file."""

from __future__ import annotations

import json
import lzma
import zipfile

import pytest
from tiny_games import kitchen, record, write_jsonl

from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.alfworld.game import TASK_TYPES
from stapo.envs.alfworld.release import ReleaseTree
from stapo.envs.alfworld.sources import TaskSource, open_source, ordered_splits
from stapo.errors import ConfigError, GameFileError, UnknownNameError

SPLITS = ("train", "valid_seen", "valid_unseen")


@pytest.fixture(scope="module")
def released(shared, tmp_path_factory):
    """36 playable games and 6 that have to be skipped, as they were released."""
    archive = shared / "data" / "alfworld" / "raw_sample_36_games.zip"
    if not archive.exists():
        pytest.skip(f"no sample of released games at {archive}")
    folder = tmp_path_factory.mktemp("alfworld_data")
    with zipfile.ZipFile(archive) as sample:
        sample.extractall(folder)
    return folder


# -- recorded games ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_recorded_games_are_complete(shared):
    source = open_source(shared / "data" / "alfworld")
    assert {split: len(source.ids(split)) for split in source.splits()} == {
        "train": 3553,
        "valid_seen": 140,
        "valid_unseen": 134,
    }
    for split in SPLITS:
        assert source.ids(split) == sorted(source.ids(split))
        assert {source.task_type(task) for task in source.ids(split)} == set(TASK_TYPES)


def test_one_file_gives_one_split(shared):
    env = AlfworldEnv(games=shared / "data" / "alfworld" / "games_valid_seen.jsonl.xz")
    assert env.splits == ("valid_seen",)
    assert len(env.tasks) == 140


@pytest.mark.slow
def test_environments_of_a_process_share_their_games(shared):
    folder = shared / "data" / "alfworld"
    assert open_source(folder) is open_source(str(folder))


# -- the original layout -------------------------------------------------------------------------


def test_the_released_tree_keeps_and_skips_what_the_original_loader_does(released):
    source = open_source(released)
    assert {split: len(source.ids(split)) for split in source.splits()} == dict.fromkeys(SPLITS, 12)
    tasks = [task for split in SPLITS for task in source.ids(split)]
    assert not [task for task in tasks if "movable" in task or "Sliced" in task]
    assert {source.task_type(task) for task in tasks} == set(TASK_TYPES)
    assert isinstance(source, TaskSource)


def test_the_release_can_be_named_by_either_folder_or_by_its_variable(released, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(released))
    whole = open_source(released).ids("train")
    assert open_source(released / "json_2.1.1").ids("train") == whole
    assert open_source("$ALFWORLD_DATA").ids("train") == whole


@pytest.mark.slow
def test_the_tree_and_the_compact_files_hold_the_same_games(released, shared):
    tree, compact = open_source(released), open_source(shared / "data" / "alfworld")
    for split in SPLITS:
        for task in tree.ids(split):
            assert tree.load(task) == compact.load(task)


def released_game(root, split="train", name="pick_and_place_simple-Mug-None-Desk-1/trial_1", **changes):
    folder = root / split / name
    folder.mkdir(parents=True)
    data = {
        "pddl_domain": "",
        "grammar": '"rhs": "Your task is to: put a mug in desk."',
        "pddl_problem": kitchen().game().pddl_problem,
        "solvable": True,
    }
    data.update(changes.pop("game", {}))
    (folder / "traj_data.json").write_text(
        json.dumps({"task_id": "t", "task_type": changes.pop("task_type", "pick_and_place_simple")})
    )
    (folder / "game.tw-pddl").write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"name": "pick_and_place_with_movable_recep-A-B-C-1/trial_2"},
        {"name": "pick_and_place_simple-AppleSliced-None-Desk-1/trial_2"},
        {"task_type": "pick_and_place_with_movable_recep"},
        {"task_type": "unheard_of"},
        {"game": {"solvable": False}},
        {"game": {"solvable": None}},
    ],
)
def test_each_filter_of_the_original_loader(tmp_path, options):
    released_game(tmp_path)
    released_game(tmp_path, **{"name": "pick_and_place_simple-Mug-None-Desk-2/trial_2", **options})
    assert open_source(tmp_path).ids("train") == ["train/pick_and_place_simple-Mug-None-Desk-1/trial_1"]


def test_a_folder_without_a_game_file_is_skipped(tmp_path):
    released_game(tmp_path)
    (released_game(tmp_path, name="other/trial_2") / "game.tw-pddl").unlink()
    assert len(open_source(tmp_path).ids("train")) == 1


def test_a_released_game_can_be_played(tmp_path):
    released_game(tmp_path)
    env = AlfworldEnv(games=tmp_path)
    assert env.reset(env.tasks[0]).goal == "put a mug in desk."


def test_an_empty_split_is_named(tmp_path):
    released_game(tmp_path)
    (tmp_path / "valid_unseen").mkdir()
    with pytest.raises(GameFileError, match=r"split 'valid_unseen' .* holds no playable game"):
        open_source(tmp_path)


MUG, CUP = "pick_and_place_simple-Mug-None-Desk-1/trial_1", "pick_and_place_simple-Cup-None-Desk-1/trial_1"


def test_games_of_a_split_of_another_name_are_played(tmp_path):
    released_game(tmp_path)
    released_game(tmp_path, split="valid_train", name=CUP)
    env = AlfworldEnv(games=tmp_path)
    assert env.splits == ("train", "valid_train")
    assert list(env.tasks_of("valid_train")) == [f"valid_train/{CUP}"]
    assert env.reset(f"valid_train/{CUP}").goal == "put a mug in desk."


def test_a_tree_without_any_published_split(tmp_path):
    released_game(tmp_path, split="mine", name=CUP)
    assert AlfworldEnv(games=tmp_path).splits == ("mine",)


def test_what_cannot_be_played_is_said(tmp_path):
    released_game(tmp_path)
    (released_game(tmp_path, split="tests_seen", name=CUP) / "game.tw-pddl").unlink()
    env = AlfworldEnv(games=tmp_path)
    assert env.splits == ("train",)
    assert len(env.notes) == 1
    assert "tests_seen' holds 1 game and none that can be played" in env.notes[0]
    (tmp_path / "train" / MUG / "game.tw-pddl").unlink()
    with pytest.raises(GameFileError, match="holds no playable game"):
        ReleaseTree(tmp_path)


@pytest.mark.parametrize(
    "given, splits",
    [
        ("", ("train",)),
        ("json_2.1.1", ("train",)),
        ("json_2.1.1/train", ("train",)),
        (f"json_2.1.1/train/{MUG}", ("games",)),
        (f"json_2.1.1/train/{MUG}".rpartition("/")[0], ("games",)),
    ],
)
def test_any_folder_of_a_tree_can_be_given(tmp_path, given, splits):
    released_game(tmp_path / "data" / "json_2.1.1")
    (tmp_path / "data" / "logic").mkdir()
    env = AlfworldEnv(games=tmp_path / "data" / given)
    assert env.splits == splits
    assert env.reset(env.tasks[0]).goal == "put a mug in desk."
    # One more folder around it.
    if not given:
        assert AlfworldEnv(games=tmp_path).splits == ("train",)


def test_games_that_two_splits_share_are_counted(tmp_path):
    released_game(tmp_path)
    released_game(tmp_path, split="valid_seen", name=CUP)
    released_game(tmp_path, split="valid_seen", name=MUG, game={"grammar": '"Your task is to: put some mug on desk."'})
    env = AlfworldEnv(games=tmp_path)
    assert env.notes == ["split 'train' also holds 1 of 2 games of split 'valid_seen'."]
    rows = [
        {**record(kitchen().game()), "id": name, "split": split}
        for name, split in (("a", "train"), ("b", "valid_seen"), ("c", "valid_seen"))
    ]
    rows[2]["pddl_problem"] += "\n"
    path = tmp_path / "games_own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert AlfworldEnv(games=path).notes == ["split 'train' also holds 2 of 2 games of split 'valid_seen'."]


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("games_a.jsonl", b'{"id": ' + b"[" * 100_000, "line 1: not valid JSON .nested too deep"),
        ("games_a.jsonl", b'{"id": ' + b"9" * 10_000 + b"}", "line 1: not valid JSON"),
        ("games_a.jsonl", b'{"id": NaN, "split": 1}', "line 1: key 'id' must be a non-empty text"),
        ("games_a.jsonl", b"\x00\xff\xfe", "line 1: not valid JSON"),
        ("games_a.jsonl", b"\xef\xbb\xbf\n", "holds no games"),
        ("games_a.jsonl.xz", lzma.compress(b"\0" * (40 << 20)), "line 1: longer than"),
        ("games_a.jsonl.xz", b"", "damaged or cut off"),
    ],
)
def test_hostile_lines_are_one_error(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GameFileError, match=said):
        open_source(tmp_path)


def test_a_hostile_released_game_is_one_error(tmp_path):
    folder = released_game(tmp_path)
    (folder / "game.tw-pddl").write_bytes(b'{"grammar": ' + b"[" * 100_000 + b', "solvable": true}')
    env = AlfworldEnv(games=tmp_path)
    with pytest.raises(GameFileError, match=r"not valid JSON \(nested too deep"):
        env.reset(env.tasks[0])


def test_a_truncated_released_game_is_named(tmp_path):
    folder = released_game(tmp_path)
    source = open_source(tmp_path)
    text = (folder / "game.tw-pddl").read_text()
    (folder / "game.tw-pddl").write_text(text[: len(text) // 2])
    with pytest.raises(GameFileError, match=r"game\.tw-pddl is not valid JSON .* cut short"):
        source.load(source.ids("train")[0])
    with pytest.raises(GameFileError, match="not valid JSON"):
        ReleaseTree(tmp_path)


@pytest.mark.parametrize("key", ["pddl_problem", "grammar"])
def test_a_released_game_without_a_key(tmp_path, key):
    released_game(tmp_path, game={key: None})
    source = open_source(tmp_path)
    with pytest.raises(GameFileError, match=f"key '{key}' is missing"):
        source.load(source.ids("train")[0])


# -- compact files -------------------------------------------------------------------------------


def test_plain_and_compressed_files_are_read_alike(tmp_path):
    games = [kitchen().game(f"train/{i}") for i in (2, 10, 1)]
    plain = write_jsonl(tmp_path / "some.jsonl", games)
    packed = tmp_path / "some.jsonl.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    for path in (plain, packed):
        source = open_source(path)
        assert source.ids("train") == ["train/1", "train/10", "train/2"]
        assert source.load("train/10") == games[1]


def test_an_edited_file_is_read_again(tmp_path):
    path = write_jsonl(tmp_path / "some.jsonl", [kitchen().game("train/1")])
    first = open_source(path)
    write_jsonl(path, [kitchen().game("train/1"), kitchen().game("train/2")])
    assert len(first.ids("train")) == 1
    assert len(open_source(path).ids("train")) == 2


def test_a_missing_path():
    with pytest.raises(GameFileError, match=r"'/no/such/place' does not exist; expected a \.jsonl"):
        open_source("/no/such/place")


def test_a_folder_without_games(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(GameFileError, match="no games in folder"):
        open_source(tmp_path)


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "games.csv"
    path.write_text("id\n")
    with pytest.raises(GameFileError, match=r"expected a name ending in \.jsonl or \.jsonl\.xz"):
        open_source(path)


def test_an_empty_file(tmp_path):
    path = tmp_path / "games.jsonl"
    path.write_text("\n\n")
    with pytest.raises(GameFileError, match="holds no games"):
        open_source(path)


def test_a_truncated_archive(tmp_path):
    plain = write_jsonl(tmp_path / "a.jsonl", [kitchen().game(f"train/{i}") for i in range(50)])
    whole = lzma.compress(plain.read_bytes())
    path = tmp_path / "games.jsonl.xz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GameFileError, match=r"games\.jsonl\.xz, line \d+: the compressed data is damaged or cut off"):
        open_source(path)
    path.write_bytes(b"not an archive at all")
    with pytest.raises(GameFileError, match="line 1: the compressed data is damaged"):
        open_source(path)


def test_a_truncated_line_is_named(tmp_path):
    path = write_jsonl(tmp_path / "games.jsonl", [kitchen().game(f"train/{i}") for i in range(3)])
    path.write_text(path.read_text()[:-40])
    with pytest.raises(GameFileError, match=r"games\.jsonl, line 3: not valid JSON"):
        open_source(path)


@pytest.mark.parametrize("key", ["id", "split", "task_type", "goal", "pddl_problem"])
def test_a_record_without_a_key_names_the_key_and_the_line(tmp_path, key):
    records = [record(kitchen().game(f"train/{i}")) for i in range(2)]
    del records[1][key]
    path = tmp_path / "games.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(GameFileError, match=f"line 2: key '{key}' must be a non-empty text, it is missing"):
        open_source(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"goal": 7}, "key 'goal' must be a non-empty text, found 7"),
        (
            {"task_type": "pick_heat_then_place"},
            r"unknown task_type .* Did you mean 'pick_heat_then_place",
        ),
    ],
)
def test_a_wrong_value_names_the_line(tmp_path, change, message):
    path = tmp_path / "games.jsonl"
    path.write_text(json.dumps(record(kitchen().game()) | change))
    with pytest.raises(GameFileError, match=f"line 1: {message}"):
        open_source(path)


def test_a_line_that_is_no_object(tmp_path):
    path = tmp_path / "games.jsonl"
    path.write_text("[1, 2]")
    with pytest.raises(GameFileError, match="line 1: expected a JSON object, found list"):
        open_source(path)


def test_an_id_that_occurs_twice(tmp_path):
    path = write_jsonl(tmp_path / "games.jsonl", [kitchen().game("a"), kitchen().game("a")])
    with pytest.raises(GameFileError, match="line 2: id 'a' occurs twice"):
        open_source(path)


def test_unknown_names_propose_the_closest(tmp_path):
    source = open_source(write_jsonl(tmp_path / "games.jsonl", [kitchen().game("train/mug-1")]))
    with pytest.raises(UnknownNameError, match=r"unknown task 'train/mug-2'\. Did you mean 'train/mug-1'"):
        source.load("train/mug-2")
    with pytest.raises(UnknownNameError, match=r"unknown split 'trian'\. Did you mean 'train'"):
        source.ids("trian")


@pytest.mark.parametrize("games", [7, True, ["a"], b"bytes"])
def test_games_of_a_wrong_type(games):
    with pytest.raises(ConfigError, match="games must be a path or None"):
        open_source(games)


def test_splits_come_in_the_order_of_reports():
    assert ordered_splits({"zeta", "valid_unseen", "alpha", "train", "valid_seen"}) == [
        "train",
        "valid_seen",
        "valid_unseen",
        "alpha",
        "zeta",
    ]
