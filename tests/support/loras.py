"""A LoRA added to a whole network at once, as runs add it part by part."""

from mlx_video.weights import lora


def fuse(module, loras, component="transformer", *, optional=False):
    """Adds (adapter, strength) pairs to `module`; the coverage of each. As `lora.match` raises, and then unchanged."""
    matches = [lora.match(module, adapter, component, optional=optional) for adapter, _ in loras]
    terms = {}
    for (pairs, _), (_, strength) in zip(matches, loras, strict=True):
        for path, pair in pairs.items():
            if strength:
                terms.setdefault(path, []).append((pair, strength))
    lora.add(module, terms)
    return [coverage for _, coverage in matches]
