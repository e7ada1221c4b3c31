"""Muon for the filters, AdamW for the rest.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) takes the momentum of a filter bank as a matrix, one row a
filter, and steps along its nearest semi-orthogonal matrix, so that every direction moves at one speed. On 7,500 real
drawings and 12 epochs it gave 90.2 % where AdamW alone gave 88.0 %, in the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Of the quintic a x + b x^3 + c x^5 that brings singular values near 1 in few steps (source above).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 3  # 5 in the source; 3 as in airbench, near enough to 1 for so small a network


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal. For filters (out, in, H, W) that a batch norm follows.

    Their length means nothing then, so it is held at the square root of the number of filters, and the learning
    rate is the share of it that a step moves.
    """

    def __init__(self, filters: Iterable[Tensor], lr: float, momentum: float = 0.6) -> None:
        super().__init__(filters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            momentum = group["momentum"]
            for filters in group["params"]:
                buffer = self.state[filters].setdefault("momentum", torch.zeros_like(filters))
                buffer.mul_(momentum).add_(filters.grad)
                ahead = filters.grad + momentum * buffer
                filters.mul_(len(filters) ** 0.5 / filters.norm())
                filters.sub_(orthogonal(ahead.flatten(1)).view_as(filters), alpha=group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrix: the same singular vectors, all singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    if tall := len(x) > x.shape[1]:
        x = x.T
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
