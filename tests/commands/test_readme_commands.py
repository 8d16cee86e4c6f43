"""The commands and the Python of README.md and docs/ run as they stand there.

Hugging Face is played (tests/played_hub.py) with small checkpoints under the published names, and the files that the
pages imagine lie in the working folder. The README's commands make their clips, small and in few steps; of the guides',
which are many, `generate` ends with the plan, which comes after everything has been read and checked.
"""

import importlib
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.support import played_hub, small

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
COMMANDS = ("generate", "generate_av", "generate_dev", "upscale", "convert", "models.ltx_2.convert", "encode", "info")
OTHERS = ("hf auth login", "pip install ", "python -m pytest", "python -m bench.", "python -m mlx_video.doctor")
"""What is shown besides and does not run here: installing, logging in, tests, and what has long tests of its own."""
LIST = "docs/working-day.md"
"""The page with a file of prompts."""
SMALLER = ["-H", "64", "-W", "64", "-n", "17"]


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(page: str) -> list[str]:
    """The command lines of a page: what is indented by four, or stands in a fence for the shell."""
    fences = [body for language, body in FENCE.findall(PAGES[page]) if language != "python" and page != LIST]
    lines = re.findall(r"^    (\S.*)", FENCE.sub("", PAGES[page]), re.MULTILINE)
    lines += [line for body in fences for line in body.splitlines() if line.strip()]
    return [part.strip() for line in lines for part in line.split(" && ")]


def ours(command: str) -> bool:
    return re.match(rf"(?:python -m )?mlx_video\.(?:{'|'.join(map(re.escape, COMMANDS))})(?= |$)", command) is not None


LINES = list(dict.fromkeys((page, command) for page in PAGES for command in shown(page) if ours(command)))
BLOCKS = [
    (page, number, block)
    for page, text in PAGES.items()
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("page", PAGES)
def test_every_line_that_is_shown_as_a_command_is_one_that_is_known(page):
    assert [line for line in shown(page) if not ours(line) and not line.startswith(OTHERS)] == []


def test_every_command_is_shown():
    assert {re.search(r"mlx_video\.([\w.]+)", command)[1] for _, command in LINES} == set(COMMANDS)


@pytest.fixture(scope="module")
def repos(small_folder, upscale_folder):
    """What the hub has, under the published names."""
    two, newer = small_folder("2"), small_folder("2.3")
    others = [path.name for path in upscale_folder("2.3").iterdir() if "upscaler" in path.name]
    return {
        "Lightricks/LTX-2": played_hub.repo_of(two),
        # As on the hub: LTX-2.3 comes without a text encoder.
        "Lightricks/LTX-2.3": {
            **{name: file for name, file in played_hub.repo_of(newer).items() if "/" not in name},
            **{name: upscale_folder("2.3") / name for name in others},
        },
        "Lightricks/LTX-2-19b-LoRA-Camera-Control-Dolly-Out": {"camera.safetensors": two / small.LORAS["2"]},
        "Lightricks/LTX-2.5": played_hub.repo_of(small_folder("2.5")),
        "google/gemma-3-12b-it": played_hub.repo_of(newer / "gemma"),
        "mlx-community/gemma-3-12b-it-4bit": played_hub.repo_of(two / "gemma"),
    }


@pytest.fixture(scope="module")
def kept(tmp_path_factory, small_folder, repos, inputs):
    """A working folder with every file that a page names, made once."""
    place = tmp_path_factory.mktemp("pages")
    for name in ("photo.png", "first.png", "final.png"):
        shutil.copy(inputs / "picture.png", place / name)
    shutil.copy(inputs / "sound.wav", place / "song.mp3")
    for name in ("style.safetensors", "motion.safetensors", small.LORAS["2"]):
        shutil.copy(small_folder("2") / small.LORAS["2"], place / name)
    model = ["--model-repo", str(small_folder("2")), "--quiet"]
    run("generate", ["-p", "fox", *SMALLER, *model, "--latents", "-o", str(place / "clip.mp4")])
    (place / "list.txt").write_text(FENCE.findall(PAGES[LIST])[0][1])
    for name in ("fox.safetensors", "prompt_embedding.npz"):
        run("encode", ["-p", "fox", *model, "-o", str(place / name)])
    with pytest.MonkeyPatch.context() as patch, played_hub.play(patch, place.parent / "pages-hub", repos):
        run("convert", ["--source", "Lightricks/LTX-2", "--output", str(place / "ltx-2-distilled"), "--quiet"])
    return place


@pytest.fixture
def world(monkeypatch, tmp_path, kept, repos, texts_are_kept):
    """Within it the working folder has those files, and the hub has the models under their names."""
    for item in kept.iterdir():
        if item.is_dir():
            shutil.copytree(item, tmp_path / item.name, copy_function=os.link)  # what writes there replaces
        else:
            shutil.copy(item, tmp_path)
    monkeypatch.chdir(tmp_path)
    with played_hub.play(monkeypatch, kept.parent / "pages-hub", repos) as hub:
        yield hub


def run(command: str, words: list[str]) -> None:
    assert importlib.import_module(f"mlx_video.{command}").main(words) == 0, words


def made_small(command: str, words: list[str]) -> list[str]:
    """The same words for a small clip in few steps, of a checkpoint with few blocks."""
    if "--decode" in words:
        return words
    guided = command == "generate_dev" or any(word.startswith("dev") for word in words)
    steps = ["--steps", "2"] if guided else []
    blocks = ["--stg-blocks", "1"] if "--stg-blocks" in words else []
    start = ["--audio-start-time", "0.1"] if "--audio-start-time" in words else []
    # Both words of --num-frames come last.
    size = SMALLER[:-2] if "--auto-duration" in words else SMALLER
    return [*words, *size, *steps, *blocks, *start]


@pytest.mark.quick("README.md*", "docs/working-day.md*")
@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line}" for page, line in LINES])
def test_a_command(page, line, world):
    name, *words = shlex.split(line.removeprefix("python -m "))
    command = name.removeprefix("mlx_video.")
    if command.endswith("convert"):
        shutil.rmtree("ltx-2-distilled")
    if command.startswith("generate"):
        words = made_small(command, words) + (
            []
            if page == "README.md" or {"--plan", "--placeholder", "--decode", "--latents"} & set(words)
            else ["--plan"]
        )
    run(command, words)
    if command != "info" and "--plan" not in words:
        assert all(Path(path).exists() for path in outputs(words))


