"""Every flag reaches the Request, under all its spellings, and contradictions are refused before anything is loaded."""

import subprocess
import sys
import time

import pytest

from mlx_video import AudioIn, ImageAt, Lora, Request, UserError, generate, generate_av, generate_dev

PROMPT = ["--prompt", "a fox"]


def request(*flags: str) -> Request:
    return generate.request_of(generate.build_parser().parse_args([*PROMPT, *flags]))


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--pipeline", "dev"], "pipeline", "dev"),
        (["-H", "256"], "height", 256),
        (["-W", "320"], "width", 320),
        (["-n", "9"], "num_frames", 9),
        (["--frames", "17"], "num_frames", 17),
        (["-s", "7"], "seed", 7),
        (["--fps", "30000/1001"], "fps", 30000 / 1001),
        (["--no-audio"], "audio", False),
        (["--output-audio", "a.wav"], "audio", True),
        (["--strict-frames"], "strict_frames", True),
        (["--placeholder"], "placeholder", True),
        (["--auto-duration", "2:8"], "auto_duration", "2:8"),
        (["--video-decoder", "diffusion"], "video_decoder", "diffusion"),
        (["--num-generated-keyframes", "3"], "num_generated_keyframes", 3),
        (["--generated-keyframes", "2"], "num_generated_keyframes", 2),
        (["--reference-version", "1.4"], "reference_version", "1.4"),
        (["--distilled-lora", "a.safetensors"], "distilled_lora", "a.safetensors"),
        (["-a"], "audio", True),
        (["--tiling", "aggressive"], "tiling", "aggressive"),
        (["--stream"], "stream", True),
        (["--skip-vae"], "skip_vae", True),
        (["--steps", "12"], "steps", 12),
        (["--negative-prompt", "fog"], "negative_prompt", "fog"),
        (["--cfg-scale", "4"], "cfg_scale", 4.0),
        (["--cfg", "5"], "cfg_scale", 5.0),
        (["--audio-cfg-scale", "6"], "audio_cfg_scale", 6.0),
        (["--cfg-rescale", "0.5"], "cfg_rescale", 0.5),
        (["--stg-scale", "1.5"], "stg_scale", 1.5),
        (["--stg-blocks", "3", "5"], "stg_blocks", (3, 5)),
        (["--modality-scale", "2"], "modality_scale", 2.0),
        (["--apg"], "apg", True),
        (["--skip-step", "2"], "skip_step", 2),
        (["--guidance-batch"], "guidance_batch", True),
        (["--lora", "a.safetensors"], "lora", (Lora("a.safetensors", 1.0),)),
        (["--lora", "a", "0.5", "--lora", "b"], "lora", (Lora("a", 0.5), Lora("b", 1.0))),
        (["--lora-path", "a", "--lora-strength", "0.3"], "lora", (Lora("a", 0.3),)),
        (["--pipeline", "dev-two-stage", "--lora-strength", "0.8"], "lora_strength_stage_2", 0.8),
        (["--lora-strength-stage-1", "0.3"], "lora_strength_stage_1", 0.3),
        (["--lora-strength-stage-2", "0.6"], "lora_strength_stage_2", 0.6),
        (["--image", "a.png"], "image", (ImageAt("a.png"),)),
        (["-i", "a.png", "last", "0.5"], "image", (ImageAt("a.png", "last", 0.5),)),
        (["--image", "a.png", "-1", "0.5", "18"], "image", (ImageAt("a.png", -1, 0.5, 18),)),
        (["--image", "a.png", "--image-frame-idx", "8"], "image", (ImageAt("a.png", 8),)),
        (["--image", "a.png", "--image-strength", "0.7"], "image", (ImageAt("a.png", 0, 0.7),)),
        (["--embedding", "p.safetensors"], "embedding", "p.safetensors"),
        (["--enhance-prompt"], "enhance_prompt", True),
        (["--enhance-prompt", "--max-tokens", "9"], "max_tokens", 9),
        (["--enhance-prompt", "--temperature", "0"], "temperature", 0.0),
        (["--enhance-prompt", "--prompt-writer", "a"], "prompt_writer", "a"),
        (["--audio-file", "a.wav"], "audio_file", AudioIn("a.wav", 0.0)),
        (["--audio-file", "a.wav", "--audio-start-time", "2.5"], "audio_file", AudioIn("a.wav", 2.5)),
    ],
)  # fmt: skip
def test_a_flag_reaches_the_request(flags, field, value):
    found = request(*flags)
    assert getattr(found, field) == value
    assert getattr(Request("a fox"), field) != value


