"""What mistakes with LTX-2.5 would change, and which quick tests see them.

By hand: `python -m tests.parity.traps25 PACK REF [NUMBER ...]`, with the oracle's pack and the reference's recorded
outputs. Each mistake is made in our code for a moment: the table has the error that it causes against the recording
(relative; of the largest value for texts, decoders and durations), or how it is refused, and the tests without torch
that fail. Not collected by pytest.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["MLX_VIDEO_CACHE"] = "off"

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.checkpoints.text_source import TextSource
from mlx_video.diffusion import conditioning, samplers
from mlx_video.lending.loader import load, read_text_encoder
from mlx_video.models import families
from mlx_video.models.ltx_2 import duration
from mlx_video.models.ltx_2.text_encoder import gemma4, tokens
from mlx_video.models.ltx_2.text_encoder.gemma_config import Rotary
from mlx_video.models.ltx_2.text_encoder.language_model import TextRotation
from mlx_video.types import UserError
from mlx_video.weights import lora_file
from tests.diffusion.cases import array
from tests.models.test_gemma4 import MISTAKES as TEXT_MISTAKES
from tests.models.test_gemma4 import _from_zero
from tests.parity import mistakes25 as wrong
from tests.parity import oracle25_decoder, oracle25_networks, oracle25_pipelines

RUNS, TEXTS = "tests/jobs/test_generation_25.py", "tests/models/test_gemma4.py"
NETWORK, STATES = "tests/models/test_transformer.py", "tests/diffusion"
DECODER, DURATION = "tests/models/test_diffusion_decoder.py", "tests/models/test_duration.py"
Patch = pytest.MonkeyPatch
PACK, REFERENCE = (Path(word) for word in sys.argv[1:3])
ONLY = {int(word) for word in sys.argv[3:]} or set(range(1, 13))
recorded: dict[str, np.ndarray] = dict(np.load(REFERENCE))


class Trap(NamedTuple):
    """A mistake: its number in the digest, what it is, how it is made, what shows it, whose tests are run."""

    number: int
    what: str
    make: Callable[[Patch], object]
    measure: Callable[[], float]
    tests: tuple[str, ...]


# ------------------------------------------------------------------------------------------------ measures


def pipeline(name: str) -> float:
    """Of the worse of a run's final latents; draws that were not recorded are others."""
    options, noise_of = dict(oracle25_pipelines.CASES[name]), oracle25_pipelines.noise_of

    def drawn(*which: Any) -> Callable[[str, tuple[int, ...]], Any]:
        known = noise_of(*which)
        return lambda draw, shape: known[draw] if draw in known else array(draw, *shape)

    negative = json.loads(str(recorded["__notes__"]))["pipelines/negative_prompt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle25_pipelines, "noise_of", drawn)
        found, _, _ = oracle25_pipelines._run(PACK, recorded, name, options, negative)
    pairs = ((found[m], recorded[f"pipelines/{name}/{m}_latent"]) for m in ("video", "audio"))
    return max(oracle25_pipelines._error(ours, theirs) for ours, theirs in pairs)


def text(case: str = "short", spoil: Callable[[Any], None] = lambda network: None) -> float:
    """Of the worse of the contexts; of tokens, the share that differs, where a prompt is too long."""
    [file] = (PACK / "text_encoders").glob("*.safetensors")
    encoder = read_text_encoder(TextSource.open(families.DEFAULT, file), mx.float32)
    spoil(encoder.network)
    prompt = str(recorded[f"text/{case}/prompt"])
    if case == "over":
        wanted, ids = recorded["text/over/token_ids"][0].tolist(), encoder.tokenizer.encode(prompt)
        return sum(a != b for a, b in zip(ids, wanted, strict=True)) / len(wanted)
    context = load("connectors", PACK)(encoder.encode([prompt])[0])
    pairs = ((getattr(context, m), recorded[f"text/{case}/{m}_embeddings"]) for m in ("video", "audio"))
    return max(oracle25_decoder.error(*pair) for pair in pairs)


def worst(compare: Callable[..., dict[str, tuple[float, float]]], only: str = "") -> float:
    """Of a comparison's cases."""
    return max(error for case, (error, _) in compare(PACK, recorded).items() if only in case)


def added() -> float:
    """Of the weights with the distilled LoRA in them."""
    return max(oracle25_networks._error(ours, theirs) for _, ours, theirs, _ in oracle25_networks._lora(PACK, recorded))


IN_NETWORK = {
    "layer_scalar 1": 2, "1 + weight": 2, "scores over sqrt(head size)": 2, "no norm of values": 2,
    "values with the keys' norm": 2, "one base for all layers": 3, "frequencies over the turned part alone": 3,
    "the first quarter turned": 3, "no final norm": 4,
}  # fmt: skip
OWN = {
    "one base for all layers": wrong.ropes(lambda c: c.near.rotary._replace(share=c.far.rotary.share)),
    "frequencies over the turned part alone": wrong.ropes(
        lambda c: Rotary(c.far.rotary.base ** (1 / c.far.rotary.share), c.far.rotary.divisor, c.far.rotary.share)
    ),
    "the first quarter turned": wrong.quarter,
}
"""Those that the tests make with their small network's own numbers."""
_SEEN = f"{TEXTS}::test_a_mistake_in_the_network_is_seen"


FIRST = partial(pipeline, "distilled_t2v")
PICTURES = partial(pipeline, "distilled_i2v_strength0.8_keyframe8")
SLOTS = partial(pipeline, "distilled_generated_keyframes2_diffusion_vae")
DECODING, SECONDS = partial(worst, oracle25_decoder.compare25_diffusion_vae), oracle25_decoder.compare25_duration
TRAPS = [
    Trap(1, "no <bos>", wrong.put(tokens.Gemma4Tokenizer, "_begun", lambda self, ids: ids), text, (TEXTS,)),
    Trap(
        1,
        "the tail of a long prompt",
        wrong.put(tokens.Tokenizer, "encode", wrong.tail),
        partial(text, "over"),
        (TEXTS,),
    ),
    Trap(1, "a space in front", wrong.spaced, text, (TEXTS,)),
    Trap(4, "positions from 0", wrong.put(TextRotation, "_table", _from_zero), text, (TEXTS,)),
    Trap(5, "nothing marked", wrong.marks(lambda marks, shape: mx.zeros_like(marks)), FIRST, (RUNS, STATES)),
    Trap(5, "the first frame unmarked in I2V", wrong.unmarked_where_replaced, PICTURES, (RUNS, STATES)),
    Trap(5, "the first frame unmarked in stage 2", wrong.second_stage_unmarked, FIRST, (RUNS,)),
    Trap(5, "guides marked", wrong.appended(conditioning.AppendKeyframe, 1.0), PICTURES, (RUNS, STATES)),
    Trap(5, "slots unmarked", wrong.appended(conditioning.GenerateKeyframe, 0.0), SLOTS, (RUNS, STATES)),
    Trap(6, "ff_bias taken for the sound too", wrong.no_audio_bias, FIRST, (NETWORK, RUNS)),
    Trap(6, "keyframes' flag ignored", wrong.no_keyframes, FIRST, (NETWORK, RUNS)),
    Trap(7, "Euler in stage 1", wrong.sampler("euler", "euler"), FIRST, (RUNS,)),
    Trap(7, "ancestral stage 2", wrong.sampler(*["ancestral_euler"] * 2), FIRST, (RUNS,)),
    Trap(7, "noise from the first noise's stream", wrong.same_stream, FIRST, (RUNS,)),
    Trap(7, "noise in the last step", wrong.spoilt_sampler, FIRST, (RUNS, STATES)),
    Trap(7, "kept tokens not put back", wrong.put(samplers, "_kept", lambda x, blend: x), PICTURES, (RUNS, STATES)),
    Trap(8, "towers not passed over", wrong.put(gemma4.Gemma4, "ignored", ()), FIRST, (TEXTS, RUNS)),
    Trap(9, "scale and shift swapped", wrong.swapped, DECODING, (DECODER,)),
    Trap(10, "8 heads", wrong.put(duration, "HEADS", 8), partial(worst, SECONDS, "both"), (DURATION,)),
    Trap(10, "one modality", wrong.by_sound_alone, partial(worst, SECONDS, "both"), (DURATION,)),
    Trap(11, "sound of stage 2", wrong.sound_of_the_second, partial(pipeline, "two_stage_lora_t2v"), (RUNS,)),
    Trap(11, "CRF 33", wrong.older_crf, lambda: math.nan, (RUNS,)),
    Trap(12, "alpha / rank", wrong.put(lora_file._Settings, "scale", wrong.scale), added, (RUNS,)),
]


class Failed:
    """What fails, by test."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest."""
        if report.failed:
            self.names.append(report.nodeid)


def outcome(measure: Callable[[], float]) -> str:
    """The error, or what refuses it."""
    try:
        return f"{measure():.1e}"
    except (UserError, ValueError) as error:
        return f"refused: {str(error)[:60]}"


def main() -> None:
    """Prints the table."""
    print("| trap | mistake | error | tests that see it |\n| --- | --- | --- | --- |", flush=True)
    for name, number in ((name, number) for name, number in IN_NETWORK.items() if number in ONLY):
        error = outcome(partial(text, spoil=OWN.get(name, TEXT_MISTAKES[name])))
        print(f"| {number} | {name} | {error} | {_SEEN}[{name}] |", flush=True)
    for trap in (trap for trap in TRAPS if trap.number in ONLY):
        failed = Failed()
        with pytest.MonkeyPatch.context() as patch:
            trap.make(patch)
            error = outcome(trap.measure)
            with contextlib.redirect_stdout(io.StringIO()):
                pytest.main(["-q", "-p", "no:cacheprovider", *trap.tests], plugins=[failed])
        seen = f"{len(failed.names)}, such as {failed.names[0]}" if failed.names else "NONE"
        print(f"| {trap.number} | {trap.what} | {error} | {seen} |", flush=True)


if __name__ == "__main__":
    main()
