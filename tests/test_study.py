"""Settings files: of a study, and as YAML at all. What cannot be used is said before anything is made."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from relisten import cli, records, tags
from relisten.commands.options import command_line
from relisten.data.offline.short import heard, segment
from relisten.data.worlds import curriculum
from relisten.data.worlds.scenes import bank, make_scene
from relisten.models import load
from relisten.types import Clip, Event
from studies.echo import __main__ as study_command
from studies.echo import study
from studies.echo import world as small_world
from studies.echo.__main__ import read
from studies.echo.localisation import _names, located
from studies.echo.rows import ARMS, STAGES
from studies.echo.study import StudyConfig, check, gate, train


def test_the_shipped_study_can_be_used() -> None:
    config = read(Path(study.__file__).parent / "study.yaml")
    check(config)
    assert config.output == Path("out/study") and config.grpo["group_size"] == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clips: 5", "clips: must hold settings"),
        ("clips: {foo: 1}", "clips: holds the setting 'foo'"),
        ("base: {group_size: 4}", "base: holds the setting 'group_size'"),
        ("grpo: {format: grounded}", "grpo: format is set by the study itself"),
        ("cold: {learning_rate: fast}", "learning_rate: 'fast'"),
        ("cold: {steps: 1.5}", "steps: 1.5"),
        ("seeds: many", "seeds: 'many' is no whole number"),
        ("seeds: 0", "at least 1"),
        ("jobs: 0", "at least 1"),
        ("rows: [A, X]", "there is no row 'X'"),
        ("rows: [E]\nside_seeds: 0", "rows: no seed has E; set side_seeds to 1 or more"),
        ("rows: [D gentle]", "rows: D gentle needs settings `gentle`"),
        ("rows: A", "rows: 'A' is no list"),
        ("{num_scenes: 5, num_control_scenes: 6}", "num_scenes no fewer"),
        ("located: 95", "no share from 0 to 1"),
        ("scenes: 5", "unknown setting 'scenes'"),
        ("[a, b]", "holds a list, not settings"),
        ("clips: {", "cannot be read as YAML"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    settings = tmp_path / "study.yaml"
    settings.write_text(text + "\n")
    assert cli.run([str(settings), "--output", str(tmp_path / "out")], study_command.commands) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_a_whole_number_is_not_rounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text(f"data: q.jsonl\noutput: {tmp_path / 'run'}\nseed: 1.5\n")
    assert cli.run(["train", "sft", str(tmp_path / "s.yaml")]) == 2
    assert "seed: 1.5 is no whole number" in capsys.readouterr().err


def test_rows_are_named_on_the_command_line_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(study_command, "make", lambda config: asked.append(config.rows) or sys.exit(7))
    settings = tmp_path / "study.yaml"
    settings.write_text("rows: [A]\n")
    command = [str(settings), "--output", str(tmp_path / "out"), "--rows"]
    with pytest.raises(SystemExit):
        cli.run([*command, "B, D,B'"], study_command.commands)
    assert asked == [("B", "D", "B'")]
    assert cli.run([*command, "B,X"], study_command.commands) == 2
    assert "there is no row 'X'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train", "sft"], ["train", "grpo"], ["data", "build"]])
@pytest.mark.parametrize("content", [b"data: [", b"- a\n", b"\xff\xfe\x00"])
def test_settings_that_are_no_yaml_name_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], content: bytes
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_bytes(content)
    assert cli.run([*command, str(settings)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"relisten: {settings}: ")


def test_a_model_that_was_not_written_to_its_end_is_not_taken_for_finished(tmp_path: Path) -> None:
    model = tmp_path / "clips" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="batch_size"):  # it is to be trained, so settings are looked at
        train(STAGES["clips"], tmp_path, "clips", {"steps": 1, "batch_size": 0}, 0)
    (model / "prompts.json").write_text("{}")
    assert train(STAGES["clips"], tmp_path, "clips", {}, 0) == model


def test_a_study_has_no_settings_by_default() -> None:
    check(StudyConfig())


@pytest.mark.parametrize("world", [curriculum, small_world])
def test_there_is_one_question_for_every_index_of_rl(world: ModuleType) -> None:
    """Scene 50 of nano's world allows none."""
    for index in (0, 50, 54):
        [example] = world.rl_rows(index)
        assert example.answer in example.choices and example.cot is None
        assert world.rl_rows(index)[0].question == example.question


