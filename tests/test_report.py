"""The report: tables in three renderings, a page that is self-contained, escaped and bounded."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure
from rich.console import Console
from test_analysis import answer

from relisten import records
from relisten.audio import load, save
from relisten.cli import run as relisten
from relisten.engine import operations
from relisten.evals.predictions import read_runs
from relisten.plotting import svg
from relisten.reports import charts
from relisten.reports import examples as report_examples
from relisten.reports.page import Chart, html_page
from relisten.reports.runs_page import build
from relisten.reports.table import Table, csv_table, html_table, markdown_table, terminal_table
from relisten.reports.tables import PAPER, result, results_table
from relisten.types import Audio, Segment

EVIL = "<script>alert(1)</script> | `x`"


class Parsed(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs over four questions about two recordings, and a question that could not be asked."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for n in range(2):
        save(root / f"{n}.wav", Audio((rng.normal(size=32_000) * 0.1).astype(np.float32)))
    heard = {"heard": [[0.5, 1.0]], "named": [[0.5, 1.0]], "gold": [[0.4, 1.0]], "duration": 2.0, "seconds": 0.5}
    kinds = {"kind": "after"}, {"kind": EVIL}, {}, {}
    text = "<think>hm <seg>0.5, 1.0</seg> a bell, <seg>1, 1.1</seg></think><answer>bell</answer>"
    refusals = [["<seg>1, 1.1</seg>", "too short"]]
    for run, rights in (("own", (True, False, None, True)), ("other", (False, False, None, True))):
        for n, (right, kind) in enumerate(zip(rights, kinds, strict=True)):
            line = answer(f"q{n}", right, response=text, refusals=refusals, **heard) | kind | {"question": EVIL}
            records.append(root / run / "answers.jsonl", line)
        records.append(root / run / "answers.jsonl", answer("q9", None, error="gone", finish="error", kind="after"))
        records.write_atomic(
            root / run / "config.json",
            f'{{"format": "interleaved", "questions": "{root / "questions.jsonl"}", "sha256 of x": "abc"}}',
        )
        records.write_atomic(
            root / run / "run.json",
            '{"versions": {"torch": "9.9"}, "git": {"commit": "c0ffee", "dirty": true},'
            ' "starts": [{"time": "now", "command": ["/bin/relisten", "eval", "q"]}]}',
        )
    for n in range(4):
        question = {"id": f"q{n}", "audio_path": f"{n % 2}.wav", "question": EVIL, "choices": ["bell", "cow"]}
        records.append(root / "questions.jsonl", question | {"answer": "bell"})
    return [root / "own", root / "other"]


def test_a_row_counts_what_failed_apart(folders: list[Path]) -> None:
    found = result(read_runs(folders)[0], PAPER["D"])
    counts = found.tally.counts
    assert (found.tally.num, found.tally.accuracy, counts["unparsed"], counts["failed"]) == (5, 0.4, 1, 1)
    assert found.shown is not None and found.shown.latency is not None
    assert found.shown.references == 1.0 and found.shown.iou == pytest.approx(5 / 6)
    assert found.shown.latency.mean == 0.5
    table = results_table([found])
    assert table.rows[0][-1] == "D: 0.700, 107, 2.12"
    assert all(len(cells) == len(table.columns) for cells in table.rows)


def test_a_table_is_the_same_in_each_rendering_and_escaped() -> None:
    table = Table(["run", "accuracy"], [[EVIL, "0.5"]], "A note.")
    assert markdown_table(table).splitlines()[2] == "| &lt;script>alert(1)&lt;/script> \\| `x` | 0.5 |"
    assert "<script" not in html_table(table) and "A note." in html_table(table)
    assert "<td>0.5 <small>(0.4–0.6)</small></td>" in html_table(Table(["a", "b"], [["x", "0.5 (0.4–0.6)"]]))
    assert csv_table(table) == f"run,accuracy\n{EVIL},0.5\n"
    assert EVIL in printed(table, 80) and "A note." in printed(table, 80)


def printed(table: Table, width: int) -> str:
    screen = Console(width=width, file=io.StringIO())
    screen.print(terminal_table(table, width=width))
    return str(screen.file.getvalue())  # type: ignore[attr-defined]


def test_a_terminal_shortens_no_name_and_no_number() -> None:
    """At 80 columns two rows were called `mix-sound-mus…`, and a table of nine runs had its numbers cut."""
    names = ["mix-sound-music", "mix-sound-music-speech", "mix-sound-speech"]
    runs = [f"a-run-with-number-{n}" for n in range(9)]
    table = Table(["questions", *runs], [[name, *(f"0.{n}{k}" for k in range(9))] for n, name in enumerate(names)])
    for width in (40, 80, 200):
        text = printed(table, width)
        assert all(len(line.rstrip()) <= width for line in text.splitlines())
        assert all(f"0.{n}{k}" in text for n in range(3) for k in range(9))
        folded = re.sub(r"[\d.\s]", "", text)
        assert all(name in folded for name in names)


def test_the_page_is_self_contained_escaped_and_runs_its_own_script_alone(folders: list[Path], tmp_path: Path) -> None:
    report = build(read_runs(folders), EVIL, "relisten report")
    html = html_page(report)
    parsed = Parsed(html)
    assert len(parsed.all("script")) == 1 and "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)", "", html)
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv"))
    assert script is not None and policy is not None
    assert base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode() in policy
    sources = [a.get("src") or a.get("href") for name in ("img", "audio", "link") for a in parsed.all(name)]
    assert sources and all(source and source.startswith("data:") for source in sources)
    assert "c0ffee with changes" in html and "torch 9.9" in html and "abc" in html and "relisten eval q" in html


def test_examples_are_of_each_class_and_what_was_heard_can_be_played(folders: list[Path]) -> None:
    parsed = Parsed(html_page(build(read_runs(folders[:1]), "t", num_examples=1)))
    classes = [str(a["class"]).split()[1] for a in parsed.all("article")]
    assert classes == ["right", "wrong", "unparsed"]
    sounds = {a["id"] for a in parsed.all("audio")}
    buttons = [a for a in parsed.all("button") if a.get("data-sound")]
    assert {a["data-sound"] for a in buttons} == sounds and len(sounds) <= 2
    assert ("0.500", "1.000") in {(a["data-start"], a["data-end"]) for a in buttons}


def test_a_segment_plays_as_its_operation_made_it(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page played the plain stretch for <slow> and the like, so one heard something else than the model had."""
    text = "<think>a <slow>0.5, 1.0</slow> b <seg>0, 1</seg> c <band>1, 2, 300, 900</band></think><answer>cow</answer>"
    heard = {"heard": [[0.5, 1.0], [0, 1], [1, 2]], "operations": ["slow", "seg", "band 300 900"]}
    records.append(tmp_path / "ways" / "answers.jsonl", answer("q0", False, response=text, **heard))
    records.write_atomic(tmp_path / "ways" / "config.json", (folders[0] / "config.json").read_text())

    def buttons() -> tuple[str, list[tuple[str, str, float]]]:
        html = html_page(build(read_runs([tmp_path / "ways"]), "t"))
        parsed = Parsed(html)
        sources = {a["id"]: str(a["src"]) for a in parsed.all("audio")}
        found = [
            (str(a["aria-label"]), sources[a["data-sound"]], float(str(a["data-end"])))
            for a in parsed.all("button") if "seg " in str(a["class"])
        ]  # fmt: skip
        return html, found

    html, [(slowed, sound, end), (plain, whole, _), (_, banded, _)] = buttons()
    assert "at half speed" in slowed and slowed.startswith("Play segment 1") and "speed" not in plain
    assert "<i>from 300 to 900 Hz</i>" in html and len({sound, whole, banded}) == 3
    played, rate = soundfile.read(io.BytesIO(base64.b64decode(sound.partition(",")[2])), dtype="float32")
    recording = load(folders[0].parent / "0.wav")
    expected = operations.slow(recording, Segment(0.5, 1.0)).samples
    assert len(played) / rate == end == 1.0 and np.allclose(played, expected, atol=1e-4)
    monkeypatch.setattr(operations, "find_spec", lambda name: None)
    html, [(_, sound, end), *_] = buttons()
    assert (sound, end) == (whole, 1.0) and "Segment 1 plays unchanged: the operation slow needs python-stretch" in html
    monkeypatch.setattr(report_examples, "MAX_BYTES", len(base64.b64decode(whole.partition(",")[2])))
    html, found = buttons()
    assert len(found) == 2 and "Segment 3 is without sound: the page would grow too large" in html


