"""In 16 bit our transformer is no further from the float32 reference than the reference itself in 16 bit."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.types import Pass
from tests.models import test_transformer as small
from tests.parity.reference import error, torch
from tests.parity.test_transformer import masks_of, ours, reference, run_reference

pytestmark = pytest.mark.parity
SIXTEEN_BIT = {"bfloat16": (mx.bfloat16, torch.bfloat16), "float16": (mx.float16, torch.float16)}
SEEDS = (5, 6, 7)


def to_torch(data, dtype):
    """The inputs with latents and texts in `dtype`; positions stay."""
    return {
        m: {k: v if k == "positions" else torch.from_numpy(v).to(dtype).float().numpy() for k, v in part.items()}
        for m, part in data.items()
    }


@pytest.mark.parametrize("generation", small.CONFIGS)
@pytest.mark.parametrize("name", SIXTEEN_BIT)
def test_errors_are_those_of_the_reference(tmp_path, monkeypatch, generation, name) -> None:
    config = small.CONFIGS[generation]
    ours_in, theirs_in = SIXTEEN_BIT[name]
    errors = {"ours": [], "reference": []}
    for seed in SEEDS:
        model = reference(config, seed)
        network = ours(tmp_path, model, config)
        network.set_dtype(ours_in)
        sigma = {m: torch.tensor(s) for m, s in {"video": 0.31, "audio": 0.93}.items()}
        data = to_torch(small.inputs(generation, seed=seed), theirs_in)
        exact = run_reference(model, data, sigma, masks_of())
        plain = torch.from_numpy
        with monkeypatch.context() as patched:
            # The reference is handed its latents and texts in 16 bit; positions, masks and levels in float32.
            patched.setattr(torch, "from_numpy", lambda a, plain=plain: _rounded(plain(a), theirs_in))
            rough = run_reference(model.to(theirs_in), data, sigma, masks_of())
        [found] = network(
            small.latents(data), {m: s.item() for m, s in sigma.items()}, small.prepare(network, data), (Pass(),)
        )
        for m in data:
            assert found[m].dtype == ours_in
            errors["ours"].append(error(np.array(found[m].astype(mx.float32)), exact[m]))
            errors["reference"].append(error(rough[m].float(), exact[m]))
    mean = {who: float(np.mean(each)) for who, each in errors.items()}
    print(f"{generation} {name}: ours {mean['ours']:.2e}, the reference {mean['reference']:.2e}")
    assert 0 < mean["ours"] < 1.2 * mean["reference"]


def _rounded(tensor, dtype):
    # Positions are the only four-dimensional input.
    return tensor if tensor.ndim == 4 else tensor.to(dtype)
