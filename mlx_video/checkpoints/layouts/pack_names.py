"""Names in packs of other MLX converters, and the way back from them to the official ones.

Every name begins with its part ("transformer.", "vae_decoder.", ...), or the file is called after it. Source: the
converters' own code, mlx-forge's recipes `ltx_23` and `ltx_25` among them. Knows no file and no config.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from mlx_video.checkpoints.layouts.official import components_in
from mlx_video.checkpoints.text_pack import PREFIX
from mlx_video.models.family import Family
from mlx_video.weights.store import Tensors

RENAMES = (
    (r"^((?:transformer|connector)\..*)\.to_out\.(\w+)$", r"\1.to_out.0.\2"),
    (r"^((?:transformer|connector)\..*ff)\.proj_in\.", r"\1.net.0.proj."),
    (r"^((?:transformer|connector)\..*ff)\.proj_out\.", r"\1.net.2."),
    (r"^(transformer\..*)\.linear([12])\.", r"\1.linear_\2."),
    (r"^transformer\.", "model.diffusion_model."),
    (r"^connector\.((?:video|audio)_embeddings_connector\.)", r"model.diffusion_model.\1"),
    (r"^connector\.(?:text_embedding_projection\.)?", "text_embedding_projection."),
    (r"per_channel_statistics\._?(mean|std)(?:_of_means)?$", r"per_channel_statistics.\1-of-means"),
    (r"^vae_(encoder|decoder)_(?:conv|av)\.", r"vae_\1."),
    (r"^vae_(?:encoder|decoder)\.per_channel_statistics\.", "vae.per_channel_statistics."),
    (r"^vae_(encoder|decoder)\.", r"vae.\1."),
    (r"^(vae\.decoder\.(?:.*\.)?conv(?:_in|_out|1|2))\.conv\.conv\.", r"\1.conv."),
    (r"^audio_vae\.(?:encoder\.|decoder\.)?per_channel_statistics\.", "audio_vae.per_channel_statistics."),
    (r"^vocoder\.(act_post\.)", r"vocoder.vocoder.\1"),
    (r"^audio_vae\.(?!encoder\.|decoder\.|per_channel_statistics\.)", "audio_vae.decoder."),
)
"""From a pack's names, each beginning with its part, to the official ones."""
_DIFFUSION_RENAMES = (
    (r"^vae_decoder_av\.(?=per_channel_statistics\.)", ""),
    (r"^vae_decoder_av\.", "decoder."),
)
"""Before those: the diffusion decoder's, which are bare in its official file."""
DOUBLES = r"^transformer\.(video|audio)_embeddings_connector\."
"""A unified file has the connectors twice, once as part of the transformer."""
PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "transformer": (("transformer",),),
    "connectors": (("connector", "text_embedding_projection"),),
    "video_decoder": (("vae_decoder",), ("vae_decoder_conv",)),
    "video_encoder": (("vae_encoder",), ("vae_encoder_conv",), ("vae_encoder_av",)),
    "audio_decoder": (("audio_vae",),),
    "audio_encoder": (("audio_vae",),),
    "vocoder": (("vocoder",),),
    "latent_statistics": (("vae_decoder",), ("vae_decoder_conv",), ("vae_decoder_av",)),
    "diffusion_decoder": (("vae_decoder_av",),),
    "duration_head": (("duration_head",),),
}
"""With what the names of a component's tensors begin in a pack; in a file named after it they may lack that. Of several
alternatives the first that is there; LTX-2.5 has two autoencoders of the same encoder."""
UPSCALERS = ("upsampler", "spatial_upscaler", "temporal_upscaler")
"""With what the names of latent upsamplers begin; versions follow."""
_HEADS = {head for some in PARTS.values() for heads in some for head in heads} | {PREFIX.rstrip(".")}


def qualified(tensors: Tensors, part: str) -> Tensors:
    """The tensors of one file under names that begin with their part, which a split file may leave out."""
    if all(name.partition(".")[0] in _HEADS or name.startswith(UPSCALERS) for name in tensors.entries):
        return tensors
    return tensors.renamed(lambda name: f"{part}.{name}")


def first_with(family: Family, views: Sequence[Tensors], component: str) -> Tensors | None:
    """A component's tensors under official names, from the first of `views` that has it; None where none has."""
    for heads in PARTS[component]:
        for view in views:
            found = view.renamed(partial(official, component, heads))
            if component in components_in(family.components, found.entries):
                return found
    return None


def official(component: str, heads: Sequence[str], name: str, prefix: str = "") -> str | None:
    """The official name of a component's tensor; None for what does not begin with one of `heads`."""
    name = prefix + name
    if name.partition(".")[0] not in heads or re.match(DOUBLES, name):
        return None
    for pattern, replacement in (*(_DIFFUSION_RENAMES if component == "diffusion_decoder" else ()), *RENAMES):
        name = re.sub(pattern, replacement, name)
    return name
