"""Every command line and every option of the four documents that this package was asked to honour, as they stand there.

A folder plays the machine that they were written for: repos, models, pictures and sounds lie in it under the names that
the documents use, as small ones. Where ours differs on purpose, DIFFERENCES says so and why.
"""

import importlib
import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mlx_video import Request
from mlx_video.models.ltx_2.recipes import RECIPES
from tests.support import films, small
from tests.support.readback import read

COMMANDS = {
    "first": """
        uv run mlx_video.generate_av --prompt "A jazz band playing in a smoky club"
        uv run mlx_video.generate_av --prompt "Ocean waves crashing on a beach at sunset" --height 768 --width 768
            --num-frames 65 --seed 123 --output-path my_video.mp4
        uv run mlx_video.generate_av --prompt "A person dancing to upbeat music" --image photo.jpg --image-strength 0.8
        uv run mlx_video.generate
            --prompt "Two dogs of the poodle breed wearing sunglasses, close up, cinematic, sunset" -n 100 --width 768
        uv run mlx_video.convert --hf-path Lightricks/LTX-2 --mlx-path ~/models/ltx2-mlx-av
        uv run mlx_video.generate_av --prompt "A jazz band playing in a smoky club" --model-repo username/ltx2-mlx-av
        uv run mlx_video.generate_av --prompt "A jazz band playing in a smoky club" --model-repo ~/models/ltx2-mlx-av
        uv run mlx_video.convert
    """,
    "second": """
        python -m mlx_video.generate --prompt "test video" --num-frames 33
        python -m mlx_video.generate_dev --prompt "test video" --steps 40 --cfg-scale 4.0
        python -m mlx_video.generate_av --prompt "test video" --output-path out.mp4 --output-audio out.wav
    """,
    "third": """
        uv run mlx_video.generate --prompt "Two dogs wearing sunglasses, cinematic, sunset" -n 97 --width 768
        uv run mlx_video.generate --pipeline dev --prompt "A cinematic scene" --cfg-scale 3.0
        uv run mlx_video.generate --pipeline dev-two-stage
            --prompt "Two dogs of the poodle breed wearing sunglasses, close up, cinematic, sunset"
            -n 145 --width 1024 --height 768 --model-repo prince-canuma/LTX-2-dev --cfg-scale 3.0 --lora-strength 0.8
            --enhance-prompt
        uv run mlx_video.generate --pipeline dev-two-stage-hq --prompt "A cinematic scene of ocean waves at golden hour"
            --model-repo prince-canuma/LTX-2-dev
        uv run mlx_video.generate --pipeline dev-two-stage-hq --prompt "A sunset over mountains"
            --model-repo prince-canuma/LTX-2-dev --lora-strength-stage-1 0.3 --lora-strength-stage-2 0.6
        uv run mlx_video.generate --prompt "A person dancing" --image photo.jpg
        uv run mlx_video.generate --pipeline dev --prompt "Waves crashing" --image beach.png --cfg-scale 3.5
        uv run mlx_video.generate --audio-file music.wav --prompt "A band playing music"
        uv run mlx_video.generate --pipeline dev --audio-file ocean.wav --prompt "Ocean waves"
        uv run mlx_video.generate --pipeline dev-two-stage --audio-file music.wav --prompt "A band playing music"
            --model-repo prince-canuma/LTX-2-dev
        uv run mlx_video.generate --pipeline dev-two-stage-hq --audio-file music.wav --prompt "A band playing music"
            --model-repo prince-canuma/LTX-2-dev
        uv run mlx_video.generate --audio-file rain.wav --image forest.jpg --prompt "Rain in forest"
        uv run mlx_video.generate --audio-file song.mp3 --audio-start-time 30.0 --prompt "Concert"
        uv run mlx_video.generate --prompt "Ocean waves crashing" --audio
        uv run mlx_video.generate --pipeline dev --prompt "A jazz band playing" --audio --enhance-prompt
        uv run mlx_video.generate --pipeline dev --prompt "Ocean waves crashing" --audio --stg-scale 1.0 --stg-blocks 29
            --modality-scale 3.0
        uv run mlx_video.generate --pipeline dev-two-stage --prompt "Camera dolly out of a forest"
            --lora-path Lightricks/LTX-2-19b-LoRA-Camera-Control-Dolly-Out --lora-strength 1.0
        uv run mlx_video.generate --pipeline dev-two-stage --prompt "A scene" --lora-path ./my-lora/weights.safetensors
        uv run mlx_video.generate --pipeline dev-two-stage --prompt "A scene" --lora-path ./LTX-2-distilled/lora
        uv run mlx_video.upscale --input photo.png --output upscaled.png
        uv run mlx_video.upscale --input video.mp4 --output upscaled.mp4
        uv run mlx_video.upscale --input video.mp4 --output upscaled.mp4 --refine --prompt "A cinematic scene"
        uv run python -m mlx_video.models.ltx_2.convert --source Lightricks/LTX-2 --output ./LTX-2-distilled
            --variant distilled
        uv run python -m mlx_video.models.ltx_2.convert --source Lightricks/LTX-2 --output ./LTX-2-dev --variant dev
    """,
    "fourth": """
        python scripts/generate.py "A cat walking through a garden" --height 128 --width 128 --frames 17 --steps 3
            --output output.mp4
        python scripts/encode_text_mlx.py "A cat walking through a garden" --gemma-path weights/gemma-3-12b
            --ltx-weights weights/ltx-2/ltx-2-19b-distilled.safetensors --output prompt_embedding.npz
        python scripts/generate.py --embedding prompt_embedding.npz --height 480 --width 704 --frames 25 --steps 5
        python scripts/generate.py "A cat walking" --height 128 --width 128
        python scripts/encode_with_pytorch.py "Your prompt here" --gemma-path weights/gemma-3-12b
            --output prompt_embedding.npz
    """,
}
SCRIPTS = {
    "scripts/generate.py": "mlx_video.generate",
    "scripts/encode_text_mlx.py": "mlx_video.encode",
    "scripts/encode_with_pytorch.py": "mlx_video.encode",
}
"""What stands in place of the fourth document's files."""
DIFFERENCES = {
    "first: generate_av --num-frames": "33, as in the third document",
    "first: generate --num-frames": "33, as in the third document; sound is made unless --no-audio is given",
    "first: convert --dtype": "the source's own, which is bfloat16 in Lightricks' files",
    "third: --audio": "sound is made unless --no-audio is given, as the first document's generate_av does",
    "third: --steps": "40 for LTX-2 and 30 for LTX-2.3, as in the reference",
    "third: --stg-scale": "1, which that document calls the reference's own",
    "third: --modality-scale": "3, which that document calls the reference's own",
    "third: --lora-path": "it is found beside the checkpoint; --lora-path adds another or takes its place",
    "third: --lora-strength": "of the distilled LoRA the recipe's, which is 1 in dev-two-stage",
    "third: --stg-blocks": "the generation's own block",
    "third: --negative-prompt": "words of our own",
    "fourth: --height": "512, as in the other documents",
    "fourth: --width": "512, as in the other documents",
    "fourth: --frames": "33, as in the third document",
    "fourth: --steps": "8 in the distilled pipeline, the whole of its schedule",
    "fourth: --cfg": "not taken by the distilled pipeline, which has no guidance; 3 in the others",
    "fourth: --weights": "Lightricks/LTX-2, as in the other documents",
    "fourth: --skip-vae": "latents can be had as Clip.latents; not yet as a file",
    "fourth: --token": "fetching is by name, with the token that `hf auth login` or HF_TOKEN gives",
}
"""What is another here, on purpose, and why: defaults, and flags that there are not."""
NOT_HERE = ("--skip-vae", "--token")
OPTIONS = {
    ("first", "generate_av"): """
        --prompt,-p= --height,-H=512 --width,-W=512 --num-frames,-n=65 --seed,-s=42 --fps=24 --output-path=output_av.mp4
        --output-audio= --image,-i= --image-strength=1.0 --image-frame-idx=0 --enhance-prompt=false --tiling=auto
        --model-repo=Lightricks/LTX-2
    """,
    ("first", "generate"): """
        --prompt,-p= --height,-H=512 --width,-W=512 --num-frames,-n=100 --seed,-s=42 --fps=24 --output,-o=output.mp4
        --save-frames=false --model-repo=Lightricks/LTX-2
    """,
    ("first", "convert"): "--hf-path=Lightricks/LTX-2 --mlx-path=mlx_model --dtype=bfloat16 --no-audio=false",
    ("third", "generate"): """
        --prompt,-p= --pipeline=distilled --height,-H=512 --width,-W=512 --num-frames,-n=33 --seed,-s=42 --fps=24
        --output-path,-o=output.mp4 --model-repo=Lightricks/LTX-2 --text-encoder-repo= --save-frames=false
        --enhance-prompt=false --image,-i= --image-strength=1.0 --audio,-a=false --audio-file= --audio-start-time=0.0
        --tiling=auto --stream=false --steps=30 --cfg-scale=3.0 --cfg-rescale=0.7 --negative-prompt=(default)
        --apg=false --stg-scale=0.0 --stg-blocks= --modality-scale=1.0 --lora-path=auto-detect --lora-strength=1.0
        --lora-strength-stage-1=0.25 --lora-strength-stage-2=0.5
    """,
    ("fourth", "generate"): """
        --height=480 --width=704 --frames=97 --steps=7 --cfg=3.0 --seed=42
        --weights=weights/ltx-2/ltx-2-19b-distilled.safetensors --skip-vae=false --placeholder=false
    """,
}
SAMPLES = {
    "--tiling": ("auto", "none", "default", "aggressive", "conservative"),
    "--pipeline": tuple(RECIPES),
    "--dtype": ("float16", "float32", "bfloat16"),
}
SIZES = [(512, 512), (768, 512), (512, 768), (832, 480), (1024, 576)]
"""Width and height that the fifth document recommends."""
FRAMES = [9, 17, 25, 33, 41, 49, 57, 65, 73, 81, 89, 97]


