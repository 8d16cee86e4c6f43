"""What a checkpoint is, in lines for the user: generation, variant, precision, components with sizes, neighbours.

From headers alone, here in a fraction of a second; on the hub they and nothing else are fetched. Prints nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mlx_video.checkpoints import locate
from mlx_video.checkpoints.checkpoint import Checkpoint, Part
from mlx_video.checkpoints.hub import repos
from mlx_video.checkpoints.hub.fetch import free_space
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.hub.rules import Choice, Chosen
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.checkpoints.layouts.neighbours import OLDER, Place
from mlx_video.checkpoints.text_source import TextSource
from mlx_video.models.families import RECIPES
from mlx_video.models.family import Family
from mlx_video.reading import is_there
from mlx_video.types import UserError, amount
from mlx_video.types.recipes import Recipe
from mlx_video.weights import quantize
from mlx_video.weights.store import size_of

PRECISIONS = {
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8 (e4m3)", "F8_E5M2": "float8 (e5m2)",
    "U32": "packed", "I8": "int8", "U8": "packed (U8)",
}  # fmt: skip
"""How users call what files call so."""
_REST = 0.001
"""A precision that holds a smaller share of a component's bytes (scales of one number) is not named."""


def describe(path: Path) -> list[str]:
    """The lines for what lies at `path`, a block for each checkpoint; raises UserError as `open_checkpoint` does."""
    found, faults = {}, []
    own = Place(path).own
    for variant in ("distilled", "dev"):
        try:
            checkpoint = open_checkpoint(path, variant)
        except UserError as fault:
            faults.append(fault)
        else:
            found[checkpoint.source] = checkpoint
    if all(checkpoint.layout.startswith("official") for checkpoint in found.values()):
        # A run takes one of each variant; there may be more, in other precisions and versions.
        for file in own.of("checkpoint"):
            found.setdefault(file, open_checkpoint(file, "distilled"))
    blocks = [_of(checkpoint) for checkpoint in found.values()]
    blocks += [[str(file), _line("family", OLDER)] for file in own.of(OLDER)]
    if not blocks:
        raise faults[0]
    return [line for block in blocks for line in ("", *block)][1:]


def describe_repo(repo: str) -> list[str]:
    """The lines for a repo on the hub, and what each pipeline would fetch of it."""
    with Outlines() as outlines:
        offer = repos.fetch_offer(repo, outlines.take)
        lines = [outlines.named(line) for line in describe(offer)]
        lines += ["", f"A run would fetch ({amount(free_space()[1], disk=True)} free):"]
        for recipe in RECIPES.values():
            if not recipe.keyframes or _has_keyframes(offer, recipe):
                lines.append(_line(recipe.name, _to_fetch(repo, recipe, outlines)))
    return lines


def _has_keyframes(path: Path, recipe: Recipe) -> bool:
    """Whether there is a checkpoint for a pipeline with keyframes, which of the generations only later ones have."""
    try:
        return open_checkpoint(path, recipe.variant).facts.keyframes
    except UserError:
        return False


def _to_fetch(repo: str, recipe: Recipe, outlines: Outlines) -> str:
    found: list[Chosen] = []

    def take(repo: str, choose_from: Choice) -> Path:
        found.append(outlines.find(repo, choose_from))
        return outlines.take(repo, choose_from)

    try:
        locate.checkpoint(repo, recipe, take=take)
    except UserError as fault:
        return str(fault)
    return str(found[-1])


def _of(checkpoint: Checkpoint) -> list[str]:
    how = quantize.used(checkpoint.build("transformer")) if "transformer" in checkpoint.parts else None
    version = f" (model version {checkpoint.version})" if checkpoint.version else ""
    lines = [
        str(checkpoint.source),
        _line("layout", checkpoint.layout),
        _line("generation", f"LTX-{checkpoint.generation.name}{version}"),
        _line("variant", checkpoint.variant or "not stated"),
        _line("quantized", f"transformer blocks, {how}" if how else "no"),
    ]
    total = 0
    for name, part in checkpoint.parts.items():
        if name == "latent_statistics":
            continue  # the decoder has them too
        size, precisions = _content(part)
        total += size
        more = f", {_shape(checkpoint)}" if name == "transformer" else ""
        lines.append(_line(name.replace("_", " "), f"{_size(size)}  {precisions}{more}"))
    lines.append(_line("all of it", _size(total)))
    absent = [
        name
        for name, component in checkpoint.family.components.items()
        if name not in (*checkpoint.parts, "upsampler", "latent_statistics") and not component.optional
    ]
    if absent:
        lines.append(_line("without", ", ".join(name.replace("_", " ") for name in absent)))
    return lines + _neighbours(checkpoint)


def _neighbours(checkpoint: Checkpoint) -> list[str]:
    lora, encoder = "none beside it", "none beside it"
    upsamplers = []
    for kind, part in checkpoint.upsamplers.items():
        size, precisions = _content(part)
        upsamplers.append(_line("upsampler", f"{_size(size)}  {precisions}, {kind}, {part.tensors.paths[0].name}"))
    if checkpoint.distilled_lora is not None:
        lora = f"{_size(size_of(checkpoint.distilled_lora))}  {checkpoint.distilled_lora.name}"
    if checkpoint.text_encoder is not None:
        encoder = _text_encoder(checkpoint.family, checkpoint.text_encoder)
    upsamplers = upsamplers or [_line("upsampler", "none beside it")]
    lines = [*upsamplers, _line("distilled LoRA", lora), _line("text encoder", encoder)]
    return lines + [_line("unreadable", str(fault)) for fault in checkpoint.faults]


def _text_encoder(family: Family, where: str) -> str:
    path = Path(where)
    try:
        if not is_there(path) or not TextSource.lies_at(family, path):
            return where
        source = TextSource.open(family, path)
    except UserError as fault:
        return str(fault)
    config, tensors = source.config, source.tensors
    sizes = Counter(PRECISIONS.get(entry.dtype, entry.dtype) for entry in tensors.entries.values())
    bits = f"{config.quantization['bits']} bit" if config.quantization else max(sizes, key=lambda kind: sizes[kind])
    return f"{_size(tensors.nbytes())}  {bits}, {config.layers} layers of width {config.width}, {path}"


def _content(part: Part) -> tuple[int, str]:
    """Bytes of a component's own tensors, and their precisions, the commonest first."""
    network = part.component.network
    sizes: Counter[str] = Counter()
    for name, entry in part.tensors.entries.items():
        if name.startswith(part.prefixes) and part.path_of(network, name) is not None:
            sizes[PRECISIONS.get(entry.dtype, entry.dtype)] += entry.nbytes
    total = sum(sizes.values())
    return total, ", ".join(kind for kind, size in sizes.most_common() if size > _REST * total)


def _shape(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.facts.blocks} blocks, {checkpoint.facts.width} wide"


def _line(label: str, text: str) -> str:
    return f"  {label:<18}{text}"


def _size(size: int) -> str:
    return f"{amount(size, disk=True, digits=2):>10}"