def test_no_field_of_the_request_is_without_a_flag():
    parser = generate.build_parser()
    known = {action.dest for action in parser._actions}
    assert set(Request.__dataclass_fields__) <= known


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lora-strength", "0.5"], "without --lora-path"),
        (["--pipeline", "dev-two-stage", "--lora-strength", "1", "--lora-strength-stage-2", "1"], "both set"),
        (["--lora", "a", "b", "c"], "3 values"),
        (["--lora", "a", "strong"], "'strong' is not a number"),
        (["--lora", ""], "path is empty"),
        (["a hare"], "given twice, as 'a hare' and as --prompt"),
        (["--image", "a", "first"], "'first'"),
        (["--image-strength", "1"], "exactly one --image"),
        (["--audio-start-time", "1"], "without --audio-file"),
        (["--audio-file", "a.wav", "--audio"], "exclude each other"),
    ],
)
def test_contradictions_are_refused(flags, said):
    with pytest.raises(UserError, match=said):
        request(*flags)


@pytest.mark.parametrize("flag", ["--output", "-o"])
def test_older_spellings_of_the_output(flag):
    assert generate.build_parser().parse_args([*PROMPT, flag, "a.mp4"]).output_path == "a.mp4"


@pytest.mark.parametrize("flag", ["--weights", "--ltx-weights"])
def test_older_spellings_of_the_model(flag):
    assert generate.build_parser().parse_args([*PROMPT, flag, "here"]).model_repo == "here"


def test_an_older_spelling_of_the_text_encoder():
    assert generate.build_parser().parse_args([*PROMPT, "--gemma-path", "here"]).text_encoder_repo == "here"


def test_a_prompt_needs_no_flag():
    assert generate.request_of(generate.build_parser().parse_args(["-n", "9", "a fox", "--stream"])).prompt == "a fox"


def test_aliases_change_one_default_only(monkeypatch):
    seen = []
    monkeypatch.setattr(generate, "generate", seen.append)
    assert generate_av.main(PROMPT) == 0
    assert generate_dev.main(PROMPT) == 0
    plain = vars(generate.build_parser().parse_args(PROMPT))
    assert {**plain, "output_path": "output_av.mp4", "sound_beside": True} == vars(seen[0])
    assert {**plain, "pipeline": "dev"} == vars(seen[1])


@pytest.mark.parametrize(
    "flags",
    [
        ["--height", "500"], ["--nonsense"], [], ["--prompt", "a", "--dtype", "float8"], ["--prompt", ""],
        ["--prompt", "a", "--steps", "9"],
    ],
)  # fmt: skip
def test_a_mistake_ends_with_2_and_one_line(flags, capsys):
    flags = flags if not flags or "--prompt" in flags or flags == [] else [*PROMPT, *flags]
    try:
        status = generate.main(flags)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys; from mlx_video import generate; generate.build_parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"mlx.core", "numpy", "transformers", "mlx_vlm", "huggingface_hub", "av", "cv2", "PIL", "librosa", "scipy"}
    assert not heavy & set(loaded)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mlx_video.generate", "--help"], capture_output=True, check=True)
    assert time.perf_counter() - start < 5  # 0.1 s on a quiet machine; the bound only catches a heavy import