def lines(document: str) -> list[str]:
    """The document's command lines, each in one piece."""
    joined = re.sub(r"\n {12,}", " ", COMMANDS[document])
    return [line.strip() for line in joined.strip().splitlines()]


ALL = [(document, line) for document in COMMANDS for line in lines(document)]
GENERATE = [(document, line) for document, line in ALL if re.search(r"generate(_av|_dev|\.py)?\b", line)]
OTHERS = [pair for pair in ALL if pair not in GENERATE]


def parsed(line: str) -> tuple[str, list[str]]:
    """The module that a command line runs, and its arguments; `~` is spelt out as a shell does."""
    words = [word for word in shlex.split(line) if word not in ("uv", "run", "python", "-m")]
    words = [str(Path(word).expanduser()) if word.startswith("~") else word for word in words]
    return SCRIPTS.get(words[0], words[0]), words[1:]


@pytest.fixture(scope="module")
def machine(small_folder, inputs, tmp_path_factory):
    """A folder in which everything lies that the documents name."""
    from PIL import Image

    from mlx_video.convert import main as convert

    home, source = tmp_path_factory.mktemp("machine"), small_folder("2")
    distilled, lora = small.NAMES["2"].format("distilled"), small.LORAS["2"]

    def link(place: str, to: Path) -> None:
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).symlink_to(to)

    link("Lightricks/LTX-2", source)
    for file in source.iterdir():
        if file.name != distilled:
            link(f"prince-canuma/LTX-2-dev/{file.name}", file)
    for place in ("models/ltx2-mlx-av", "username/ltx2-mlx-av"):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        assert convert(["--hf-path", str(source), "--mlx-path", str(home / place), "--quiet"]) == 0
        # Of a repo on the hub the folder notes the id, under which its text encoder is found again.
        link(f"{place}/gemma", source / "gemma")
    other = home / "other-lora.safetensors"
    import mlx.core as mx

    mx.save_safetensors(str(other), small.lora_tensors("2", seed=5))
    link("Lightricks/LTX-2-19b-LoRA-Camera-Control-Dolly-Out/dolly.safetensors", other)
    link("my-lora/weights.safetensors", other)
    link("LTX-2-distilled/lora/weights.safetensors", source / lora)
    link(f"weights/ltx-2/{distilled}", source / distilled)
    link("weights/gemma-3-12b", source / "gemma")
    pixels = Image.open(inputs / "picture.png").crop((0, 0, 64, 64))
    for name in ("photo.jpg", "beach.png", "forest.jpg", "photo.png"):
        pixels.save(home / name)
    write_wav(home / "music.wav", 31)
    for name in ("ocean.wav", "rain.wav", "song.mp3"):
        link(name, home / "music.wav")
    films.write(home / "video.mp4", 9, 32, 32)
    return home


