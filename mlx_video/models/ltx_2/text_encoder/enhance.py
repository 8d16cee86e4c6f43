"""Prompt enhancement: Gemma 3 rewrites a short idea as a full prompt, seeing the first picture where there is one.

The model, its vision tower and the token loop are mlx-vlm's. Loads the model itself and lets it go at the end, so call
it before the text encoder is opened. The wording of the instructions is this project's own.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video import platform
from mlx_video.models.ltx_2.text_encoder.gemma_config import GemmaConfig, SpeechConfig
from mlx_video.models.ltx_2.text_encoder.tokens import Tokenizer, check_text, tokenizer_file
from mlx_video.models.section import check_depth
from mlx_video.reading import read_json
from mlx_video.types import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

_RULES = """\
Write one paragraph of four to eight sentences, at most 200 words, in English and in the present tense. Say only what \
a camera could record: no thoughts, no backstory, no comparisons.
Movement: tell what happens in the order in which it happens, with concrete verbs. Say how fast each thing moves, in \
which direction, and where it ends. Fit the action into one unbroken shot of a few seconds, unless the idea asks for \
cuts.
Camera: name the size of the shot and the angle, then what the camera does and what it shows at the end. A camera \
that stands still is said to stand still.
Look: give the place, the time of day, the light and where it comes from, the colours, materials and weather that \
matter, and the style where the idea names one.
Sound: tell what is heard, near and far, and tie each noise to the thing that makes it. Name music only where it \
fits. Put spoken words between double quotes with the speaker and the tone of voice before them, and leave them in \
the language of the idea; where the idea has no speech, nobody speaks.
Keep every fact of the idea: number, age, clothing, names, words, order. Add what is needed to film it, nothing that \
changes it, and no writing on the screen that it does not ask for.
Answer with the paragraph alone: no title, no list, no remark, no quotes around it."""

TEXT_INSTRUCTIONS = f"""\
You are the writer for a model that makes short videos with sound from a written prompt. You are given an idea. \
Rewrite it as the prompt from which the video will be made.
{_RULES}"""

IMAGE_INSTRUCTIONS = f"""\
You are the writer for a model that makes short videos with sound from a picture and a written prompt. You are given \
the picture, which is the video's first frame, and an idea of what happens. Write the prompt from which the video \
will be made.
Begin with what the picture shows, in one sentence: who or what, where, in what light, in what style. What is seen \
stays as it is: faces, clothes, place and colours. Then let the movement start from the pose and the framing of the \
picture. Where the idea and the picture disagree, the idea tells what changes, and the change is seen happening. \
Where the idea is empty, choose a small movement that the picture suggests.
{_RULES}"""

_STRAIGHT = str.maketrans(
    {"“": '"', "”": '"', "„": '"', "‟": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'", "‛": "'", "\u00a0": " "}
)
_MARKUP = re.compile(r"\*{1,3}|_{2,3}|`|^#+\s*", re.MULTILINE)
MAX_TOKENS = 512
"""Of an enhanced prompt, unless the user says otherwise."""
TOP_K, TOP_P = 64, 0.95
"""Which tokens are drawn from: Google's own settings for Gemma 3 (its generation_config.json)."""
SEEDS = 1 << 64
"""As many as MLX's generator tells apart; a clip's seed may be negative."""
LONGEST_PREFILL = 2048
"""Tokens of the conversation that are read at once at most, as mlx-vlm does."""
_NAMES = (
    (r"^(model\.)?language_model\.(model\.)?(?!lm_head)", "language_model.model."),
    (r"^model\.(embed_tokens|layers|norm)\b", r"language_model.model.\1"),
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^(model\.)?lm_head\.", "language_model.lm_head."),
)
"""Spellings of tensor names in the wild, and mlx-vlm's."""
_WITH_VISION = "Take a Gemma 3 with vision, such as google/gemma-3-12b-it, or leave enhancement out."


Load = Callable[[], dict[str, mx.array]]
"""Gives a folder's tensors by name, lazily and anew: nobody else may hold them while the model is loaded."""


