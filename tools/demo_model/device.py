"""Where training computes: torch's default device, the CPU unless `use` has been called before anything is made.

It knows no network. On a graphics card a step takes as long for many clips as for few, so batches are larger there.
"""

from __future__ import annotations

import torch

LARGER = 16  # clips on a graphics card for each one on a CPU core


def use(name: str) -> None:
    """`name` as torch has it: "cpu", "cuda". One thread on a CPU: a second process is worth more than a second thread."""
    torch.set_num_threads(1)
    if name != "cpu":  # torch's own default; setting it costs a little with every operation
        torch.set_default_device(name)


def kind() -> str:
    return torch.get_default_device().type


def batch(clips: int) -> int:
    """So many clips on a CPU core are how many here."""
    return clips if kind() == "cpu" else clips * LARGER


def read(path: str):
    """What `bank.save` has written, on this device."""
    return torch.load(path, map_location=torch.get_default_device())


def mixed() -> torch.autocast:
    """Convolutions and products in bfloat16."""
    return torch.autocast(kind(), torch.bfloat16)


def normal(shape, seed: int | torch.Generator) -> torch.Tensor:
    """The same noise on every device."""
    generator = torch.Generator("cpu").manual_seed(seed) if isinstance(seed, int) else seed
    return torch.randn(*shape, generator=generator, device="cpu").to(torch.get_default_device())