@pytest.fixture
def here(machine, monkeypatch, tmp_path):
    """The machine's folder as a fresh working folder and home: what a test writes, no other sees."""
    for item in machine.iterdir():
        (tmp_path / item.name).symlink_to(item)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_wav(path: Path, seconds: int) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        noise = np.random.default_rng(1).normal(0, 3000, 8000 * seconds)
        file.writeframes(noise.astype("<i2").tobytes())


def run(line: str, *more: str) -> int:
    module, words = parsed(line)
    return importlib.import_module(module).main([*words, *more])


def embedded(here: Path, line: str) -> None:
    """Where a line takes an embedding, the line before it in the document has written one."""
    if "--embedding" in line:
        assert run(lines("fourth")[1], "--quiet") == 0


# ------------------------------------------------------------------------------------------------ command lines


@pytest.mark.parametrize(("document", "line"), GENERATE)
def test_a_generation_is_possible_as_it_stands(document, line, here, capsys):
    """All that a run checks before it loads a network, at the size that the document asks for."""
    embedded(here, line)
    line = line.replace("--stg-blocks 29", "--stg-blocks 1")  # of 3 blocks that the small checkpoint has
    assert run(line, "--plan") == 0, capsys.readouterr().err
    found = capsys.readouterr().out
    assert "stage 1" in found
    assert ("--num-frames 100 is made 97" in found) == ("-n 100" in line)
    assert ("704x480 is made as 704x512" in found) == ("480" in line)
    assert ("is the distilled LoRA and takes its place" in found) == ("/lora" in line)


