"""The command line: what it prints, what it exits with, and that no mistake of a user shows a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import getdoc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tqdm import tqdm

from relisten import audio, cli, models
from relisten.commands.options import ModelOptions, keeping
from relisten.commands.train import _kept
from relisten.engine.answer import answer_each
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.extras import install_hint
from relisten.models.base import AudioLM
from relisten.training.config import SftConfig

ANSWER = (
    "<think>The bell comes first <seg>1.2, 1.9</seg>, then a voice <seg>3.0, 3.5</seg>, and not"
    " <seg>9, 8</seg>.</think><answer>green</answer>"
)
QUESTION = "Which word is spoken after the bell?"
CHOICES = ["--choices", "red", "blue", "green"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.random.default_rng(0).normal(size=4 * 16_000) * 0.1, 16_000)
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: (exit code, stdout, stderr)."""
    monkeypatch.delenv("RELISTEN_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "90")

    def run(*tokens: object) -> tuple[int, str, str]:
        code = cli.run([str(token) for token in tokens])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def says(model: AudioLM, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the tiny random model write a given text; pauses, crops and cache are the engine's own work."""

    def says(text: str) -> None:
        class Engine(ScriptedEngine):
            def __init__(self, model: AudioLM, max_rows: int = 32) -> None:
                super().__init__(model, lambda index, sample: script(model, text, END))

        monkeypatch.setattr("relisten.engine.engine.Engine", Engine)
        monkeypatch.setattr(models, "load", lambda *args, **kwargs: model)

    return says


# --- ask ------------------------------------------------------------------------------------------------------------


def test_ask_streams_marks_what_is_heard_and_draws_it(run: Run, recording: Path, says: Callable[[str], None]) -> None:
    says(ANSWER)
    code, out, err = run("ask", recording, QUESTION, *CHOICES)
    assert (code, err) == (0, "")
    assert "first <seg>1.2, 1.9</seg> ♪ heard 1.2–1.9 s, then a voice <seg>3.0, 3.5</seg> ♪ heard 3.0–3.5 s" in out
    assert "<seg>9, 8</seg> (unreadable: not heard)" in out
    assert "\nAnswer: green\n" in out
    assert re.search(r"└─+1─+┘ +└─+2─+┘\n0 +0.5 +1 +1.5 +2 +2.5 +3 +3.5 +s\n", out)
    assert re.search(r"load \d+\.\d s · prefill .* · listening .* · decoding", out)
    assert "\x1b" not in out  # not a terminal: no colours


def test_ask_colours_on_a_terminal_and_obeys_no_color(
    run: Run, recording: Path, says: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    says(ANSWER)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    _, out, _ = run("ask", recording, QUESTION, *CHOICES)
    assert "\x1b[1;36m♪\x1b[0m" in out
    monkeypatch.setenv("NO_COLOR", "1")
    _, out, _ = run("ask", recording, QUESTION, *CHOICES)
    assert not re.search(r"\x1b\[[\d;]*3[0-7]", out)


def test_ask_json_holds_everything_and_its_tokens_add_up(
    run: Run, recording: Path, says: Callable[[str], None], model: AudioLM
) -> None:
    says(ANSWER)
    code, out, err = run("ask", recording, QUESTION, *CHOICES, "--json")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert (answer["answer"], answer["choice"], answer["finish"]) == ("green", "green", "stop")
    assert answer["response"]["text"] == ANSWER
    assert answer["response"]["think"].startswith("The bell comes first <seg>")
    assert answer["response"]["well_formed"] is False  # 9, 8 is not readable
    assert [(s["start"], s["end"]) for s in answer["segments"]] == [(1.2, 1.9), (3.0, 3.5)]
    assert answer["refusals"] == [{"text": "<seg>9, 8</seg>", "reason": "unreadable"}]
    heard = [model.num_audio_tokens(round(16_000 * seconds)) for seconds in (0.7, 0.5)]
    tokens = answer["tokens"]
    assert tokens["audio"] == sum(heard)
    assert tokens["forced"] == 3 + 2 * 2  # a ">" for each closing tag, begin and end for each piece of audio
    assert sorted(answer["seconds"]) == ["decoding", "listening", "load", "prefill"]


def test_ask_without_choices_is_open(run: Run, recording: Path, says: Callable[[str], None]) -> None:
    says("<think>It rings.</think><answer>a bell</answer>")
    code, out, _ = run("ask", recording, "What is it?", "--json")
    answer = json.loads(out)
    assert (code, answer["answer"], answer["choice"]) == (0, "a bell", None)


def test_an_empty_question_is_refused_before_anything_is_loaded(run: Run, recording: Path) -> None:
    """A sentence about the question's missing choices was printed before the error."""
    code, out, err = run("ask", str(recording), " ", "--model", "/not/there")
    assert (code, out) == (2, "")
    assert "the question is empty" in err


def test_an_answer_that_is_no_choice_and_no_answer_at_all_are_said(
    run: Run, recording: Path, says: Callable[[str], None]
) -> None:
    says("<think>Hm.</think><answer>purple</answer>")
    code, out, _ = run("ask", recording, QUESTION, *CHOICES)
    assert code == 0
    assert "Answer: purple  (none of the choices; --only-choices allows no other answer)" in out
    says("It is green.")
    code, out, _ = run("ask", recording, QUESTION, *CHOICES)
    assert code == 1
    assert "No answer" in out


def test_limits_are_said(run: Run, recording: Path, says: Callable[[str], None]) -> None:
    says("<think>" + "on and on " * 40)
    _, out, _ = run("ask", recording, QUESTION, *CHOICES, "--max-new-tokens", "12")
    assert "limit on new tokens" in out
    says("<think>" + "on and on " * 90)
    assert "The model repeated itself" in run("ask", recording, QUESTION, *CHOICES)[1]
    assert json.loads(run("ask", recording, QUESTION, *CHOICES, "--json")[1])["finish"] == "repetition"


def test_html_is_written_beside_the_printed_answer(
    run: Run, recording: Path, says: Callable[[str], None], tmp_path: Path
) -> None:
    says(ANSWER)
    page = tmp_path / "answer.html"
    code, out, _ = run("ask", recording, QUESTION, *CHOICES, "--html", page)
    assert code == 0
    assert "Page:" in out
    assert page.read_text(encoding="utf-8").count('class="seg s') == 2


# --- many questions -------------------------------------------------------------------------------------------------


@pytest.fixture
def questions(recording: Path) -> Path:
    path = recording.with_name("questions.jsonl")
    rows = [
        {"id": "a", "audio_path": "./clip.wav", "question": QUESTION, "choices": ["red", "green"], "answer": "green"},
        {"id": "b", "audio_path": "./clip.wav", "question": QUESTION, "choices": ["red", "green"], "answer": "red"},
        {"id": "c", "audio_path": "./gone.wav", "question": QUESTION, "choices": ["red", "green"], "answer": "red"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_many_questions_are_answered_counted_and_resumed(
    run: Run, questions: Path, says: Callable[[str], None], recording: Path
) -> None:
    says(ANSWER)
    out_path = questions.with_name("answers.jsonl")
    code, out, err = run("ask", questions, "--out", out_path)
    assert (code, out) == (1, "")
    assert "3 questions, 1 without an answer, 1 of 3 right (33.3 %)" in err
    lines = {line["id"]: line for line in map(json.loads, out_path.read_text().splitlines())}
    assert lines["a"]["answer_prediction"] == "green"
    assert lines["a"]["answer"] == "green"
    assert lines["a"]["relisten"]["segments"][0]["start"] == 1.2
    assert lines["a"]["thinking_prediction"].startswith("The bell")
    assert lines["c"]["answer_prediction"] is None
    assert "no such file" in lines["c"]["error"]

    # Killed in the middle of a line: that question and the failed one are asked again, the others are not.
    recording.with_name("gone.wav").write_bytes(recording.read_bytes())
    text = "".join(json.dumps(lines[name]) + "\n" for name in "ac") + json.dumps(lines["b"])[:40]
    out_path.write_text(text, encoding="utf-8")
    code, _, err = run("ask", questions, "--out", out_path)
    assert code == 0
    assert "1 of 3 are answered already" in err
    assert sorted(json.loads(line)["id"] for line in out_path.read_text().splitlines()) == ["a", "b", "c"]
    assert "3 questions, 0 without an answer" in err


def test_answers_to_other_questions_or_by_other_settings_are_not_taken_for_these(
    run: Run, questions: Path, says: Callable[[str], None]
) -> None:
    says(ANSWER)
    out_path = questions.with_name("answers.jsonl")
    run("ask", questions, "--out", out_path)
    written, asked = out_path.read_text(), questions.read_text()
    questions.write_text(asked.replace(QUESTION, "Another?"))
    assert "answers a question that is not in the file now" in run("ask", questions, "--out", out_path)[2]
    questions.write_text(asked)
    assert "another model or options" in run("ask", questions, "--out", out_path, "--seed", "5")[2]
    assert out_path.read_text() == written


def test_what_is_asked_about_is_never_written_over(run: Run, questions: Path, recording: Path) -> None:
    for named, more in ((recording, ["q", "--html", recording]), (questions, ["--out", questions])):
        before = named.read_bytes()
        code, out, err = run("ask", named, *more)
        assert (code, out) == (2, "") and "is also the input; name another file" in err
        assert named.read_bytes() == before
    other = questions.with_name("other.jsonl")
    other.write_text(questions.read_text().replace('"answer"', '"error": "x", "answer"', 1))
    before = other.read_bytes()
    code, _, err = run("ask", questions, "--out", other)
    assert code == 2 and "line 1 was not written by `relisten ask`" in err and other.read_bytes() == before
    assert "cannot be written" in run("ask", recording, "q", "--html", recording.parent)[2]


def test_the_answers_of_one_run_can_be_the_questions_of_the_next(
    run: Run, questions: Path, says: Callable[[str], None]
) -> None:
    """Their `answer_prediction` was a label of the question, and the next start said that it answered another one."""
    says(ANSWER)
    rows = [json.loads(line) for line in questions.read_text().splitlines()[:2]]
    old = {"answer_prediction": "red", "thinking_prediction": "So.", "error": "x", "relisten": {"settings": 1}}
    questions.write_text("".join(json.dumps(row | old) + "\n" for row in rows), encoding="utf-8")
    out_path = questions.with_name("answers.jsonl")
    assert run("ask", questions, "--out", out_path)[0] == 0
    lines = {line["id"]: line for line in map(json.loads, out_path.read_text().splitlines())}
    assert lines["a"]["answer_prediction"] == lines["b"]["answer_prediction"] == "green"
    assert "error" not in lines["a"] and lines["a"]["relisten"]["settings"] != 1
    out_path.write_text(json.dumps(lines["b"]) + "\n")
    code, _, err = run("ask", questions, "--out", out_path)
    assert code == 0 and "1 of 2 are answered already" in err


def test_a_recording_too_long_for_the_model_does_not_hold_up_the_others(
    run: Run, questions: Path, says: Callable[[str], None], model: AudioLM
) -> None:
    says(ANSWER)
    # Within --max-seconds, and more than the model's context of 4096 tokens has room for.
    soundfile.write(questions.with_name("gone.wav"), np.zeros(16_000 * 400), 16_000)
    assert model.num_audio_tokens(16_000 * 400) > 4096
    text = questions.read_text().splitlines()
    questions.write_text("\n".join([text[2], *text[:2]]) + "\n")  # it comes first
    out_path = questions.with_name("answers.jsonl")
    for message in ("3 questions, 1 without an answer, 1 of 3 right", "2 of 3 are answered already"):
        code, _, err = run("ask", questions, "--out", out_path)
        assert code == 1 and message in err
        lines = {line["id"]: line for line in map(json.loads, out_path.read_text().splitlines())}
        assert sorted(lines) == ["a", "b", "c"]
        assert lines["a"]["answer_prediction"] == "green"
        assert "cut the recording" in lines["c"]["error"] and lines["c"]["answer_prediction"] is None


def test_case_and_blanks_do_not_count_in_how_many_are_right(
    run: Run, questions: Path, says: Callable[[str], None]
) -> None:
    says(ANSWER)
    row = json.loads(questions.read_text().splitlines()[0])
    rows = [{**row, "answer": " green "}, {**row, "id": "b", "choices": [], "answer": "Green"}]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, _, err = run("ask", questions)
    assert code == 0 and "2 of 2 right" in err


def test_many_questions_without_out_go_to_stdout(run: Run, questions: Path, says: Callable[[str], None]) -> None:
    says(ANSWER)
    _, out, _ = run("ask", questions)
    assert sorted(json.loads(line)["id"] for line in out.splitlines()) == ["a", "b", "c"]


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["aks"], "no command 'aks'; did you mean 'ask'?"),
        (["ask"], "AUDIO is missing (see relisten ask --help)"),
        (["judge", "run"], "--judge is missing"),
        (["judge", "run", "--judge"], "--judge requires an argument"),
        (["analyse", "run", "--out", "CLIP"], "is a file; name a folder"),
        (["ask", "CLIP"], "what do you ask?"),
        (["ask", "CLIP", "What?", "--only-choices"], "--only-choices needs --choices"),
        (["ask", "CLIP", "which", "word"], "quotes"),
        (["ask", "CLIP", "q", "--tempo", "1"], "Unknown option"),
        (["ask", "CLIP", "q", "--temperature", "warm"], "--temperature"),
        (["ask", "CLIP", "q", "--temperature", "-1"], "temperature"),
        (["ask", "CLIP", "q", "--format", "spoken"], "interleaved"),
        (["ask", "CLIP", "q", "--model", "no/such/model"], "no such folder"),
        (["ask", "CLIP", "q", "--out", "x.jsonl"], "--out"),
        (["ask", "CLIP", "q", "--html", "no/such/folder/x.html"], "make it first"),
        (["ask", "CLIP", "q", "--max-seconds", "1"], "--max-seconds"),
        (["ask", "gone.wav", "q"], "gone.wav: no such file"),
        (["ask", "gone.jsonl"], "gone.jsonl"),
        (["ask", "x.jsonl", "q"], "leave out your own"),
        (["ask", "bad\x1b[31m\nname.wav", "q"], "no such file"),
        (["data", "buil"], "did you mean 'build'?"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(run: Run, recording: Path, tokens: list[str], said: str) -> None:
    code, out, err = run(*[str(recording) if token == "CLIP" else token for token in tokens])
    assert code == 2
    assert out == ""
    assert said in err
    assert err.startswith("relisten: ")
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_debug_shows_where_a_mistake_was_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no such file"):
        run("ask", "gone.wav", "q", "--debug")
    monkeypatch.setenv("RELISTEN_DEBUG", "1")
    with pytest.raises(ValueError, match="no such file"):
        cli.run(["ask", "gone.wav", "q"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device"), 2, "relisten: No space left on device\n"),
        (
            ModuleNotFoundError("No module named 'matplotlib'"),
            2,
            "relisten: No module named 'matplotlib'; `relisten doctor`",
        ),
    ],
)
def test_interrupts_and_failures_outside(
    run: Run, recording: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def load(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(audio, "load", load)
    got, _, err = run("ask", recording, "q")
    assert got == code
    assert err.startswith(said)
    assert len(err.splitlines()) == (1 if said else 0)


def test_a_bug_of_ours_is_not_dressed_up(run: Run, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelOptions, "open", lambda self, live: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("ask", recording, "q")


def test_a_reader_that_goes_away_is_no_error() -> None:
    head = subprocess.run(
        f'"{sys.executable}" -m relisten.cli ask --help | head -n 1',
        shell=True, executable="/bin/bash", capture_output=True, text=True,
    )  # fmt: skip
    assert head.stderr == ""
    assert head.stdout.startswith("Usage: relisten ask")


# --- help -----------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, ...]]:
    """Every command there is, found in the app itself."""

    def walk(app: Any, names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield names
        for name in app:
            if not name.startswith("-"):
                yield from walk(app[name], (*names, name))

    yield from walk(cli.app, ())


def plain(text: str) -> str:
    """Without line breaks and marks."""
    return " ".join(text.replace("`", "").replace("**", "").split())


def test_help_of_every_command_names_and_explains_every_option(run: Run) -> None:
    for names in commands():
        code, out, err = run(*names, "--help")
        assert (code, err) == (0, ""), names
        app: Any = cli.app
        for name in names:
            app = app[name]
        if app.default_command:
            told = str(getdoc(app.default_command)).partition("\nParameters\n")[0]
            assert plain(told) in plain(out), f"{' '.join(names)} --help leaves out a part of what is known"
        for option in app.assemble_argument_collection(parse_docstring=True) if app.default_command else []:
            assert option.name in out or option.name == "*"  # a group of options has no name
            # Settings of training whose name says all (seed, epochs) have no more than their default.
            known = names[0] == "train" or option.name == "*"  # *: the settings as a whole
            assert option.parameter.help or known, f"{' '.join(names)}: {option.name} is not explained"


def test_help_and_version_import_nothing_heavy() -> None:
    lines = (
        "import sys; from relisten import cli\n"
        "for tokens in (['--help'], ['--version'], ['ask', '--help'], ['doctor', '--help']): cli.run(tokens)\n"
        "print([name for name in ('torch', 'transformers', 'av', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_finds_a_model_usable_or_not(run: Run, says: Callable[[str], None]) -> None:
    code, out, _ = run("doctor", "--model", "no/such/model")
    assert code == 1
    assert "no such folder" in " ".join(out.split())
    says(ANSWER)
    code, out, _ = run("doctor")
    assert code == 0, out
    assert "torch" in out
    assert out.rstrip().endswith("Ready.")


def test_doctor_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from relisten.commands import doctor

    real = metadata.version

    def version(name: str) -> str:
        if name == "accelerate":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    missing = {finding.topic: (finding.health, finding.advice) for finding in doctor.packages()}
    assert missing["accelerate [train]"] == ("missing", install_hint("train"))
    assert missing["torch"][0] == "good"


def test_a_terminal_that_cannot_show_a_character_is_no_error() -> None:
    for encoding in ("ascii", "latin-1"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-m", "relisten.cli", "ask", "a♪\udcff.wav", "q"], capture_output=True, env=environment
        )
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert done.stderr.startswith(b"relisten: a?")


def test_the_module_runs_as_a_script(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relisten.cli", "ask", str(tmp_path), "q"],
        capture_output=True, text=True, env={**os.environ, "RELISTEN_DEBUG": "0"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_flag_takes_several_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from relisten.commands import train

    given: list[Any] = []
    monkeypatch.setattr(train, "planned", given.append)
    monkeypatch.setattr("relisten.training.grpo.run_grpo", lambda plan, rollouts: None)
    lists = ["--rewards", "format", "accuracy", "--freeze", "a", "--freeze", "b"]
    cli.run(["train", "grpo", "--data", "d.jsonl", "--output", "out", *lists])
    assert given[0].rewards == ("format", "accuracy") and given[0].freeze == ("a", "b")


# --- terminals, pipes and the system's errors -----------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["0", "00", "1", "-3", "x", ""])
def test_a_terminal_that_does_not_know_its_width(run: Run, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """COLUMNS=0 ended in an exception: that is how some terminals say that they do not know."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "0")
    code, out, _ = run("data", "sources")
    assert code == 0 and out


def test_a_reader_of_the_help_may_leave(tmp_path: Path) -> None:
    """`relisten --help | head -1` exited with 1."""
    help = [sys.executable, "-m", "relisten", "ask", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(help, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: " + "[" * 3000 + "]" * 3000, "nests too deep"),
        ("a: &a [*a]", "nests too deep"),
        ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)), "more than 10,000"),
        ("a: " + "x" * 2_000_000, "is larger than"),
        ('a: !!python/object/apply:os.system ["touch evil"]', "could not determine a constructor"),
    ],
)  # fmt: skip
def test_settings_that_nobody_writes_are_one_line(run: Run, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "settings.yaml").write_text(content)
    code, out, err = run("train", "sft", tmp_path / "settings.yaml")
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, "No space left on device", "a.json"), "a.json: No space left on device"),
        (OSError(18, "Cross-device link", "a", None, "b"), "a and b: Cross-device link"),
        (OSError("in the library's own words"), "in the library's own words"),
        (OSError(), "the system gives no reason (OSError)"),
        (PermissionError(), "the system gives no reason (PermissionError)"),
        (MemoryError(), "there is not enough memory; take shorter recordings or fewer at a time"),
    ],
)
def test_the_systems_errors_are_told_with_a_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_tell_all", fail)
    assert run("--help") == (2, "", f"relisten: {said}\n")


def test_an_error_under_a_progress_bar_has_a_line_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stood at the end of the bar: `training:  38%|###| 3/8]relisten: metrics.jsonl: cannot be written`."""

    def fail(*_: object) -> None:
        for _ in tqdm(range(8), desc="training", mininterval=0):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "_tell_all", fail)
    code, _, err = run("--help")
    assert code == 2 and "relisten: No space left on device" in re.split(r"[\r\n]", err)


def test_a_line_of_answers_with_something_else_under_our_name_is_no_traceback(run: Run, tmp_path: Path) -> None:
    examples = Path(__file__).parent.parent / "examples" / "questions.jsonl"
    out = tmp_path / "a.jsonl"
    assert run("ask", examples, "--out", out)[0] == 0
    lines = [json.loads(line) | {"relisten": 3} for line in out.read_text().splitlines()]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = run("ask", examples, "--out", out)
    assert code == 0 and "6 of 6 are answered already" in err


# --- stopped by the user --------------------------------------------------------------------------------------------


def stopping_after(num: int) -> Callable[..., Iterator[Any]]:
    """`answer_each`, but the user presses Ctrl-C after so many answers."""

    def stopped(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for count, found in enumerate(answer_each(*args, **kwargs)):
            if count == num:
                raise KeyboardInterrupt
            yield found

    return stopped


def test_a_stopped_command_says_what_is_kept_and_continues(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Path(__file__).parent.parent / "examples" / "questions.jsonl"
    asked, evaluated = tmp_path / "a.jsonl", tmp_path / "run" / "answers.jsonl"
    commands = {
        "relisten.commands.ask_many": (("ask", examples, "--out", asked), asked),
        "relisten.evals.runner": (("eval", examples, evaluated.parent), evaluated),
    }
    for module, (tokens, file) in commands.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.answer_each", stopping_after(2))
            code, _, err = run(*tokens)
        assert code == 130
        assert f"Stopped. {file}: 2 of 6 answers are kept; the same command continues." in " ".join(err.split())
        assert run(*tokens)[0] == 0
        assert len(file.read_text().splitlines()) == 6


def test_stopped_training_names_its_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SftConfig(output=tmp_path / "run", data="x.jsonl")
    with pytest.raises(KeyboardInterrupt), keeping(lambda: _kept(config)):
        raise KeyboardInterrupt
    assert "no checkpoint was written yet (one is written every 100 steps)" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "run" / "checkpoints" / "checkpoint-40").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "checkpoint-40" / "trainer_state.json").write_text("{}")
    assert _kept(config) == f"{tmp_path / 'run'}: checkpoint-40 is kept"
