"""The table of `relisten train --dry-run`: what each way to train a model needs on one GPU."""

from __future__ import annotations

from relisten.reports.table import Table
from relisten.training.dry_run import DryRun
from relisten.training.memory import CONTEXT, GB


def needs_table(found: DryRun, recompute: bool) -> Table:
    """Gigabytes (10**9 bytes) on each GPU. recompute: whether gradient checkpointing is on."""
    columns = ["GB on each GPU", "weights", "gradients", "optimizer", "reference", "gathered", "forward"]
    columns += ["step, on", "step, off", *(["rollout", "rows"] if found.cache else [])]
    columns += [f"fits in {found.memory / GB:g}", "checkpoint"]
    rows = []
    for need in found.needs:
        parts = (need.weights, need.gradients, need.optimizer, need.reference, need.gathered, need.activations)
        other = need.update - need.activations + need.other_activations
        steps = (need.update, other) if recompute else (other, need.update)
        cells = [need.way, *map(_gb, (*parts, *steps))]
        cells += [_gb(need.rollout), f"{found.rows(need):,}"] if found.cache else []
        rows.append([*cells, "yes" if found.fits(need) else "no", _gb(need.checkpoint)])
    note = (
        "gathered: what sharded training makes whole in a step. forward: activations of the largest forward pass. step:"
        f" all of these, and {CONTEXT / GB:g} GB for CUDA and the allocator, with gradient checkpointing on and off."
    )
    if found.cache:
        note += (
            f" rows: how many answers of {found.row:,} tokens fit beside what a rollout holds"
            f" ({found.cache / 1e3:,.1f} kB a token); most answers are shorter."
        )
    return Table(columns, rows, note)


def _gb(count: float) -> str:
    return "-" if count == 0 else f"{count / GB:,.1f}" if count >= GB / 20 else "< 0.1"
