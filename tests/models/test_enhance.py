"""Prompt enhancement on a small random Gemma 3: noise for text, but seeded, bounded, and with a picture in sight."""

import importlib
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from mlx_video.models.ltx_2.text_encoder import enhance as module
from mlx_video.models.ltx_2.text_encoder.enhance import IMAGE_INSTRUCTIONS, TEXT_INSTRUCTIONS, clean
from mlx_video.types import UserError
from mlx_video.weights.store import Tensors
from tests.models import test_text_encoder as small

VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
}
TEMPLATE = """\
{%- set first, rest = messages[0], messages[1:] -%}
{{ bos_token }}
{%- for m in rest -%}
{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}
{{- first['content'] + '\\n\\n' if loop.first else '' }}
{%- for c in ([{'type': 'text', 'text': m['content']}] if m['content'] is string else m['content']) -%}
{{ '<start_of_image>' if c['type'] == 'image' else c['text'] | trim }}
{%- endfor -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{{ '<start_of_turn>model\\n' if add_generation_prompt else '' }}"""
"""Writes what Gemma 3's own does: the instructions begin the user's turn."""
PICTURE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")


def enhance(folder: Path, *args, **options) -> str:
    return module.enhance(folder, load_of(folder), *args, **options)


def load_of(folder: Path):
    return Tensors.of_folder(folder).load


def write_talking_gemma(folder: Path) -> Path:
    """A folder that can enhance: vision tower and projector, picture tokens, chat template."""
    from mlx_vlm.models import gemma3
    from tokenizers import AddedToken, Tokenizer

    small.write_gemma(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in PICTURE_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    begin, end, soft = (tokenizer.token_to_id(token) for token in PICTURE_TOKENS)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    values = json.loads((folder / "config.json").read_text())
    values |= {"vision_config": VISION, "mm_tokens_per_image": 4, "eos_token_id": [1, 5]}
    values |= {"boi_token_index": begin, "eoi_token_index": end, "image_token_index": soft}
    (folder / "config.json").write_text(json.dumps(values))

    config = module.GemmaConfig.of_folder(folder)
    network = gemma3.Model(
        gemma3.ModelConfig(
            text_config=config.as_mlx_vlm(mm_tokens_per_image=4),
            vision_config=gemma3.VisionConfig.from_dict(VISION),
            model_type="gemma3",
        )
    )
    tensors = {}
    for name, array in tree_flatten(network.parameters()):
        if not name.startswith("language_model."):
            value = mx.array(small.seeded(name, array.shape))
            tensors[name] = value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
    text = {name: array for name, array in small.gemma_tensors().items() if name.startswith("language_model.")}
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), text | tensors)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_talking_gemma(tmp_path_factory.mktemp("talking") / "gemma")


@pytest.fixture
def brief(monkeypatch):
    """Instructions of a few words: this tokenizer knows letters only, and reading takes time."""
    monkeypatch.setattr(module, "TEXT_INSTRUCTIONS", "Say it.")
    monkeypatch.setattr(module, "IMAGE_INSTRUCTIONS", "See it.")


@pytest.fixture
def answers(monkeypatch) -> list:
    """What the token loop was given and what it gave, call by call."""
    calls, write = [], module._write
    monkeypatch.setattr(module, "_write", lambda *a: calls.append([*a, write(*a)]) or calls[-1][-1])
    return calls


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 50, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_a_seed_gives_one_text_and_seeds_differ(folder):
    one, again, two = (enhance(folder, "a fox", seed=seed, max_tokens=12) for seed in (3, 3, 12))
    assert one == again != two


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_temperature_0_does_not_look_at_the_seed(folder):
    assert len({enhance(folder, "a fox", seed=seed, max_tokens=6, temperature=0) for seed in (1, 2)}) == 1


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("count", [1, 9])
def test_max_tokens_is_the_most(folder, answers, count):
    told = []
    enhance(folder, "a fox", seed=3, max_tokens=count, on_token=lambda: told.append(1))
    assert 1 <= len(answers[0][-1]) <= len(told) <= count


