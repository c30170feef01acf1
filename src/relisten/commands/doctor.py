"""`relisten doctor`: the report as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from relisten.commands.diagnosis import Finding, examine
from relisten.reports.text import console, printable

MARKS = {"good": ("✓", "green"), "missing": ("–", "yellow"), "bad": ("✗", "bold red")}


def doctor(model: str = "nano", *, device: str = "auto", dtype: str = "auto") -> int:
    """Say what is installed, which extras are missing, which device there is, and whether a model answers.

    Exit code 0 when relisten can be used, else 1; missing extras do not count.

    Parameters
    ----------
    model
        nano (built in), a folder, or a hub name.
    device
        auto (CUDA, then MPS, then CPU) or a torch device such as cuda:1.
    dtype
        auto (the checkpoint's own), float32, bfloat16 or float16.
    """
    screen = console()
    findings: list[Finding] = []
    with console(stderr=True).status("examining …") as status:
        for finding in examine(model, device, dtype):
            findings.append(finding)
            status.update(f"{printable(finding.topic)} …")
    screen.print(table(findings))
    missing = sorted({finding.advice for finding in findings if finding.health == "missing"})
    bad = [finding for finding in findings if finding.health == "bad"]
    for finding in bad:
        screen.print(Text(f"{finding.topic}: {finding.advice}", "bold red"), soft_wrap=True)
    if missing:
        screen.print(Text("Extras that are not installed: " + "; ".join(missing), "yellow"), soft_wrap=True)
    screen.print(Text("Not usable yet." if bad else "Ready.", "bold"))
    return int(bool(bad))


def table(findings: list[Finding]) -> Table:
    """One row a finding."""
    report = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    report.add_column(no_wrap=True)
    report.add_column(no_wrap=True)
    report.add_column(overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.health]
        found = Text(printable(finding.found), "" if finding.health == "good" else style)
        report.add_row(Text(mark, style), Text(printable(finding.topic), "bold"), found)
    return report
