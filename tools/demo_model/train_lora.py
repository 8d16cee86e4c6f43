"""Trains the distilled LoRA: a low-rank change of the transformer's matrices for the few noise levels of the distilled
pipeline, on top of the finished (dev) transformer.

The reference's modules stay as they are: the full gradient of a matrix W + B A gives those of B and A. Everything else
(text path, biases, tables) is frozen, because a LoRA file cannot carry it.
"""

from __future__ import annotations

import math

import torch

from . import device
from .bank import newest
from .train_transformer import Trainer

RANK = 8


class _Adam:
    """torch's Adam behind the two things that Trainer asks of an optimiser."""

    def __init__(self, parameters, rate: float):
        self.rate, self.inner = rate, torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.98), foreach=True)

    def step(self, factor: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = self.rate * factor
        self.inner.step()

    def state_dict(self) -> dict:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state)


def targets(network) -> list[tuple[str, torch.nn.Parameter]]:
    """Every Linear of the transformer, as the published LoRA has it."""
    named = network.transformer.named_parameters()
    return [(n, p) for n, p in named if n.endswith(".weight") and p.ndim == 2]


class LoraTrainer(Trainer):
    distilled = True

    def __init__(self, folder: str, name: str, minutes: float, learning_rate: float = 2e-3):
        self.dev = device.read(newest(folder, "transformer"))["average"]
        super().__init__(folder, name, minutes, learning_rate)

    def prepare(self) -> None:
        self.network.load_state_dict(self.dev)
        self.network = self.network.bfloat16().requires_grad_(False)
        self.working, self.base, self.names, self.master = [], [], [], []
        generator = torch.Generator("cpu").manual_seed(0)
        for name, p in targets(self.network):
            rows, columns = p.shape
            rank = min(RANK, rows, columns)
            self.working.append(p.requires_grad_(True))
            self.base.append(p.detach().float().clone())
            self.names += [name + "|A", name + "|B"]
            self.master += [
                device.normal((rank, columns), generator) / math.sqrt(columns),
                torch.zeros(rows, rank),
            ]

    def build_optimiser(self):
        return _Adam(self.master, self.rate)

    def collect_gradients(self) -> None:
        for i, p in enumerate(self.working):
            a, b, gradient = self.master[2 * i], self.master[2 * i + 1], p.grad.float()
            a.grad, b.grad = b.T @ gradient, gradient @ a.T

    def publish(self) -> None:
        with torch.no_grad():
            for i, p in enumerate(self.working):
                p.copy_(self.base[i] + self.master[2 * i + 1] @ self.master[2 * i])


def merged(folder: str, name: str = "distilled") -> dict:
    """Weights of the network (dev + LoRA), for watch.py and for a single distilled file."""
    dev = dict(device.read(newest(folder, "transformer"))["average"])
    lora = device.read(newest(folder, name))["average"]
    for key in {n.split("|")[0] for n in lora}:
        dev["transformer." + key] = dev["transformer." + key] + lora[key + "|B"] @ lora[key + "|A"]
    return dev
