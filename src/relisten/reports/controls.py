"""The table of a run and its controls: does the model need the recording?"""

from __future__ import annotations

from collections.abc import Sequence

from relisten.evals.controls import Controlled
from relisten.reports.table import Table
from relisten.reports.tables import groups_table, result
from relisten.reports.text import interval, p_value, share

MOST_GROUPS = 8
"""Groups of a dimension that are still short enough to stand in the table."""


def tables(found: Sequence[Controlled], title: str) -> list[Table]:
    """Accuracy for all questions, then by each dimension that has few groups."""
    rows = []
    for each in found:
        cells = [each.heard, f"{each.tally.num:,}", share(each.tally.accuracy), interval(each.tally.interval)]
        if each.change is None:
            rows.append([*cells, "-", "-", "-"])
        else:
            change = each.change.total.paired
            rows.append([*cells, f"{change.difference:+.3f}", interval(change.interval, "+.3f"), p_value(change.p)])
    note = (
        "Change: from the run with the recording, over the same questions; its interval is a paired bootstrap (95 %),"
        f" p is McNemar's exact test, two-sided. Accuracy of guessing: {share(found[0].tally.chance)}."
    )
    failed = [each.tally.counts["failed"] for each in found]
    if any(failed):
        listed = ", ".join(map(str, failed))
        note += f" Questions that could not be asked count as wrong; from the first row to the last there are {listed}."
    columns = ["the model hears", "n", "accuracy", "95 % interval", "change", "interval of the change", "p"]
    results = [result(each.run) for each in found]
    few = [name for name, groups in results[0].groups.items() if len(groups) <= MOST_GROUPS]
    return [Table(columns, rows, note, title), *(groups_table(results, name) for name in few)]
