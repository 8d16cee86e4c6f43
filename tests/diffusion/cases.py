"""Inputs for the tests of sampling, the same for us, for the reference and for the recorded fixture: arrays by name,
two modalities in a batch of two with kept tokens, a stand-in network in closed form, and lists of settings.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parents[1] / "fixtures" / "diffusion.npz"
SIZES = {"video": (2, 11, 6), "audio": (2, 7, 6)}
SCHEDULES = [(2, 4096), (3, 18), (7, 1000), (15, 8160), (30, 4096), (40, 4096), (9, 24576)]
SIGMAS = {
    "falls_to_0": [0.9999998, 0.93, 0.81, 0.66, 0.48, 0.27, 0.1, 0.0],
    "stays_above_0": [0.95, 0.7, 0.45, 0.3],
}
SAMPLERS = ("euler", "gradient_estimating_euler", "res_2s")
GUIDERS = {
    "cfg": {"cfg_scale": 4.5},
    "cfg_rescale": {"cfg_scale": 6.0, "rescale": 0.6},
    "stg": {"stg_scale": 1.3, "stg_blocks": (1,)},
    "modality": {"modality_scale": 2.5, "rescale": 1.0},
    "all": {"cfg_scale": 3.0, "stg_scale": 0.8, "stg_blocks": (0, 2), "modality_scale": 2.0, "rescale": 0.7},
}
POSITIONS = [(25, 96, 64, 23.976), (9, 32, 160, 30.0), (1, 64, 64, 25.0), (49, 64, 32, 59.94)]


def array(name: str, *shape: int) -> np.ndarray:
    """Standard normal float32 that depends on the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def predictions() -> dict[str, np.ndarray]:
    """What four passes predict for one modality: related, as real ones are, and not of mean 0. (2, 9, 128)."""
    positive = array("positive", 2, 9, 128) + 0.1
    others = {name: 0.8 * positive + 0.4 * array(name, 2, 9, 128) for name in ("negative", "perturbed", "isolated")}
    return {"positive": positive, **others}


def start(modality: str) -> dict[str, np.ndarray]:
    """`latent`, `clean` and `mask` of a state: three tokens kept, two kept in part."""
    shape = SIZES[modality]
    mask = np.ones((*shape[:2], 1), np.float32)
    mask[:, :3], mask[:, 3:5] = 0.0, 0.3
    clean = array(f"clean/{modality}", *shape)
    latent = np.where(mask == 0, clean, array(f"latent/{modality}", *shape))
    return {"latent": latent, "clean": clean, "mask": mask}


def toy(x, sigma: float, modality: str, tanh, convert):
    """A stand-in for a network, in whatever array library: x0 = 0.7 tanh(x) + (1 - sigma) target - 0.05."""
    return tanh(x) * 0.7 + (1.0 - sigma) * convert(array(f"target/{modality}", *SIZES[modality])) - 0.05


def noise(k: int, modality: str) -> np.ndarray:
    """The k-th raw draw of a stochastic sampler; its mean and deviation are off on purpose."""
    return 1.2 * array(f"noise/{k}/{modality}", *SIZES[modality]) + 0.1