def enhance(
    folder: Path,
    load: Load,
    prompt: str,
    *,
    image: Image | str | Path | None = None,
    seed: int,
    max_tokens: int = MAX_TOKENS,
    temperature: float = 0.7,
    on_token: Callable[[], None] = lambda: None,
) -> str:
    """The prompt that Gemma 3 in `folder`, with the tensors of `load`, makes of `prompt` and of `image`, if any.

    on_token is called after each token. The same seed gives the same text on one machine; temperature 0 takes the
    likeliest token each time. Returns `prompt` where the model answers nothing. Raises UserError for a folder that is
    no Gemma 3 or cannot do this (no chat template; an image, but no vision tower), for an unreadable image and for
    impossible values.
    """
    if max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}; a prompt needs at least 1 token, 512 is the default.")
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature is {temperature}; it must be 0 (no chance) or more, 0.7 is the default.")
    check_text(prompt)
    folder, seeing = Path(folder), image is not None
    config, speech = GemmaConfig.of_folder(folder), SpeechConfig.read(read_json(folder / "config.json"), str(folder))
    if seeing and speech.vision is None:
        raise UserError(f"{folder} cannot see a picture: its config.json has no vision_config. {_WITH_VISION}")
    _check_instructed(folder)
    words = Tokenizer(folder).words
    text, pixels = _conversation(words, prompt, _picture(words, speech) if seeing else None), None
    if image is not None and speech.vision is not None:
        pixels = _pixels(image, speech.vision["image_size"])
    ids = words.encode(text, add_special_tokens=False).ids
    network = _network(folder, load, config, speech, seeing=seeing)
    try:
        at_once = int(platform.flops_per_evaluation() / (config.layers * config.layer_flops(1)))
        drawing = {"seed": seed % SEEDS, "max_tokens": max_tokens, "temperature": temperature}
        drawing |= {"top_k": TOP_K, "top_p": TOP_P}
        drawing["prefill_step_size"] = min(max(at_once, 8), LONGEST_PREFILL)
        answer = _write(network, ids, pixels, _ends(words, speech), drawing, on_token)
    finally:
        network.clear()
        mx.clear_cache()
    found = clean(words.decode(answer, skip_special_tokens=True))
    if not found:
        log.warning("Prompt enhancement gave no text; the prompt is used as it is.")
    return found or prompt.strip()


def clean(text: str) -> str:
    """A model's answer as a prompt: straight quotes, no markup, single blanks, beginning with a letter or a digit.

    Quotes around the whole are dropped; a quote that opens speech at the very beginning stays.
    """
    text = "".join(c for c in text.translate(_STRAIGHT) if c.isspace() or (c.isprintable() and c != "\ufffd"))
    text = " ".join(_MARKUP.sub("", text).split())
    while text and not text[0].isalnum():
        quotes = text.count('"') if text[0] == '"' else 1
        around = quotes == 2 and text.endswith('"')
        if quotes % 2 == 0 and not around:
            break
        text = text[1:-1] if around else text[1:]
    # The number of a list is not part of the prompt; "35mm film" is.
    return re.sub(r"^\d+[.)]\s+", "", text).strip()


def _check_instructed(folder: Path) -> None:
    """Raises UserError where a folder has no chat template, by which instruction-tuned models are known.

    The template itself is not run: it is a program, and what Gemma 3's writes is `_conversation`.
    """
    settings = tokenizer_file(folder).with_name("tokenizer_config.json")
    beside = any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json"))
    if not beside and not (settings.is_file() and read_json(settings).get("chat_template")):
        raise UserError(
            f"{folder} cannot enhance prompts: it has no chat template, so it is not an instruction-tuned model "
            f"(one whose name ends in -it); take such a folder or leave enhancement out."
        )


def _conversation(words: Any, prompt: str, picture: str | None) -> str:
    """Instructions and idea as Gemma 3 was trained to read them, up to where the model answers.

    picture: what stands for it in the text. Source: the chat template of google/gemma-3-12b-it.
    """
    for token in words.get_added_tokens_decoder().values():
        # What a user types never ends a turn or stands for a picture.
        prompt = prompt.replace(token.content, " ") if token.special else prompt
    instructions = TEXT_INSTRUCTIONS if picture is None else IMAGE_INSTRUCTIONS
    turn = f"{instructions}\n\n{picture or ''}Idea: {prompt.strip() or '(none)'}"
    return f"<bos><start_of_turn>user\n{turn}<end_of_turn>\n<start_of_turn>model\n"


