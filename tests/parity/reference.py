"""The torch reference for parity tests: builds its modules from small configs, gives them seeded weights, and writes
them as checkpoint files with the official names. Knows nothing of our networks. Import it only inside parity tests:
it needs torch and ltx-core (`pytest.importorskip` is done here, so such tests skip where they are absent).
"""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")


def _torchaudio_stand_in() -> None:
    # ltx-core imports torchaudio, which has no CPU build; only its mel and resampling are used, and not by these tests
    # unless they bring their own. A module spec is there because transformers looks for one.
    try:
        import torchaudio  # noqa: F401
    except ImportError:
        import importlib.machinery

        for name in ("torchaudio", "torchaudio.transforms", "torchaudio.functional"):
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
        sys.modules["torchaudio"].transforms = sys.modules["torchaudio.transforms"]
        sys.modules["torchaudio"].functional = sys.modules["torchaudio.functional"]
        sys.modules["torchaudio.transforms"].MelSpectrogram = None
        sys.modules["torchaudio"].__version__ = "0"


_torchaudio_stand_in()
ltx_core = pytest.importorskip("ltx_core")
torch.set_grad_enabled(False)
torch.set_num_threads(1)


def build(configurator, config: dict):
    """A reference module from its own configurator, in either API of the reference (1.0.0 or later)."""
    if hasattr(configurator, "from_metadata"):
        return configurator.from_metadata({"config": config}).eval()
    return configurator.from_config(config).eval()


def randomize(module, seed: int, scale: float = 1.0):
    """Seeded weights that keep activations near 1 and leave no parameter at its initial value; returns the module."""
    rng = np.random.default_rng(seed)
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        if not tensor.is_floating_point() or "filter" in name or "basis" in name or "kernel" in name:
            continue
        if "std-of-means" in name:
            value = rng.uniform(0.5, 1.5, tensor.shape)
        elif "norm" in name and name.endswith("weight"):
            value = rng.uniform(0.7, 1.3, tensor.shape)
        elif tensor.ndim >= 2 and "table" not in name and "registers" not in name:
            fan_in = math.prod(tensor.shape[1:])
            value = rng.normal(0, scale / math.sqrt(fan_in), tensor.shape)
        else:
            value = rng.normal(0, 0.2, tensor.shape)
        tensor.data.copy_(torch.from_numpy(np.asarray(value, np.float32)))
    return module


def save(path: Path, parts: dict, config: dict, version: str | None = None) -> Path:
    """Writes modules as one official-style file: {prefix: module or state dict}, `config` in the metadata."""
    from safetensors.torch import save_file

    tensors = {}
    for prefix, part in parts.items():
        state = part if isinstance(part, dict) else part.state_dict()
        tensors.update({prefix + name: value.detach().clone().contiguous() for name, value in state.items()})
    metadata = {"config": json.dumps(config)}
    if version is not None:
        metadata["model_version"] = version
    save_file(tensors, str(path), metadata)
    return path


def error(ours, reference) -> float:
    """||ours - reference|| / ||reference||, in float64; shapes must agree."""
    a = np.asarray(ours, np.float64)
    b = np.asarray(reference.detach().numpy() if hasattr(reference, "detach") else reference, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def normal(seed: int, *shape: int):
    """A seeded standard normal float32 torch tensor."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
