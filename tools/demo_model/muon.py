"""Muon: momentum steps of matrices made orthogonal by Newton-Schulz iterations, Adam for everything else.

Convolution kernels count as matrices (out x rest). Matrices of one shape are orthogonalised together. It trained every
part of the demo several times faster than Adam. Source: Keller Jordan, "Muon: an optimizer for hidden layers", 2024.
"""

from __future__ import annotations

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """(K, rows, columns) -> the same with all singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2).contiguous()
    for _ in range(steps):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = a * x + torch.bmm(b * gram + c * torch.bmm(gram, gram), x)
    return x.transpose(1, 2) if tall else x


class Muon:
    def __init__(self, named, lr: float, adam_lr: float = 1e-3, plain=()):
        """`named`: (name, float32 parameter) pairs; names that contain a word of `plain` go to Adam."""
        self.matrices, self.rest = [], []
        for name, p in named:
            wide = p.ndim >= 2 and min(p.shape[0], p.numel() // p.shape[0]) >= 16
            (self.matrices if wide and not any(word in name for word in plain) else self.rest).append(p)
        self.lr, self.adam_lr = lr, adam_lr
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.adam = torch.optim.Adam(self.rest, lr=adam_lr, betas=(0.9, 0.98), foreach=True)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * factor
        self.adam.step()
        groups: dict = {}
        for p, m in zip(self.matrices, self.momentum):
            m.mul_(0.95).add_(p.grad, alpha=0.05)
            update = (0.05 * p.grad + 0.95 * m).reshape(p.shape[0], -1)
            groups.setdefault(tuple(update.shape), []).append((p, update))
        for (rows, columns), members in groups.items():
            updates = orthogonalise(torch.stack([u for _, u in members]))
            for (p, _), u in zip(members, updates):
                p.add_(u.to(p.dtype).reshape(p.shape), alpha=-self.lr * factor * max(1.0, rows / columns) ** 0.5)

    def state_dict(self) -> dict:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        for mine, theirs in zip(self.momentum, state["momentum"]):
            mine.copy_(theirs)
        self.adam.load_state_dict(state["adam"])
