"""Records from the torch reference what tests without torch compare with. By hand: `python -m tests.parity.record`.

Writes tests/fixtures/small_names.json (names and shapes of the small checkpoints of tests/small.py) and, made from
those checkpoints with our seeded draws, tests/fixtures/small_<generation>.npz (final latents of whole pipelines).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from mlx_video.diffusion.noise import seeded
from tests.parity import reference
from tests.support import small


def modules(config: dict) -> dict:
    """{prefix in the file: module} of everything in a checkpoint, from the reference's own configurators."""
    from ltx_core.model.audio_vae import AudioDecoderConfigurator, AudioEncoderConfigurator, VocoderConfigurator
    from ltx_core.model.transformer import LTXModelConfigurator
    from ltx_core.model.video_vae import VideoDecoderConfigurator, VideoEncoderConfigurator
    from ltx_core.text_encoders.gemma.embeddings_connector import (
        AudioEmbeddings1DConnectorConfigurator,
        Embeddings1DConnectorConfigurator,
    )
    from ltx_core.text_encoders.gemma.encoders import encoder_configurator

    text = encoder_configurator.GEMMA3_CONFIG_FOR_LTX.text_config
    text.hidden_size, text.num_hidden_layers = small.TEXT_WIDTH, small.TEXT_LAYERS
    dit = small.DIT
    return {
        dit: reference.build(LTXModelConfigurator, config),
        dit + "video_embeddings_connector.": reference.build(Embeddings1DConnectorConfigurator, config),
        dit + "audio_embeddings_connector.": reference.build(AudioEmbeddings1DConnectorConfigurator, config),
        "text_embedding_projection.": encoder_configurator._create_feature_extractor(config["transformer"]),
        "vae.encoder.": reference.build(VideoEncoderConfigurator, config),
        "vae.decoder.": reference.build(VideoDecoderConfigurator, config),
        "audio_vae.encoder.": reference.build(AudioEncoderConfigurator, config),
        "audio_vae.decoder.": reference.build(AudioDecoderConfigurator, config),
        "vocoder.": reference.build(VocoderConfigurator, config),
    }


def names(config: dict) -> dict[str, list[int]]:
    """Names and shapes of a checkpoint's tensors."""
    found = {}
    for prefix, module in modules(config).items():
        for name, tensor in module.state_dict().items():
            if name.startswith("per_channel_statistics."):
                found[prefix.split(".")[0] + "." + name] = list(tensor.shape)
            else:
                found[prefix + name] = list(tensor.shape)
    return dict(sorted(found.items()))


def runs(generation: str, folder: Path) -> dict[str, np.ndarray]:
    """Final latents of the reference's runs of RECORDED; of the first one also some frames and the sound's start."""
    from tests.parity import reference_pipelines
    from tests.support.cases import FRAMES_KEPT, RECORDED, SAMPLES_KEPT, write_inputs

    small.make(folder / "small", generation, ("distilled", "dev"))
    write_inputs(folder / "inputs")
    found: dict[str, np.ndarray] = {}
    for case in RECORDED:
        run = reference_pipelines.run(folder / "small", generation, case, folder / "inputs", seeded(case.seed))
        found |= {f"{case.name}/{modality}": latent for modality, latent in run.latents.items()}
        if case is RECORDED[0]:
            found["noise/stage1/video"] = np.array(run.noise["stage1/video"])
            found[f"{case.name}/frames"] = run.frames[FRAMES_KEPT]
            found[f"{case.name}/waveform"] = run.waveform[:, :SAMPLES_KEPT].astype(np.float16)
    return found


def main() -> None:
    """Writes the fixtures."""
    names_of_tensors()
    for generation in small.CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            np.savez_compressed(small.FIXTURES / f"small_{generation}.npz", **runs(generation, Path(folder)))


def names_of_tensors() -> None:
    """Writes small_names.json."""
    from ltx_core.model.upsampler import LatentUpsamplerConfigurator

    recorded = {}
    for generation in small.CONFIGS:
        recorded[generation] = {"checkpoint": names(small.config(generation))}
        for kind, settings in {"upsampler": small.UPSAMPLER_CONFIGS[generation], **small.OTHER_UPSAMPLERS}.items():
            tensors = reference.build(LatentUpsamplerConfigurator, settings).state_dict()
            recorded[generation][kind] = {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}
    text = json.dumps(recorded, separators=(",", ":"))
    (small.FIXTURES / "small_names.json").write_text(text.replace('],"', '],\n"'))


if __name__ == "__main__":
    main()
