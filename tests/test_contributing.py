"""CONTRIBUTING's map leads to files that are there, and to names that are in them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| (.+) \|$", CONTRIBUTING.split("## Where things go")[1], re.MULTILINE)[1:]
A_PATH = re.compile(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|md|toml|lock|yaml|yml|png)|(?:[\w.-]+/)+|(?:[\w.-]+/)+[\w-]+")


def quoted(text: str) -> list[str]:
    """What stands between backticks, code blocks aside."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def found(path: str) -> Path | None:
    """The file or folder of that name, in the checkout or in the package."""
    places = (ROOT / path, ROOT / "mlx_video" / path)
    return next((place for place in places if place.exists()), None)


@pytest.mark.parametrize("path", sorted({word for word in quoted(CONTRIBUTING) if A_PATH.fullmatch(word)}))
def test_files_of_contributing_exist(path):
    assert found(path), f"CONTRIBUTING names {path}"


def defines(text: str, name: str) -> bool:
    return bool(re.search(rf"^\s*(?:class|def|async def) {name}\b|^\s*{name}\b[^(\n]*=", text, re.MULTILINE))


@pytest.mark.parametrize(("what", "where"), ROWS, ids=[what for what, _ in ROWS])
def test_a_row_of_the_map_names_what_is_in_its_files(what, where):
    words = quoted(where)
    files = [place for word in words if A_PATH.fullmatch(word) and (place := found(word)) and place.is_file()]
    assert files
    texts = [file.read_text() for file in files]
    names = [word.split("(")[0] for word in words if re.fullmatch(r"\w+(?:\(.*\) -> \w+)?", word) and word != "if"]
    for name in names:
        assert any(defines(text, name) or f"{name}(" in text or f'"{name}"' in text for text in texts), (
            f"{what}: {name}"
        )


def test_the_map_tells_a_samplers_function_as_it_is():
    written = re.search(r"`(denoise\(.+?\)) -> x0`", CONTRIBUTING)
    assert written
    assert f"`{written[1]} -> x0`" in (ROOT / "mlx_video" / "diffusion" / "samplers.py").read_text()


def test_the_map_has_every_part_of_the_package():
    table = CONTRIBUTING.split("## The package")[1].split("## Where things go")[0]
    named = {word.split("/")[0] for word in quoted(table)}
    parts = {path.name for path in (ROOT / "mlx_video").iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert parts - named == {"__init__.py"}