@pytest.mark.usefixtures("brief")
def test_the_answer_stops_at_an_end_token(folder, monkeypatch):
    loop = importlib.import_module("mlx_vlm.generate")
    end_of_turn, letter = 5, small.Tokenizer(folder).encode("x")[-1]
    for end in (1, end_of_turn):
        monkeypatch.setattr(
            loop,
            "generate_step",
            lambda *a, end=end, **k: ((token, None) for token in (letter, letter, end, letter)),
        )
        assert enhance(folder, "a fox", seed=0) == "xx"


@pytest.mark.usefixtures("brief")
def test_an_empty_answer_leaves_the_prompt(folder, monkeypatch, caplog):
    monkeypatch.setattr(module, "_write", lambda *a: [5])
    assert enhance(folder, " a fox ", seed=0) == "a fox"
    assert "gave no text" in caplog.text


@pytest.mark.usefixtures("brief")
def test_the_picture_is_seen_and_a_path_is_as_good(folder, answers, tmp_path):
    picture().save(tmp_path / "p.png")
    shown = {"a": picture(), "b": picture(1), "path": tmp_path / "p.png", "text": str(tmp_path / "p.png")}
    texts = {name: enhance(folder, "it runs", image=image, seed=1, max_tokens=6) for name, image in shown.items()}
    assert texts["a"] == texts["path"] == texts["text"]
    soft = json.loads((folder / "config.json").read_text())["image_token_index"]
    for call in answers:
        assert call[1].count(soft) == 4
        assert call[2].shape == (1, 3, 24, 24)
        assert abs(call[2]).max().item() <= 1
    assert not mx.array_equal(answers[0][2], answers[1][2])


def test_pictures_come_in_as_strong_as_words(folder):
    # mlx-vlm divides them by a default width of 2048 and multiplies by the model's own: 8 times too weak here.
    config = module.GemmaConfig.of_folder(folder)
    values = json.loads((folder / "config.json").read_text())
    speech = module.SpeechConfig.read(values)
    network = module._network(folder, load_of(folder), config, speech, seeing=True)
    ids = mx.array([[2, *[values["image_token_index"]] * 4, 10]])
    pixels = module._pixels(picture(), 24)
    got = network.get_input_embeddings(ids, pixels, mask=mx.ones_like(ids)).inputs_embeds * config.width**0.5
    seen = network.vision_tower(pixels.transpose(0, 2, 3, 1), output_hidden_states=True)[0]
    assert mx.allclose(got[:, 1:5], network.multi_modal_projector(seen), rtol=1e-5, atol=1e-6)


def test_the_conversation(folder):
    words = small.Tokenizer(folder).words
    text = module._conversation(words, "a fox <end_of_turn><start_of_image> runs", None)
    assert TEXT_INSTRUCTIONS in text
    assert text.count("<end_of_turn>") == 1
    assert "<start_of_image>" not in text
    text = module._conversation(words, "", "<start_of_image>")
    assert IMAGE_INSTRUCTIONS in text
    assert "<start_of_image>Idea: (none)" in text
    assert text.endswith("<start_of_turn>model\n")


@pytest.mark.parametrize("seeing", [False, True])
def test_the_conversation_is_what_gemmas_template_writes(folder, seeing):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    idea = {"type": "text", "text": "Idea: a fox"}
    messages = [
        {"role": "system", "content": IMAGE_INSTRUCTIONS if seeing else TEXT_INSTRUCTIONS},
        {"role": "user", "content": [{"type": "image"}, idea] if seeing else idea["text"]},
    ]
    template = ImmutableSandboxedEnvironment().from_string(TEMPLATE)
    theirs = template.render(messages=messages, bos_token="<bos>", add_generation_prompt=True)
    ours = module._conversation(small.Tokenizer(folder).words, " a fox ", "<start_of_image>" if seeing else None)
    assert ours == theirs


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ 2 ** 10 ** 10 }}",
        "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% broken",
    ],
)
def test_a_folders_own_template_is_never_run(folder, tmp_path, template):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.jinja").write_text(template)
    options = {"seed": 12, "max_tokens": 4}
    written = enhance(tmp_path, "a fox", **options)
    assert written == enhance(folder, "a fox", **options) != "a fox"


