"""The report: tables in three renderings, a page that is self-contained, escaped and bounded."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_analysis import answer

from relisten import records
from relisten.audio import save
from relisten.cli import run as relisten
from relisten.evals.analysis import read_runs
from relisten.reports import charts
from relisten.reports import examples as report_examples
from relisten.reports import page as report_page
from relisten.reports.tables import PAPER, Table, html_table, markdown_table, results_table, row, terminal_table
from relisten.types import Audio

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
    found = row(read_runs(folders)[0], PAPER["D"])
    assert (found.num, found.accuracy, found.unparsed, found.errors) == (5, 0.4, 1, 1)
    assert found.references == 1.0 and found.iou == pytest.approx(5 / 6) and found.seconds == 0.5
    table = results_table([found])
    assert table.rows[0][-1] == "D: 0.700, 107, 2.12"
    assert all(len(cells) == len(table.columns) for cells in table.rows)


def test_a_table_is_the_same_in_each_rendering_and_escaped() -> None:
    table = Table(["run", "accuracy"], [[EVIL, "0.5"]], "A note.")
    assert markdown_table(table).splitlines()[2] == "| &lt;script>alert(1)&lt;/script> \\| `x` | 0.5 |"
    assert "<script" not in html_table(table) and "A note." in html_table(table)
    assert "<td>0.5 <small>(0.4–0.6)</small></td>" in html_table(Table(["a", "b"], [["x", "0.5 (0.4–0.6)"]]))
    assert [str(cell) for cell in terminal_table(table).columns[0].cells] == [EVIL]


def test_the_page_is_self_contained_escaped_and_runs_its_own_script_alone(folders: list[Path], tmp_path: Path) -> None:
    report = report_page.build(read_runs(folders), EVIL, "relisten report")
    html = report_page.html_report(report)
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
    parsed = Parsed(report_page.html_report(report_page.build(read_runs(folders[:1]), "t"), num_examples=1))
    classes = [str(a["class"]).split()[1] for a in parsed.all("article")]
    assert classes == ["right", "wrong", "unparsed"]
    sounds = {a["id"] for a in parsed.all("audio")}
    buttons = [a for a in parsed.all("button") if a.get("data-sound")]
    assert {a["data-sound"] for a in buttons} == sounds and len(sounds) <= 2
    assert ("0.500", "1.000") in {(a["data-start"], a["data-end"]) for a in buttons}


def test_sound_is_bounded_and_a_page_without_recordings_says_so(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_page.build(read_runs(folders), "t")
    assert "Examples" not in report_page.html_report(report, num_examples=0)
    monkeypatch.setattr(report_examples, "MAX_BYTES", 10)
    html = report_page.html_report(report)
    assert "<audio" not in html and "without sound" in html and "rect class" in html
    report.runs[0].config["questions"] = "gone.jsonl"
    assert "gone.jsonl, are not there" in report_page.html_report(report)


def test_a_name_is_no_formula() -> None:
    figure = Figure()
    figure.subplots().set_title(r"$\frac$")
    assert "<svg" in charts.svg(figure)


def test_a_run_whose_name_begins_with_an_underscore_stands_in_the_legend(folders: list[Path]) -> None:
    [grouped] = [replace(row(run), name="_mine") for run in read_runs(folders)[:1]]
    figure = charts.groups_figure([grouped], next(iter(grouped.groups)))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [" _mine"]


def test_the_papers_mean_over_modalities_stands_beside_own(folders: list[Path]) -> None:
    plain = row(read_runs(folders)[0], PAPER["D"])
    rings = [charts.svg(charts.accuracy_figure([replace(plain, macro=macro)])) for macro in (None, 0.5)]
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