@pytest.mark.parametrize(("document", "line"), GENERATE)
def test_a_generation_leaves_its_files(document, line, here, capsys):
    """The files that the document says, with noise in place of the networks; pictures and sounds are read."""
    embedded(here, line)
    assert run(line, "--placeholder", "--height", "64", "--width", "64") == 0, capsys.readouterr().err
    assert "placeholder" in capsys.readouterr().err
    module, words = parsed(line)
    flags = dict(pairwise(words))
    default = "output_av.mp4" if module.endswith("_av") else "output.mp4"
    video = here / flags.get("--output-path", flags.get("--output", default))
    asked = int(flags.get("-n", flags.get("--num-frames", flags.get("--frames", 33))))
    found = read(video)
    assert (found.size, found.frames) == ((64, 64), {100: 97}.get(asked, asked))
    assert found.sound is not None
    sound = flags.get("--output-audio", video.with_suffix(".wav").name)
    assert (here / sound).exists() == module.endswith("_av")


@pytest.mark.parametrize(("document", "line"), OTHERS)
def test_the_other_commands_run(document, line, here, capsys):
    module, words = parsed(line)
    output = {"--output", "--mlx-path"} & set(words)
    place = Path(words[words.index(output.pop()) + 1]) if output else here / "mlx_model"
    if place.is_symlink():
        place.unlink()
    for parent in (here / "models",):  # what is written must not be there before
        if place.is_relative_to(parent):
            parent.unlink()
            parent.mkdir()
    more = ["--model-repo", "Lightricks/LTX-2"] if module == "mlx_video.upscale" else []
    assert run(line, *more, "--quiet") == 0, capsys.readouterr().err
    assert place.exists()