def test_a_base_that_does_not_know_where_things_are_ends_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def six_of_ten(model: object, clips: Sequence[Clip]) -> float:
        measured.append(len(clips))
        return 0.6

    monkeypatch.setattr(study, "load", lambda folder: None)
    monkeypatch.setattr(study, "located", six_of_ten)
    with pytest.raises(ValueError, match=r"base locates 0\.60 of the events, less than 0\.75; give base more steps"):
        gate(tmp_path, StudyConfig(located=0.75))
    assert gate(tmp_path, StudyConfig(located=0.5)) == 0.6
    assert measured == [200]  # once; the second time it is read


def test_events_are_located_by_name_and_onset() -> None:
    """nano tells most of its own world; of scenes told to it under other labels, nothing."""
    clips = [make_scene(seed, bank("heldout")) for seed in range(6)]
    model = load("nano")
    assert located(model, clips) > 0.6
    renamed = [replace(c, events=tuple(replace(e, label="nothing", labels={}) for e in c.events)) for c in clips]
    assert located(model, renamed) == 0


@pytest.mark.parametrize(
    ("said", "label", "group", "named"),
    [
        ("knock", "knock", "", True), ("two knocks", "knock", "", True), ("a low bell", "bell", "", True),
        ("a xylophone", "phone", "", False), ("word", "seven", "word", True), ("a bell", "seven", "word", False),
        ("a voice saying two", "seven", "word", True),
    ],
)  # fmt: skip
def test_a_caption_may_tell_more_than_a_name(said: str, label: str, group: str, named: bool) -> None:
    """The base whose captions tell all was said to locate nothing, and could not be made."""
    assert _names(said, Event(label, 0.0, 1.0, {"group": group})) == named


def test_fine_captions_tell_what_clips_tell() -> None:
    """Chains and questions stay as they are."""
    for index in range(40):
        plain, fine = small_world.mixed_rows(index), small_world.fine_mixed_rows(index)
        clip, _, _ = small_world.scene(index)
        changed = [(a, b) for (a, _), (b, _) in zip(plain, fine, strict=True) if a.answer != b.answer]
        assert all(a.question.startswith(("Tell what", "What is heard at")) for a, _ in changed)
        told = next(e for e, _ in fine if e.question == "Tell what is heard.")
        assert str(told.answer).count(",") == len(clip.events) - 1
        assert all(heard(event) in str(told.answer) for event in clip.events)


def test_a_base_that_knows_sound_in_mid_text_is_asked_nothing_about_it() -> None:
    for index in range(20):
        clip, _, _ = small_world.scene(index)
        spans = {(s.start, s.end) for s in (segment(event, clip.duration) for event in clip.events)}
        for rows, formats in (
            (small_world.mid_base_rows(index), {"conditioned"}),
            (small_world.mid_paper_rows(index), {"conditioned", "grounded"}),
        ):
            *others, (mid, format) = rows
            assert format == "interleaved" and {other for _, other in others} <= formats
            assert mid.choices == () and len(rows) <= 8
            named = tags.parse(tags.write(mid.cot or "", "x")).segments
            assert len(named) in (2, 3) and {(s.start, s.end) for s in named} <= spans


def test_rows_need_their_models_alone() -> None:
    config = StudyConfig(rows=("A", "DF", "CF fine"), side_seeds=1)
    assert [*study.stages_of(config, 0)] == ["clips", "base", "cold-f", "rl-mixed", "base-fine", "cold-fine"]
    assert [*study.arms_of(config, 1)] == ["A", "DF"]
    assert [*study.stages_of(config, 1)] == ["clips", "base", "cold-f", "rl-mixed"]
    assert [*study.stages_of(StudyConfig(gentle={"steps": 1}), 0)] == [*STAGES]


