"""Checkpoints as strangers, other machines and later versions may leave them: read, or one sentence before a run."""

import dataclasses
import json
import math
import os
import shutil

import mlx.core as mx
import pytest

from mlx_video import LTXPipeline
from mlx_video.checkpoints import demo, locate
from mlx_video.checkpoints.hub.outlines import Outlines
from mlx_video.checkpoints.layouts import open_checkpoint
from mlx_video.jobs.convert import Wishes, convert
from mlx_video.lending.loader import Loader
from mlx_video.models import ltx_2
from mlx_video.models.ltx_2.recipes import RECIPES
from mlx_video.request import Request
from mlx_video.types import UserError
from mlx_video.weights.quantize import Quantization
from tests.support import played_hub, small

# ---------------------------------------------------------------------------------------------------- versions

VERSIONS = {
    None: ("2", False), "": ("2", False), "2": ("2", False), "2.0": ("2", False), "2.0.1": ("2", False),
    "2.3": ("2.3", False), "2.3.0": ("2.3", False), "2.3-rc1": ("2.3", False), 2.3: ("2.3", False),
    "2.3.": ("2.3", False),
    "9.9": ("2.5", True), "2.4": ("2.3", True), "2.5.0": ("2.5", False), "2.5": ("2.5", False), "3": ("2.5", True),
    "2.10": ("2.5", True), "2.6": ("2.5", True),
    "2.1": ("2", True), "1.0": ("2", True), "0.9.5": ("2", True), "\u00b2.3": ("2", True), "2.\u00b3": ("2", True),
    "x": ("2", True), "2.": ("2", True), "2.x": ("2", True), " 2.3": ("2", True), "-1": ("2", True),
    "2..3": ("2", True),
    "9" * 10**5: ("2", True), "\n": ("2", True), True: ("2", True),
}  # fmt: skip


@pytest.fixture(scope="module")
def marker(small_folder, tmp_path_factory):
    """marker(key=value, ...) is a converted folder whose marker says so."""
    folder = tmp_path_factory.mktemp("converted") / "c"
    convert(open_checkpoint(small_folder("2.3"), "distilled"), folder)
    path = folder / "mlx_video.json"
    whole = json.loads(path.read_text())

    def write(**changes):
        path.write_text(json.dumps(whole | changes))
        return folder

    return write


def test_a_part_of_a_converted_folder_without_tensors_is_named(marker, tmp_path):
    folder = shutil.copytree(marker(), tmp_path / "copy", symlinks=True)
    shutil.rmtree(folder / "vae" / "statistics")
    for said in ("is missing", r"holds no \.safetensors file"):
        with pytest.raises(UserError, match=rf"copy is incomplete: vae/statistics/ {said}; convert the"):
            open_checkpoint(folder, "distilled")
        (folder / "vae" / "statistics").mkdir(exist_ok=True)


def test_every_version_is_read_as_one_that_is_known_and_doubts_are_told(marker):
    for version, (generation, doubtful) in VERSIONS.items():
        found = open_checkpoint(marker(model_version=version), "distilled")
        assert found.generation.name == generation, version
        assert (found.doubt is not None) is doubtful, version
        if found.doubt is not None:
            assert "this package knows 2, 2.3 and 2.5, and reads it as" in found.doubt
            assert len(found.doubt) < 250
    for version in ([2, 3], {"a": 1}, ["2.3"], [], 1e300):
        assert open_checkpoint(marker(model_version=version), "distilled").doubt is not None


def test_a_later_versions_doubt_reaches_the_user(marker, small_folder):
    told: list[str] = []
    for version in ("2.4", "2.3.0"):
        pipe = LTXPipeline.from_pretrained(marker(model_version=version), text_encoder=small_folder("2.3") / "gemma")
        pipe.plan(Request(prompt="a fox", height=64, width=64, num_frames=9), on_message=told.append)
    doubts = [text for text in told if "this package knows" in text]
    assert len(doubts) == 1
    assert "says it is version '2.4'; this package knows 2, 2.3 and 2.5, and reads it as 2.3" in doubts[0]


MARKERS = {
    "config": (None, 5, "x", [], [{}]),
    "components": (None, 5, "transformer", [5], ["../.."], ["transformer", "x"], {"transformer": 1},
                   [["transformer"]], [None]),
    "variant": (5, "other", [], {}, True),
    "text_encoder": (5, [], {}, True, ""),
    "quantization": (5, "x", [], {"bits": "4"}, {"bits": 4, "group_size": [64]}, {"bits": [4]}, {"bits": 4, "mode": {}},
                     {"bits": True, "group_size": 64}, {"bits": 4.0, "group_size": 64.0}),
}  # fmt: skip


