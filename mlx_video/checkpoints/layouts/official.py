"""The official file, in its folder with the upsampler, the distilled LoRA and the text encoder: a single one, or the
transformer of a split pack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_video.checkpoints.checkpoint import Checkpoint, version_of
from mlx_video.checkpoints.layouts import split
from mlx_video.checkpoints.layouts.neighbours import Place, is_packed, variant_of
from mlx_video.models.family import Component
from mlx_video.models.section import Stated


def recognise(place: Place) -> bool:
    """By a file that has a transformer's config in its metadata."""
    return bool(place.own.of("checkpoint"))


def describe(place: Place, variant: str) -> Checkpoint:
    """The checkpoint at `place`, of `variant` and in 16 bit where a folder has several."""
    checkpoints = place.own.of("checkpoint")
    file = min(checkpoints, key=lambda file: (variant_of(file.name) != variant, is_packed(file), file.name))
    if variant_of(file.name) not in (variant, None) and place.own.faults:
        # Rather than call the other variant wrong: the one that was meant may be the one that cannot be read.
        raise place.own.faults[0]
    tensors = checkpoints[file]
    own = dict.fromkeys(components_in(place.family.components, tensors.entries), tensors)
    beside = split.find(place, file, tensors, own)
    config = Stated(tensors.metadata["config"], str(file))  # type: ignore[arg-type]
    if split.GEMMA in tensors.metadata:
        config[split.GEMMA] = tensors.metadata[split.GEMMA]
    more: dict[str, Any] = {} if beside.text_encoder is None else {"text_encoder": str(beside.text_encoder)}
    return place.checkpoint(
        file,
        split.whole_config(config, beside.configs),
        {**own, **beside.tensors},
        "official",
        configs=beside.configs,
        layout="official split pack" if beside.tensors else "official file",
        **more,
        version=version_of(tensors.metadata.get("model_version")),
        variant=variant_of(file.name),
        distilled_by_lora=tensors.metadata.get("distilled_by") == "lora",
    )


def components_in(components: Mapping[str, Component], names: Mapping[str, Any]) -> list[str]:
    """The components that there are tensors of, by official names."""
    own = {name: component.prefixes[0] for name, component in components.items() if component.prefixes != ("",)}
    return [name for name, prefix in own.items() if any(key.startswith(prefix) for key in names)]