# ------------------------------------------------------------------------------------------------ options


def rows() -> list[tuple[str, str, list[str], str]]:
    """(document, command, the option's names, its default as the document has it) for each row of each table."""
    found = []
    for (document, command), table in OPTIONS.items():
        for row in table.split():
            names, _, default = row.partition("=")
            found.append((document, command, names.split(","), default))
    return found


@pytest.mark.parametrize(("document", "command", "names", "default"), rows())
def test_an_option_is_taken_with_its_default(document, command, names, default):
    module = importlib.import_module(f"mlx_video.{command}")
    key = f"{document}: {command} {names[0]}" if document == "first" else f"{document}: {names[0]}"
    if names[0] in NOT_HERE:
        assert key in DIFFERENCES
        return
    parser = parser_of(command)
    action = next(a for a in parser._actions if names[0] in a.option_strings)
    assert set(names) <= set(action.option_strings)
    if action.nargs != 0:
        for value in SAMPLES.get(names[0], (default if re.match(r"[\d.]+$", default) else "1",)):
            required = ["--prompt", "a"] if command != "convert" and names[0] != "--prompt" else []
            parser.parse_args([*required, names[0], value])
    if default in ("", "(default)"):
        return
    ours = default_of(action, names[0])
    same = not ours if default == "false" else str(ours) == default or same_number(ours, default)
    assert same or key in DIFFERENCES, f"{key}: {ours} here, {default} there"
    assert module.main is not None


def parser_of(command: str):
    from unittest.mock import patch

    from mlx_video import cli

    kept = []
    with patch.object(cli, "run", lambda build, *_: kept.append(build()) or 0):
        importlib.import_module(f"mlx_video.{command}").main([])
    return kept[0]


def default_of(action, name: str):
    """A flag's default, or that of the request or the recipe where the flag leaves it open."""
    found = action.default
    if name == "--no-audio":
        return not found
    if found is None and action.dest in Request.__dataclass_fields__:
        found = Request.__dataclass_fields__[action.dest].default
    # A table gives the values of the pipeline that it is for; those of the stages are in that of dev-two-stage-hq.
    for recipe in [RECIPES["dev-two-stage-hq"]] if "stage" in name else RECIPES.values():
        if found is None:
            found = recipe.defaults.get(action.dest)
    implied = {"audio_start_time": 0.0, "image_strength": 1.0, "image_frame_idx": 0}
    return implied.get(action.dest) if found is None else found


def same_number(ours, default: str) -> bool:
    try:
        return float(ours) == float(default)
    except (ValueError, TypeError):
        return False


def test_every_difference_is_of_an_option_that_there_is():
    known = {f"{d}: {c} {names[0]}" if d == "first" else f"{d}: {names[0]}" for d, c, names, _ in rows()}
    assert set(DIFFERENCES) - known == {"fourth: --token"}


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("pipeline", RECIPES)
def test_recommended_sizes_and_frames_are_taken(width, height, pipeline):
    for frames in FRAMES:
        request = Request("a", pipeline=pipeline, width=width, height=height, num_frames=frames, strict_frames=True)
        request.check(RECIPES)


def test_sound_that_is_given_and_sound_that_is_made_exclude_each_other(here, capsys):
    for module in ("mlx_video.generate", "mlx_video.generate_av"):
        main = importlib.import_module(module).main
        assert main(["-p", "a", "--audio-file", "music.wav", "--audio"]) == 2
        assert capsys.readouterr().err.startswith(f"{module}: --audio-file and --audio exclude each other")
    small_clip = ["--placeholder", "-H", "64", "-W", "64", "-n", "9"]
    assert main(["-p", "a", "--audio-file", "music.wav", *small_clip, "--quiet"]) == 0
    assert (here / "output_av.mp4").exists()
    assert not (here / "output_av.wav").exists()  # the sound is there already
