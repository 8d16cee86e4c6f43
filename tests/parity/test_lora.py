"""LoRAs fused by the torch reference's own loader against ours: every weight, and the network with them."""

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.types import Pass
from mlx_video.weights import lora
from tests.models import test_transformer as small
from tests.parity import test_transformer as parity
from tests.parity.reference import error, torch
from tests.support.loras import fuse

pytestmark = pytest.mark.parity
WEIGHT_LIMIT = 1e-6
VELOCITY_LIMIT = 2e-5


def pairs_of(model, seed, rank, every=1):
    """Factors for every `every`-th linear layer of a reference network, by its own names."""
    rng = np.random.default_rng(seed)
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    found = {}
    for name, layer in linear[::every]:
        down = rng.normal(0, 1 / np.sqrt(layer.in_features), (rank, layer.in_features))
        up = rng.normal(0, 0.3, (layer.out_features, rank))
        found[f"{name}.lora_A.weight"] = torch.from_numpy(down.astype(np.float32))
        found[f"{name}.lora_B.weight"] = torch.from_numpy(up.astype(np.float32))
    return found


def fused_by_the_reference(state, loras):
    """The reference's apply_loras with float32 products and sums, in either API (1.0.0 or later)."""
    import ltx_core.loader.fuse_loras as fuse_loras
    from ltx_core.loader.primitives import LoraStateDictWithStrength, StateDict

    def wrap(tensors):
        return StateDict(tensors, torch.device("cpu"), 0, {t.dtype for t in tensors.values()})

    pairs = [LoraStateDictWithStrength(wrap(tensors), strength) for tensors, strength in loras]
    if hasattr(fuse_loras, "FuseRule"):
        rule = fuse_loras.FuseRule(torch.float32, lambda key, weight, deltas, _: {key: deltas + weight.float()})
        return fuse_loras.apply_loras(wrap(state), pairs, fuse_rule=rule).sd
    return fuse_loras.apply_loras(wrap(state), pairs, dtype=torch.float32).sd


def save_lora(path, tensors):
    from safetensors.torch import save_file

    save_file({f"diffusion_model.{name}": value for name, value in tensors.items()}, str(path))
    return path


@pytest.mark.parametrize("generation", small.CONFIGS)
def test_fused(tmp_path, generation):
    config = small.CONFIGS[generation]
    # 1.0.0 fuses into 16-bit weights only; the sum it makes of them is float32 here.
    model = parity.reference(config, 11).to(torch.bfloat16).to(torch.float32)
    network = parity.ours(tmp_path, model, config)
    found = [(pairs_of(model, 1, rank=5), 0.8), (pairs_of(model, 2, rank=2, every=3), -0.35)]
    adapters = [
        (lora.read(save_lora(tmp_path / f"lora{i}.safetensors", tensors)), strength)
        for i, (tensors, strength) in enumerate(found)
    ]
    for coverage in fuse(network, adapters):
        assert coverage.matched == coverage.total > 30
        assert coverage.strangers == ()
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    wanted = fused_by_the_reference(state, found)
    ours = dict(tree_flatten(network.parameters()))
    assert set(ours) <= set(wanted)
    for name, array in ours.items():
        assert error(array, wanted[name].float()) < WEIGHT_LIMIT, name
    model.load_state_dict({name: tensor.float() for name, tensor in wanted.items()}, strict=True)
    data = small.inputs(generation, seed=3)
    sigma = {"video": 0.6, "audio": 0.2}
    expected = parity.run_reference(model, data, {m: torch.tensor(s) for m, s in sigma.items()}, parity.masks_of())
    [velocity] = network(small.latents(data), sigma, small.prepare(network, data), (Pass(),))
    for modality in data:
        assert error(velocity[modality], expected[modality]) < VELOCITY_LIMIT