def test_a_marker_of_other_contents_is_refused_by_its_name(marker):
    for key, values in MARKERS.items():
        for value in values:
            with pytest.raises(UserError, match=r"mlx_video\.json"):
                open_checkpoint(marker(**{key: value}), "distilled")
    folder = marker()
    path = folder / "mlx_video.json"
    for content in (b"", b"[]", b"{", b"[" * 10**5, b'{"a": 1, "a": 1}', b"\xff\xfe{}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"mlx_video\.json"):
            open_checkpoint(folder, "distilled")
    marker()


# ---------------------------------------------------------------------------------------------------- another geometry

GEOMETRY = {
    "video_decoder": ("vae", {"patch_size": 2}, "scale of time"),
    "transformer": ("transformer", {"audio_in_channels": 64}, "do not fit|audio in_channels = 64"),
    "vocoder": ("vocoder", {"output_sampling_rate": 48_000}, "output_sampling_rate for its upsample_rates = 48000"),
}


def test_sizes_that_the_pipelines_do_not_work_in_are_refused(small_folder):
    found = open_checkpoint(small_folder("2"), "distilled")
    for component, (section, change, message) in GEOMETRY.items():
        config = {**found.config, section: {**found.config[section], **change}}
        part = found.parts[component]._replace(settings=config)
        changed = dataclasses.replace(found, config=config, parts={**found.parts, component: part})
        with pytest.raises(UserError, match=f"({message})|do not fit"):
            Loader(changed).check(component)
    for component in found.parts:
        Loader(found).check(component)


# ---------------------------------------------------------------------------------------------------- kinds of numbers


@pytest.mark.parametrize("dtype", [mx.int32, mx.int64, mx.uint8, mx.uint32, mx.bool_, mx.complex64])
def test_weights_of_other_kinds_are_refused_from_headers(small_folder, tmp_path, dtype):
    tensors = small.tensors("2.3", "distilled")
    name = "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight"
    tensors[name] = tensors[name].astype(dtype)
    metadata = {"config": json.dumps(small.config("2.3")), "model_version": "2.3.0"}
    mx.save_safetensors(str(tmp_path / "x.safetensors"), tensors, metadata)
    with pytest.raises(UserError, match=r"x\.safetensors: tensor .*attn1.to_q.weight|dtype"):
        Loader(open_checkpoint(tmp_path / "x.safetensors", "distilled")).check("transformer")


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_scale_that_is_no_number_is_named(tmp_path, scale):
    from mlx_video.weights import fp8
    from mlx_video.weights.store import Entry

    entries = {"a.weight": Entry("F8_E4M3", (2, 2), 4), "a.weight_scale": Entry("F32", (2,), 8)}
    arrays = {"a.weight": mx.zeros((2, 2), mx.uint8), "a.weight_scale": mx.array([1.0, scale])}
    with pytest.raises(UserError, match=r"here: tensor 'a.weight_scale' has values that are not finite"):
        fp8.check_scales(arrays, entries, "here")
    fp8.check_scales({**arrays, "a.weight_scale": mx.ones(2)}, entries, "here")


# ---------------------------------------------------------------------------------------------------- where things lie


def test_a_pipe_or_a_device_for_a_model_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.safetensors")
    with pytest.raises(UserError, match=r"--model-repo .* is a pipe"):
        locate.existing(str(tmp_path / "fifo.safetensors"), "--model-repo")
    with pytest.raises(UserError, match=r"--model-repo .* is a device"):
        locate.existing("/dev/zero", "--model-repo")
    with pytest.raises(UserError, match=r"holds no LTX-2 checkpoint|is a pipe"):
        open_checkpoint(tmp_path, "distilled")


def test_what_can_be_no_path_is_refused_by_each_flags_name(small_folder):
    found = open_checkpoint(small_folder("2"), "distilled")
    for text in ("", "a\0b", "~nobody-of-that-name/x", "a prompt, not a path " * 30, "x" * 256, "\ud800"):
        for flag, use in (
            ("--model-repo", lambda text: locate.existing(text, "--model-repo")),
            ("--text-encoder-repo", lambda text: locate.text_encoder(text, found)),
            ("--lora", locate.lora),
            ("path", lambda text: ltx_2.load("transformer", text)),
        ):
            with pytest.raises(UserError, match=flag):
                use(text)


def noted(folder) -> object:
    return json.loads((folder / "mlx_video.json").read_text())["text_encoder"]


def test_a_converted_folder_may_be_moved_and_its_source_removed(small_folder, tmp_path):
    source = shutil.copytree(small_folder("2"), tmp_path / "source")
    found = open_checkpoint(source, "distilled")
    convert(found, tmp_path / "made", Wishes(text_encoder=found.text_encoder, text_quantization=Quantization(8, 32)))
    assert noted(tmp_path / "made") == "text_encoder"
    shutil.rmtree(source)
    (tmp_path / "made").rename(tmp_path / "moved")
    moved = open_checkpoint(tmp_path / "moved", "distilled")
    assert locate.text_encoder(None, moved)[1].path == tmp_path / "moved" / "text_encoder"
    for component in moved.parts:
        Loader(moved).check(component)
    assert str(tmp_path) not in (tmp_path / "moved" / "mlx_video.json").read_text()


def test_a_path_of_this_machine_is_not_noted(small_folder, tmp_path, caplog):
    found = open_checkpoint(small_folder("2"), "distilled")
    convert(found, tmp_path / "a")
    assert noted(tmp_path / "a") is None
    assert "is not noted in the folder" in caplog.text
    with pytest.raises(UserError, match=r"No text encoder was found beside .*gemma/, or name it with"):
        locate.text_encoder(None, open_checkpoint(tmp_path / "a", "distilled"))
    convert(found, tmp_path / "b", Wishes(text_encoder="google/gemma-3-12b-it"))
    assert noted(tmp_path / "b") == "google/gemma-3-12b-it"
    (tmp_path / "b" / "gemma").symlink_to(small_folder("2") / "gemma")
    assert open_checkpoint(tmp_path / "b", "distilled").text_encoder == str(tmp_path / "b" / "gemma")
    cached = tmp_path / "models--google--gemma-3-12b-it" / "snapshots" / "0123"
    convert(found, tmp_path / "c", Wishes(text_encoder=str(cached)))
    assert noted(tmp_path / "c") == "google/gemma-3-12b-it"


def test_an_older_folders_path_that_is_gone_says_what_to_do(marker):
    for text in ("/home/somebody/models/gemma", "../elsewhere/gemma", "~nobody-of-that-name/gemma", "x" * 400, "a\0b"):
        found = open_checkpoint(marker(text_encoder=text), "distilled")
        with pytest.raises(UserError, match=r"which is not there; put Gemma 3's folder there as gemma/") as caught:
            locate.text_encoder(None, found)
        assert "--text-encoder-repo" in str(caught.value)
    marker()


def test_the_demo_converts_to_a_folder_that_works_anywhere(tmp_path):
    convert(open_checkpoint(demo.folder(), "distilled"), tmp_path / "d")
    assert noted(tmp_path / "d") == "demo"
    found = open_checkpoint(tmp_path / "d", "distilled")
    assert locate.text_encoder(None, found)[1].path == demo.folder() / "gemma"


# ---------------------------------------------------------------------------------------------------- on the hub


def test_a_model_distilled_by_its_lora_brings_it_from_the_hub(monkeypatch, tmp_path):
    lora, upsampler = "ltx-2.3-demo-distilled-lora.safetensors", "ltx-2.3-demo-spatial-upscaler-x2.safetensors"
    with played_hub.play(monkeypatch, tmp_path, {"me/demo": played_hub.repo_of(demo.folder())}) as hub:
        for name, wanted in (("distilled", {lora, upsampler}), ("dev", set()), ("dev-two-stage", {lora, upsampler})):
            hub.forget()
            with Outlines() as outlines:
                path = locate.checkpoint("me/demo", RECIPES[name], take=outlines.take)
                names = set(outlines.wanted["me/demo"].files)
                assert names & {lora, upsampler} == wanted, name
                assert {"ltx-2.3-demo.safetensors", "gemma/config.json"} <= names
                found = open_checkpoint(path, "distilled")
                assert (found.distilled_lora is not None) is bool(wanted)
            assert all(size < 200_000 for size in hub.served.values())
        folder = locate.checkpoint("me/demo", RECIPES["distilled"])
        assert {lora, upsampler} <= {path.name for path in folder.iterdir()}


# ---------------------------------------------------------------------------------------------------- one network alone


@pytest.mark.parametrize(
    "component", [*(key for key, one in ltx_2.family.COMPONENTS.items() if not one.optional), "text_encoder"]
)
def test_every_network_of_the_demo_can_be_had_alone(component):
    network = ltx_2.load(component, "demo")
    (network.network if component == "text_encoder" else network).clear()


def test_a_component_that_there_is_not_is_refused_before_anything_is_looked_for():
    with pytest.raises(UserError, match="There is no component 'vae'; there are transformer"):
        ltx_2.load("vae", "nowhere")