def _network(folder: Path, load: Load, config: GemmaConfig, speech: SpeechConfig, *, seeing: bool) -> nn.Module:
    """mlx-vlm's whole model, lazily, in this machine's precision. Source of its parts: mlx_vlm.utils.load_model."""
    from mlx_vlm.models import gemma3
    from mlx_vlm.utils import load_model_weights

    weights = _weights(load)
    if seeing and not any(name.startswith("vision_tower.") for name in weights):
        raise UserError(f"{folder} cannot see a picture: it has no vision tower. {_WITH_VISION}")
    vision = speech.vision or SpeechConfig.read({"vision_config": {"model_type": "siglip_vision_model"}}).vision
    _check_vision(vision, weights, folder)
    # mlx-vlm looks for the language model's width where Gemma 3's config does not have it; with its default instead,
    # pictures would come in 1.4 times too strong at 12B.
    network = gemma3.Model(
        gemma3.ModelConfig(
            text_config=config.as_mlx_vlm(mm_tokens_per_image=speech.pieces),
            vision_config=gemma3.VisionConfig(**vision),
            model_type="gemma3",
            image_token_index=speech.picture[2],
            hidden_size=config.width,
            pad_token_id=speech.padding,
        )
    )
    try:
        weights = network.language_model.sanitize(network.vision_tower.sanitize(weights))
        settings = {"quantization": config.quantization}
        load_model_weights(network, settings, weights, folder, lazy=True, declared_keys=set(weights))
    except (ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder} cannot enhance prompts: its weights are not a whole Gemma 3 ({first}).") from error
    network.set_dtype(platform.compute_dtype(wide_range=True))
    return network


def _check_vision(vision: Mapping[str, Any], weights: Mapping[str, mx.array], folder: Path) -> None:
    start = "vision_tower.vision_model.encoder."
    layers = [name[len(start) :] for name in weights if name.startswith(start)]
    if layers:
        check_depth({"layers": ("vision_config.num_hidden_layers", vision["num_hidden_layers"])}, layers, str(folder))


def _weights(load: Load) -> dict[str, mx.array]:
    """All tensors of the folder, lazily, under mlx-vlm's names."""
    found = load()
    for spelling, ours in _NAMES:
        found = {re.sub(spelling, ours, name): array for name, array in found.items()}
    if not any(name.startswith("language_model.lm_head.") for name in found):
        # Tied: the head is the embeddings, quantized or not.
        embeddings = "language_model.model.embed_tokens."
        tied = {name: array for name, array in found.items() if name.startswith(embeddings)}
        found |= {name.replace(embeddings, "language_model.lm_head."): array for name, array in tied.items()}
    return found


def _picture(words: Any, speech: SpeechConfig) -> str:
    """What the model is shown for a picture. Source: Gemma3Processor."""
    begin, end, soft = map(words.id_to_token, speech.picture)
    if None in (begin, end, soft):
        raise UserError(
            f"The text encoder's config.json names tokens for pictures that its tokenizer.json lacks: {speech.picture}."
        )
    return f"\n\n{begin}{soft * speech.pieces}{end}\n\n"


def _pixels(image: Image | str | Path, size: int) -> mx.array:
    """(1, 3, size, size) in -1 to 1: squeezed to a square as Gemma 3 saw pictures. Source: Gemma3ImageProcessor."""
    from mlx_vlm.utils import load_image

    if isinstance(image, (str, Path)) and not Path(image).is_file():
        raise UserError(f"{image} is not a file; a picture is needed.")
    try:
        picture = load_image(Path(image) if isinstance(image, str) else image)
    except (ValueError, OSError) as error:
        raise UserError(f"{image} cannot be read as a picture: {error}.") from error
    bilinear = 2  # PIL.Image.Resampling.BILINEAR
    values = np.asarray(picture.resize((size, size), bilinear), np.float32) / 127.5 - 1
    return mx.array(values.transpose(2, 0, 1)[None])


def _ends(words: Any, speech: SpeechConfig) -> set[int]:
    """Tokens that end an answer."""
    named = (words.token_to_id(token) for token in ("<eos>", "<end_of_turn>"))
    return {*speech.ends, *(token for token in named if token is not None)}


def _write(
    network: nn.Module,
    ids: list[int],
    pixels: mx.array | None,
    ends: set[int],
    drawing: dict[str, Any],
    on_token: Callable[[], None],
) -> list[int]:
    """The tokens of the answer, up to one of `ends`; drawing: how mlx-vlm's generate_step draws them."""
    from mlx_vlm.generate import generate_step

    tokens = mx.array([ids])
    steps = generate_step(tokens, network, pixels, mx.ones_like(tokens), **drawing)
    answer = []
    for token, _ in steps:
        on_token()
        if token in ends:
            break
        answer.append(int(token))
    steps.close()
    return answer