def test_a_given_base_takes_the_place_of_every_base(tmp_path: Path) -> None:
    given = "nano"
    few = {"steps": 1, "batch_size": 1, "bf16": False}
    rows = ("A mid", "B mid", "CF")
    config = StudyConfig(tmp_path, rows=rows, given=given, cold=few, num_scenes=2, num_control_scenes=2)
    check(config)
    assert [*study.stages_of(config, 0)] == ["cold-f", "cold-mid"]
    folder = tmp_path / "seed-0"
    assert study.model_of("base-mid", folder, config) == given == study.model_of("base", folder, config)
    assert study.model_of("nano", folder, config) == "nano"
    study.make_model("cold-mid", folder, 0, config)
    assert json.loads((folder / "models" / "cold-mid" / "config.json").read_text())["model"] == given
    for key in ("A mid", "B mid"):
        study.read(ARMS[key], folder, key, config)
        answers = [*records.read(study.arm_folder(folder, key) / "answers.jsonl")]
        assert {answer["question"] for answer in answers} == {e.question for e in small_world.heldout(2)}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (StudyConfig(given="nowhere"), "given: nowhere: no such folder"),
        (StudyConfig(world="studies.nowhere"), "world: 'studies.nowhere' cannot be imported"),
        (StudyConfig(world="studies.echo.microphone", rows=("CF",)), "studies.echo.microphone has no clip_rows"),
        (StudyConfig(world=".x"), "world: '.x' cannot be imported"), (StudyConfig(world=5), "world: 5 is no text"),
        (StudyConfig(world="json", rows=("nano",)), "world: json has no heldout"),
        (StudyConfig(given=True), "given: True is no text"), (StudyConfig(seeds=True), "seeds: True is no whole"),
        (StudyConfig(given="nano", located=0.5, rows=("CF",)), "given: leave out `located`"),
        (StudyConfig(given="nano", rows=("CF fine",)), "given: leave out `located` and the rows `fine`"),
        (StudyConfig(max_new_tokens=0), "max_new_tokens is 0; it must be at least 1"),
        (StudyConfig(cold={"batch_size": 0}), "cold: batch_size and device_tokens must be at least 1"),
        (StudyConfig(grpo={"temperature": -1.0}), "grpo: temperature is -1"),
    ],
)  # fmt: skip
def test_a_base_or_world_that_cannot_be_used_is_named(config: StudyConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(config)


def test_the_settings_at_the_microphone_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the base, which whoever runs them has to train."""
    config = read(Path(study.__file__).parent / "microphone.yaml")
    assert config.given == "out/wide/base/model"
    check(replace(config, given="nano"))


def test_the_shipped_nano_is_read_once_and_trained_never() -> None:
    config = StudyConfig(rows=("nano",), seeds=2)
    assert [len(study.arms_of(config, seed)) for seed in (0, 1)] == [1, 0]
    assert study.stages_of(config, 0) == {}


def test_rl_that_goes_on_asks_about_other_scenes() -> None:
    """Scenes of the first RL, of RL on other questions and of training never come in."""
    first, more, other = (
        {example.id.rpartition("-")[0] for index in range(30) for example in rows(index)}
        for rows in (small_world.rl_rows, small_world.more_rl_rows, small_world.other_rl_rows)
    )
    training = {small_world.scene(index)[0].id for index in range(30)}
    assert len(more) == 30 and not more & (first | other | training)
    assert all(example.cot is None for index in range(5) for example in small_world.more_rl_rows(index))


def test_held_out_questions_of_two_seeds_are_about_other_scenes() -> None:
    """Those of seeds 0 and 1 were the same but for one scene, so whoever tuned on one had seen the other."""
    first, second = ({example.id for example in small_world.heldout(6, seed)} for seed in (0, 1))
    assert first and second and not first & second


def test_a_report_names_the_command_that_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was `relisten x.yaml`, which is no command."""
    monkeypatch.setattr(sys, "argv", ["studies/echo/__main__.py", "my study.yaml", "--seeds", "1"])
    assert command_line(study_command.NAME) == "python -m studies.echo 'my study.yaml' --seeds 1"
    assert command_line() == "relisten 'my study.yaml' --seeds 1"
