"""Makes the README's first clip with the console script that stands beside this Python, and looks at what came out.

    python demo.py FOLDER          in FOLDER, which is not the checkout: frames, size and sound of the .mp4
    python demo.py FOLDER --gpu    the same clip on the GPU and on the CPU, and how far they are apart

Knows the package only as one that is installed: it reads the README and runs commands.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

README = Path(__file__).resolve().parents[1] / "README.md"
FRAMES, SIDE, RATE = 33, 256, 24
LEAST_PSNR = {"float32": 45.0, "bfloat16": 35.0}
"""dB between the GPU's frames and the CPU's in float32, by the GPU's precision. On a CPU bfloat16 itself is 43 dB from
float32, and a GPU in float32 differs in the order of sums alone."""
ON_DEVICE = """
import sys
import mlx.core as mx
mx.set_default_device(getattr(mx, sys.argv[1]))
from mlx_video.generate import main
raise SystemExit(main(sys.argv[2:]))
"""


def first_command() -> list[str]:
    """The flags of the README's first `generate`."""
    found = re.search(r"python -m mlx_video\.generate (.+)$", README.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{README} shows no generate command")
    return shlex.split(found[1])


def look(path: Path) -> np.ndarray:
    """The frames, (F, H, W, 3); ends the program where the clip is not what was asked for."""
    with av.open(str(path)) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        rate = file.streams.video[0].average_rate
    with av.open(str(path)) as file:
        sound = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
        seconds = sound.shape[1] / file.streams.audio[0].rate
    expected = (FRAMES, SIDE, SIDE, 3)
    if frames.shape != expected or rate != RATE or abs(seconds - FRAMES / RATE) > 0.1:
        raise SystemExit(
            f"{path}: {frames.shape} at {rate} fps with {seconds:.2f} s of sound, not {expected} at {RATE}"
        )
    if frames.std() < 10 or np.abs(sound).max() < 1e-3 or not np.isfinite(sound).all():
        raise SystemExit(f"{path}: the picture is empty, or the sound is silent")
    print(f"{path.name}: {FRAMES} frames of {SIDE} x {SIDE}, {seconds:.2f} s of sound")
    return frames


def compare(folder: Path) -> None:
    """Ends the program where the GPU's clip is not the CPU's."""
    clips = {}
    for device, dtype in (("cpu", "float32"), *(("gpu", name) for name in LEAST_PSNR)):
        path = folder / f"{device}-{dtype}.mp4"
        words = [*first_command(), "-o", str(path), "--dtype", dtype]
        subprocess.run([sys.executable, "-c", ON_DEVICE, device, *words], cwd=folder, check=True)
        clips[device, dtype] = look(path).astype(float)
    exact = clips.pop(("cpu", "float32"))
    for (_, dtype), frames in clips.items():
        psnr = 10 * np.log10(255**2 / max(np.mean((frames - exact) ** 2), 1e-6))
        print(f"GPU in {dtype} against the CPU in float32: {psnr:.1f} dB, at least {LEAST_PSNR[dtype]:.0f} are due")
        if not psnr >= LEAST_PSNR[dtype]:
            raise SystemExit("The GPU makes another clip than the CPU.")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpu", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.gpu:
        return compare(args.folder)
    script = Path(sys.executable).parent / "mlx_video.generate"
    subprocess.run([str(script), *first_command()], cwd=args.folder, check=True)
    look(args.folder / "demo.mp4")


if __name__ == "__main__":
    main()