def test_sound_is_bounded_and_a_page_without_recordings_says_so(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Examples" not in html_page(build(read_runs(folders), "t", num_examples=0))
    monkeypatch.setattr(report_examples, "MAX_BYTES", 10)
    html = html_page(build(read_runs(folders), "t"))
    assert "<audio" not in html and "without sound" in html and "rect class" in html
    runs = read_runs(folders)
    runs[0].config["questions"] = "gone.jsonl"
    assert "gone.jsonl, are not there" in html_page(build(runs, "t"))


def test_a_name_is_no_formula() -> None:
    figure = Figure()
    figure.subplots().set_title(r"$\frac$")
    assert "<svg" in svg(figure)


def test_a_run_whose_name_begins_with_an_underscore_stands_in_the_legend(folders: list[Path]) -> None:
    [grouped] = [replace(result(run), name="_mine") for run in read_runs(folders)[:1]]
    figure = charts.groups_figure([grouped], next(iter(grouped.groups)))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [" _mine"]


def test_the_papers_mean_over_modalities_stands_beside_own(folders: list[Path]) -> None:
    plain = result(read_runs(folders)[0], PAPER["D"])
    modalities = {"modality": {"speech": plain.tally, "music": plain.tally}}
    rings = [svg(charts.accuracy_figure([replace(plain, groups=groups)])) for groups in ({}, modalities)]
    assert ["mean of modalities" in text for text in rings] == [False, True]


def test_the_command_writes_page_markdown_and_charts(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(map(str, folders))
    assert relisten(["report", *names, "--out", str(tmp_path / "r.html"), "--paper", "own=D"]) == 0
    text = (tmp_path / "r.md").read_text()
    linked = re.findall(r"\]\((\S+\.svg)\)", text)
    assert "Against own" in text and "D: 0.700" in text and "<script" not in text
    assert linked and all((tmp_path / name).read_text().startswith("<?xml") for name in linked)
    assert "0.400" in capsys.readouterr().out
    assert relisten(["report", *names, "--paper", "own=Z", "--out", str(tmp_path / "s.html")]) == 2
    assert "write RUN=ROW" in capsys.readouterr().err
    assert relisten(["report", *names, "--out", "page.pdf"]) == 2


def test_the_report_takes_anybodys_predictions_and_a_runs_shards(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = folders[0].parent / "questions.jsonl"
    theirs = tmp_path / "theirs.jsonl"
    for n in range(4):
        records.append(theirs, {"id": f"q{n}", "model_output": "bell" if n else "it says cow"})
    for which in range(2):
        records.append(tmp_path / f"s-{which}" / "answers.jsonl", answer(f"q{which}", True, question=EVIL))
        records.write_atomic(tmp_path / f"s-{which}" / "config.json", f'{{"shard": "{which}/2"}}')
    shards = [tmp_path / "s-0", tmp_path / "s-1"]
    command = ["report", *map(str, (theirs, *shards)), "--questions", str(questions), "--out"]
    assert relisten([*command, str(tmp_path / "r.html")]) == 0
    told = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:3] for line in told.splitlines() if line.strip()}
    assert rows["theirs.jsonl"] == ["4", "0.750"] and rows["s"] == ["2", "1.000"] and "not given" not in told
    page = (tmp_path / "r.html").read_text()
    assert "data-sound" in page, "the recordings of anybody's predictions are found by their questions"
    assert relisten(["report", str(shards[1]), "--out", str(tmp_path / "r.html")]) == 0
    assert "not given: shard 0/2" in capsys.readouterr().out
    assert relisten(["compare", str(theirs), *map(str, shards), "--questions", str(questions)]) == 0
    assert relisten(["compare", *map(str, shards)]) == 2 and "1 were named" in capsys.readouterr().err


def test_score_writes_its_table_too(folders: list[Path], tmp_path: Path) -> None:
    for name in ("f.csv", "f.md", "f.json"):
        assert relisten(["score", str(folders[0]), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "f.csv").read_text().splitlines()[1].startswith(",all,5,0.400,")
    assert "| kind | after | 4 |" in (tmp_path / "f.md").read_text()
    assert '"accuracy": 0.4' in (tmp_path / "f.json").read_text()
    assert relisten(["score", str(folders[0]), "--out", "f.xlsx"]) == 2


def test_charts_are_drawn_anew_for_a_phone(folders: list[Path]) -> None:
    """They were cut at 390 px."""
    page = build(read_runs(folders), "t", num_examples=0)
    drawn = [part for section in page.sections for part in section.parts if isinstance(part, Chart)]
    assert drawn and all('width="259.2pt"' in one.narrow and 'width="504pt"' in one.svg for one in drawn)
    assert html_page(page).count("<source media") == len(drawn)


def test_columns_of_words_are_set_left() -> None:
    table = Table(["", "side", "share"], [["a", "engine, 8 rows", "0.5"], ["b", "-", "about 0.1"]])
    assert [table.is_left(column) for column in range(3)] == [True, True, False]
    assert markdown_table(table).splitlines()[1] == "|---|---|--:|"
    assert "<td class='left'>-</td>" in html_table(table)
