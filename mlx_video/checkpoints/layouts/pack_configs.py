"""The configs of another MLX converter's pack, as official files state them: what the pack carries, filled up.

Where a pack says nothing the generation's published config stands, and every size is checked against the tensors later.
Which generation it is follows from the transformer's tensors and its config.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from mlx_video.checkpoints.checkpoint import version_of
from mlx_video.checkpoints.layouts.converted import FOLDERS
from mlx_video.checkpoints.layouts.neighbours import Place, object_in
from mlx_video.models.family import Generation
from mlx_video.models.section import Stated
from mlx_video.weights.store import Tensors

SECTIONS = {
    "video_decoder": "vae", "video_encoder": "vae", "latent_statistics": "vae", "diffusion_decoder": "vae",
    "audio_decoder": "audio_vae", "audio_encoder": "audio_vae", "vocoder": "vocoder", "duration_head": "duration_head",
}  # fmt: skip
"""What the config in a component's own file is for."""
_WHOLE = ("video_decoder", "audio_decoder", "vocoder")
"""Components whose sections are those of the whole checkpoint's config."""
_VAE_KEYS = ("encoder_blocks", "decoder_blocks", "decoder_base_channels", "latent_channels", "patch_size")
"""What the folders' configs say of the video VAE and can be relied on: their padding modes are guesses."""


class Configs(NamedTuple):
    """Of a pack: the whole checkpoint's, those of components that have their own, and the version."""

    whole: Stated
    own: dict[str, Stated]
    version: str


def read(place: Place, parts: Mapping[str, Tensors], source: object) -> Configs:
    """The configs of the pack in `place` with these tensors by component; `source` is named in messages."""
    transformer = parts["transformer"]
    files = [object_in(place.folder / name) for name in ("embedded_config.json", "config.json", "split_model.json")]
    files += [{"transformer": object_in(place.folder / FOLDERS["transformer"] / "config.json")}]
    metadata = transformer.metadata
    stated = [*files[:-1], metadata.get("config")]
    generation = _generation(place, transformer.entries, [*files, metadata.get("config")])
    assert generation.config is not None
    base = generation.config()
    implied = f"{generation.name}.0" if generation.told_by else ""
    said = next((one["model_version"] for one in (*files, metadata) if "model_version" in one), implied)
    own = _of_files(parts, transformer)
    sections = {SECTIONS[name]: own[name][SECTIONS[name]] for name in _WHOLE if name in own}
    whole = Stated({**base, **sections, **_given(place, stated, generation, base)}, str(source))
    published = {name: one for name, one in generation.configs().items() if name in parts and name not in own}
    return Configs(
        whole,
        {name: Stated({**whole, **one}, one.whose) for name, one in own.items()}
        | {name: Stated({**whole, **one}, str(parts[name].paths[0])) for name, one in published.items()},
        version_of(said),
    )


def _generation(place: Place, names: Collection[str], stated: Collection[object]) -> Generation:
    """By the transformer's tensors; the one without biases by its config as well."""
    found = place.family.generation_of(names)
    said = [one.get("transformer") for one in stated if isinstance(one, Mapping)]
    if any(isinstance(one, Mapping) and one.get("ff_bias") is False for one in said):
        return next(
            (
                one
                for one in reversed(place.family.generations)
                if one.config is not None and one.config().get("transformer", {}).get("ff_bias") is False
            ),
            found,
        )
    return found


def _of_files(parts: Mapping[str, Tensors], transformer: Tensors) -> dict[str, Stated]:
    """What the metadata of components' own files state of them."""
    own = {}
    for name, section in SECTIONS.items():
        tensors = parts.get(name)
        if tensors is None or tensors.paths == transformer.paths:
            continue
        said = tensors.metadata.get("config")
        if isinstance(said, Mapping) and section in said:
            own[name] = Stated(said, str(tensors.paths[0]))
    return own


def _given(place: Place, stated: Collection[object], generation: Generation, base: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that the pack states for the whole checkpoint."""
    for given in stated:
        if isinstance(given, Mapping) and isinstance(given.get("transformer"), Mapping):
            # One converter writes a config of its own for LTX-2.3, in which keys are missing.
            if not generation.whole_with or generation.whole_with in given["transformer"]:
                return dict(given)
            return {section: _overlay(base[section], given.get(section, {})) for section in base}
    return _from_folders(place, base)


def _overlay(base: Mapping[str, Any], given: object) -> Any:
    # What is no section is left for the reader of configs to name.
    return {**base, **given} if isinstance(given, Mapping) else given


def _from_folders(place: Place, base: Mapping[str, Any]) -> dict[str, Any]:
    """What the components' own config.json files state, over the published config."""
    transformer, decoder, encoder, audio, vocoder = (
        object_in(place.folder / FOLDERS[name] / "config.json")
        for name in ("transformer", "video_decoder", "video_encoder", "audio_decoder", "vocoder")
    )
    found: dict[str, Any] = {"transformer": _overlaid(base["transformer"], transformer)}
    vae = {key: value for key, value in {**encoder, **decoder}.items() if key in _VAE_KEYS}
    if vae:
        found["vae"] = {**base["vae"], **vae}
    if audio:
        params = base["audio_vae"]["model"]["params"]
        model = {"params": {**params, "ddconfig": _overlaid(params["ddconfig"], audio)}}
        found["audio_vae"] = {**base["audio_vae"], "model": model}
    if vocoder:
        found["vocoder"] = _overlaid(base["vocoder"], vocoder)
    return found


def _overlaid(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given[key] if given.get(key) is not None else value for key, value in base.items()}