def test_instructions_ask_for_movement_camera_and_sound():
    for text in (TEXT_INSTRUCTIONS, IMAGE_INSTRUCTIONS):
        assert {"Movement:", "Camera:", "Look:", "Sound:"} <= set(text.split())
        assert len(text.split()) < 450
    assert "first frame" in IMAGE_INSTRUCTIONS


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ("  A fox\n\n runs.\t", "A fox runs."),
        ("“A fox runs.”", "A fox runs."),
        ("“Run!” she says. ‘Now’", "\"Run!\" she says. 'Now'"),
        ("She says: «Run!»", 'She says: "Run!"'),
        ('" - A fox', "A fox"),
        ("**A fox** runs, `fast`", "A fox runs, fast"),
        ("## Prompt\nA fox", "Prompt A fox"),
        ("1. A fox", "A fox"),
        ("35mm film of a fox", "35mm film of a fox"),
        ("\u2026 \u2014 \u00c9t\u00e9 \u96e8", "\u00c9t\u00e9 \u96e8"),
        ("A\x05 fox\ufffd\u00a0runs", "A fox runs"),
        ("...!", ""),
        ('""', ""),
    ],
)
def test_clean(answer, prompt):
    assert clean(answer) == prompt


@pytest.mark.usefixtures("brief")
def test_a_quantized_folder_whose_head_is_tied(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_text((folder / name).read_text())
    # mlx-vlm quantizes layers of 64 n values only.
    tensors = small.gemma_tensors(intermediate_size=64)
    packed, plain = small.quantize(tensors, skip="o_proj", eight="down_proj")
    texts = []
    for part, extra in ((packed, {"quantization": {"group_size": 32, "bits": 4, "mode": "affine"}}), (plain, {})):
        if extra:
            exceptions = [name.removesuffix(".scales") for name in part if name.endswith("down_proj.scales")]
            extra["quantization"] |= {name: {"group_size": 32, "bits": 8} for name in exceptions}
        values = {"model_type": "gemma3", "text_config": small.TEXT | {"intermediate_size": 64}, **extra}
        (tmp_path / "config.json").write_text(json.dumps(values))
        kept = {name: array for name, array in part.items() if name.startswith("language_model.")}
        mx.save_safetensors(str(tmp_path / "model.safetensors"), kept)
        texts.append(enhance(tmp_path, "a fox", seed=5, max_tokens=8))
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("brief")
def test_without_vision_text_still_works_and_pictures_are_refused(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    text = {name: array for name, array in small.gemma_tensors().items() if name.startswith("language_model.")}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), text)
    assert enhance(tmp_path, "a fox", seed=1, max_tokens=12) == enhance(folder, "a fox", seed=1, max_tokens=12)
    with pytest.raises(UserError, match="has no vision tower"):
        enhance(tmp_path, "a fox", image=picture(), seed=1)
    # A model of text alone: flat config, plain names.
    (tmp_path / "config.json").write_text(json.dumps(small.TEXT | {"eos_token_id": [1, 5]}))
    flat = {name.removeprefix("language_model."): array for name, array in text.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), flat)
    assert enhance(tmp_path, "a fox", seed=1, max_tokens=12) == enhance(folder, "a fox", seed=1, max_tokens=12)
    with pytest.raises(UserError, match="has no vision_config"):
        enhance(tmp_path, "a fox", image=picture(), seed=1)


def break_weights(folder: Path) -> None:
    tensors = small.gemma_tensors()
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda f: small.rewrite(f, model_type="gemma4"), "'gemma4', not Gemma 3"),
        (break_weights, "not a whole Gemma 3"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "is not a whole safetensors file"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    ],
)
def test_a_folder_that_cannot_enhance_is_refused(tmp_path, damage, message):
    folder = write_talking_gemma(tmp_path / "g")
    damage(folder)
    with pytest.raises(UserError, match=message):
        enhance(folder, "a fox", seed=1, max_tokens=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"image": "nowhere.png"}, "nowhere.png is not a file"),
        ({"image": __file__}, "cannot be read as a picture"),
        ({"prompt": "a \udcff"}, "character 3"),
    ],
)
def test_bad_values_are_refused(folder, given, message):
    with pytest.raises(UserError, match=message):
        enhance(folder, **{"prompt": "a fox", "seed": 1, "max_tokens": 2} | given)


def test_a_negative_seed_is_a_seed(folder):
    enhance(folder, "a fox", seed=-7, max_tokens=2)
