"""Muon for matrices and AdamW for everything else, with the interface of one optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the weights of linear layers, AdamW for embeddings, convolutions, norms and biases.

    The steps of Muon are scaled to those of AdamW (`match_rms_adamw`), so that one learning rate fits both.
    """

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float = 0.0) -> None:
        matrices = {
            f"{name}.weight"
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and "head" not in name
        }
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            Muon(
                [p for name, p in trained if name in matrices],
                lr=learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [p for name, p in trained if name not in matrices],
                lr=learning_rate,
                betas=(0.9, 0.95),
                weight_decay=weight_decay,
            ),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups = [group]  # shared, so that a schedule set here reaches the parts

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of both optimisers. `closure` is ignored."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimisers."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of both optimisers."""
        for part, saved, index in zip(self._parts, state_dict["parts"], range(2), strict=True):
            part.load_state_dict(saved)
            self.param_groups[index] = part.param_groups[0]


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, but orthogonalising in the precision of the weights.

    The version in torch uses bfloat16, which most CPUs only emulate; that took two thirds of a training step (LAB.md).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step. `closure` is ignored."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
                size = 0.2 * max(parameter.shape) ** 0.5  # match_rms_adamw
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(
                    orthogonalised(update, group["ns_coefficients"], group["ns_steps"]), alpha=-size * group["lr"]
                )


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """The matrix [N, M] with singular values near 1, by `steps` steps of the quintic Newton-Schulz iteration."""
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
