"""All examinations, in their order: what there is first, then what is computed, then how fast.

What an examination stumbles over is its finding, and the next goes on. Knows no printing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mlx_video import platform
from mlx_video.api import LTXPipeline
from mlx_video.checkpoints.hub.fetch import free_space
from mlx_video.checkup import demo_run, disk, hub, machine, speed
from mlx_video.checkup.finding import Finding, Verdict
from mlx_video.results.clip import Clip
from mlx_video.types import Listener, Phase, Progress, RunError, UserError

Examination = tuple[str, Callable[[], Finding | Sequence[Finding]]]
"""Its topic, for what goes wrong within it, and what is to be called."""


def examinations(quick: bool = False) -> list[Examination]:
    """quick: without measuring."""
    found: list[Examination] = [
        ("versions", lambda: machine.versions(machine.installed())),
        ("chip", machine.chip),
        ("backend", machine.products),
        ("memory", _memory),
        ("disk", machine.disks),
        ("hub", hub.examine_access),
        ("models", hub.examine_models),
    ]
    if quick:
        return found
    own = str(platform.compute_dtype()).rpartition(".")[2]
    types = dict.fromkeys(("float32", own))
    demos = [(f"demo {dtype}", lambda dtype=dtype: demo_run.examine(_make, dtype)) for dtype in types]
    return [*found, *demos, ("speed", _speed), ("reading", lambda: disk.examine(free_space()[0]))]


def examine(todo: Sequence[Examination], report: Listener) -> Iterator[Finding]:
    """Finding by finding; `report` is told how many examinations are done."""
    report(Progress(Phase.CHECKUP, 0, len(todo)))
    for done, (topic, look) in enumerate(todo, 1):
        try:
            found = look()
        except (UserError, RunError, OSError, RuntimeError, ValueError, MemoryError) as fault:
            found = Finding(topic, Verdict.WRONG, str(fault).strip().split("\n")[0] or type(fault).__name__)
        report(Progress(Phase.CHECKUP, done, len(todo)))
        yield from [found] if isinstance(found, Finding) else found


def _memory() -> Finding:
    return machine.memory(machine.free_memory(), platform.memory_limit(), platform.memory_budget())


def _make(dtype: str) -> Clip:
    with LTXPipeline.from_pretrained("demo", dtype=dtype) as pipe:
        return pipe.generate(**demo_run.ASKED)


def _speed() -> list[Finding]:
    """Products, and the networks in the precisions that they are run in."""
    free = machine.free_memory()
    room = platform.memory_budget() if free is None else min(free, platform.memory_budget())
    with platform.computing():
        plain = {dtype: speed.product(dtype) for dtype in (platform.compute_dtype(), platform.autoencoder_dtype())}
        found = [speed.examine_product(one) for one in plain.values()]
        found.append(speed.examine_block(plain[platform.compute_dtype()], room))
        found.append(speed.examine_decoder(plain[platform.autoencoder_dtype()], room))
    return found