def outputs(words: list[str]) -> list[str]:
    """The files that a command names as its own."""
    flags = ("-o", "--output", "--output-path", "--output-audio", "--mlx-path")
    named = [words[place + 1] for place, word in enumerate(words) if word in flags] or ["output.mp4"]
    return [path.replace(".", "-0001.") for path in named] if "--takes" in words else named


@pytest.mark.quick("README.md 0", "docs/python.md 0", "docs/python.md 3", "docs/python.md 7")
@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=[f"{page} {number}" for page, number, _ in BLOCKS])
def test_a_piece_of_python(page, number, block, world, capsys):
    code = re.sub(r"height=512, width=768, num_frames=97", "height=64, width=64, num_frames=9", block)
    exec(compile(code, f"{page}, block {number}", "exec"), {"__name__": "page"})
    for saved in re.findall(r'\.save\("([^"]+)"', code):
        assert Path(saved).stat().st_size > 500


EXAMPLES = {
    "text_to_video.py": ["a red circle", "out.mp4"],
    "first_and_last_frame.py": ["first.png", "final.png", "out.mp4"],
    "watch_and_cancel.py": ["600", "out.mp4"],
}


def test_examples(world, monkeypatch, capsys):
    from mlx_video import LTXPipeline

    generate = LTXPipeline.generate
    smaller = {"height": 64, "width": 64, "num_frames": 9}
    monkeypatch.setattr(LTXPipeline, "generate", lambda pipe, **asked: generate(pipe, **{**asked, **smaller}))
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)
    for name, words in EXAMPLES.items():
        monkeypatch.setattr("sys.argv", [name, *words])
        exec(compile((ROOT / "examples" / name).read_text(), name, "exec"), {"__name__": "__main__"})
        assert Path("out.mp4").stat().st_size > 500
        Path("out.mp4").unlink()


def test_a_converted_repo_names_the_text_encoder_that_it_left_on_the_hub(monkeypatch, tmp_path, repos):
    """The cache is empty: nothing of the text encoder is here."""
    with played_hub.play(monkeypatch, tmp_path, repos) as hub:
        run("convert", ["--source", "Lightricks/LTX-2", "--output", str(tmp_path / "a"), "--quiet"])
        assert json.loads((tmp_path / "a" / "mlx_video.json").read_text())["text_encoder"] == "Lightricks/LTX-2"
        assert not [name for name in hub.fetched if name.startswith("gemma/")]
        run("convert", ["--source", "Lightricks/LTX-2.3", "--output", str(tmp_path / "b"), "--quiet"])
        assert json.loads((tmp_path / "b" / "mlx_video.json").read_text())["text_encoder"] is None
        words = ["--quantize-text-encoder", "4", "--group-size", "32", "--quiet"]
        run("convert", ["--source", "Lightricks/LTX-2", "--output", str(tmp_path / "c"), *words])
        assert (tmp_path / "c" / "text_encoder" / "config.json").is_file()


def test_links_and_pictures_lead_somewhere():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (ROOT / page).parent.joinpath(target).is_file(), f"{page}: {target}"


def test_pictures_are_small():
    assert all(picture.stat().st_size < 200_000 for picture in (ROOT / "docs").glob("*.png"))
