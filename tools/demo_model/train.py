"""Makes the demo model from nothing: `python -m tools.demo_model.train --out FOLDER`.

Runs every part in its order, each in a process of its own with one thread, at most two at a time; a part that is done is
not run again and a part that was interrupted goes on from its last save. `--from MODEL` goes on from a model folder
instead: its codec and its sounds are kept, and what is trained begins with its weights. `--scale` stretches or shrinks all
times, `--minutes PART=N` sets one. Times are minutes that a process has computed; see README.md for what they gave.

It does not know what the parts do: see the files that its functions call.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from . import device

# name -> (minutes of a CPU core from nothing, minutes from a trained model, names of the parts that must be done before).
# What takes no minutes from a trained model stays as it is there.
PARTS = {
    "start": (0, 2, ()),
    "codec": (2, 0, ("start",)),
    "autoencoder": (15, 0, ("start",)),
    "bank128": (4, 4, ("codec",)),
    "audio_bank": (0.2, 0, ("autoencoder",)),
    "bank256": (6, 6, ("codec",)),
    "bank512": (5, 5, ("codec",)),
    "video_encoder": (20, 20, ("codec",)),
    "pairs": (6, 6, ("bank256", "bank512", "video_encoder")),
    "upsampler": (12, 10, ("pairs",)),
    "raised": (0.5, 0.5, ("upsampler",)),
    "transformer": (240, 90, ("bank128", "audio_bank", "raised")),
    "video_decoder": (30, 0, ("codec",)),
    "audio_decoder": (5, 0, ("audio_bank",)),
    "vocoder": (8, 0, ("audio_decoder",)),
    "distilled": (15, 12, ("transformer",)),
    "outputs": (2, 2, ("distilled",)),
    "polish": (20, 20, ("outputs", "video_decoder")),
    "pack": (0.2, 0.2, ("polish", "vocoder")),
}
NOTHING, TRAINED = 0, 1  # which of the two times
# glibc gives every large buffer back to the system at once; keeping them made steps twice as fast.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def _fit_codec(folder: str, _: float) -> None:
    from . import bank, codec

    bank.save(codec.fit(), os.path.join(folder, "codec.pt"))


def _make_bank(size: int, passes: int):
    def part(folder: str, _: float) -> None:
        from . import bank, codec

        bank.make_video(folder, codec.load(folder), size, passes)

    return part


def _train_sound(job: str):
    def part(folder: str, minutes: float) -> None:
        from . import bank, pack, train_audio

        first = bank.first_weights(folder, job)
        if first is None and job == "audio_decoder":  # goes on from the decoder half of the autoencoder
            first = device.read(os.path.join(folder, "autoencoder.pt"))
        weights = {job: pack.below(first["networks"], job + ".")} if first and job != "autoencoder" else None
        train_audio.AudioTrainer(folder, job, minutes, weights).run()

    return part


def _make_audio_bank(folder: str, _: float) -> None:
    from . import bank
    from .reference import build

    encoder, state = build("audio_encoder"), device.read(os.path.join(folder, "autoencoder.pt"))["networks"]
    encoder.load_state_dict({k.removeprefix("audio_encoder."): v for k, v in state.items() if "encoder." in k})
    bank.save(bank.make_audio(encoder), os.path.join(folder, "bank-audio.pt"))


def _train_half(half: str):
    def part(folder: str, minutes: float) -> None:
        from . import bank, train_video

        first = bank.first_weights(folder, "video_" + half)
        train_video.HalfTrainer(folder, half, minutes, 0.01 if first else 0.02, first and first["averaged"]).run()

    return part


def _make_pairs(folder: str, _: float) -> None:
    from . import train_upsampler

    train_upsampler.make_pairs(folder)


def _train_upsampler(folder: str, minutes: float) -> None:
    from . import train_upsampler

    train_upsampler.UpsamplerTrainer(folder, minutes).run()


def _raise_bank(folder: str, _: float) -> None:
    from . import train_upsampler

    train_upsampler.raise_bank(folder)


def _train_transformer(folder: str, minutes: float) -> None:
    from . import bank, train_transformer

    trained = bank.first_weights(folder, "transformer") is not None
    trainer = train_transformer.Trainer(folder, "transformer", minutes, 0.008 if trained else 0.015)
    trainer.run(
        0.0 if trained else 0.25, {128: 0.35, 256: 0.6, 512: 0.05} if trained else {128: 0.45, 256: 0.5, 512: 0.05}
    )


def _train_lora(folder: str, minutes: float) -> None:
    from . import train_lora

    train_lora.LoraTrainer(folder, "distilled", minutes).run(0.0, {128: 0.25, 256: 0.7, 512: 0.05})


def _make_outputs(folder: str, _: float) -> None:
    from . import train_polish

    train_polish.make_outputs(folder, 1024, lora=True)


def _polish(folder: str, minutes: float) -> None:
    from . import bank, train_polish

    weights = device.read(bank.newest(folder, "video_decoder"))["averaged"]
    train_polish.PolishTrainer(folder, minutes, weights).run()


def _pack(folder: str, _: float) -> None:
    from . import pack

    pack.pack(folder, os.path.join(folder, "model"))


# Modules are imported by the part that needs them: the process that starts the parts stays small.
WORK = {
    "codec": _fit_codec,
    "autoencoder": _train_sound("autoencoder"),
    "bank128": _make_bank(128, 10),
    "audio_bank": _make_audio_bank,
    "bank256": _make_bank(256, 4),
    "bank512": _make_bank(512, 1),
    "video_encoder": _train_half("encoder"),
    "pairs": _make_pairs,
    "upsampler": _train_upsampler,
    "raised": _raise_bank,
    "transformer": _train_transformer,
    "video_decoder": _train_half("decoder"),
    "audio_decoder": _train_sound("audio_decoder"),
    "vocoder": _train_sound("vocoder"),
    "distilled": _train_lora,
    "outputs": _make_outputs,
    "polish": _polish,
    "pack": _pack,
}


def run_part(name: str, folder: str, minutes: float, model: str | None) -> None:
    """One part in this process; a part of no minutes is left as the model has it."""
    if name == "start":
        if model:
            from . import unpack

            unpack.unpack(model, folder)
    elif minutes > 0:
        WORK[name](folder, minutes)
    open(os.path.join(folder, name + ".done"), "w").close()


def _command(name: str, folder: str, minutes: float, model: str | None) -> list[str]:
    command = [sys.executable, "-m", "tools.demo_model.train", "--out", folder, "--part", name]
    return [*command, "--minutes", f"{name}={minutes}", *(["--from", model] if model else [])]


def run_all(folder: str, times: dict[str, float], processes: int, model: str | None) -> None:
    os.makedirs(folder, exist_ok=True)
    running: dict[str, subprocess.Popen] = {}
    is_done = lambda part: os.path.exists(os.path.join(folder, part + ".done"))
    while not all(map(is_done, PARTS)):
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                if process.returncode:
                    raise SystemExit(f"{name} failed, see {folder}/{name}.log; start again to go on")
        for name, (*_, before) in PARTS.items():
            if len(running) < processes and name not in running and not is_done(name) and all(map(is_done, before)):
                print(time.strftime("%H:%M:%S"), name, flush=True)
                with open(os.path.join(folder, name + ".log"), "a") as log:
                    running[name] = subprocess.Popen(
                        _command(name, folder, times[name], model),
                        env={**os.environ, **ENVIRONMENT},
                        stdout=log,
                        stderr=log,
                    )
        time.sleep(2)


def read_times(changes: list[str], scale: float, trained: bool) -> dict[str, float]:
    """Minutes of every part; `changes` are PART=MINUTES. Raises SystemExit for a part or a number that is none."""
    times = {name: part[TRAINED if trained else NOTHING] * scale for name, part in PARTS.items()}
    for change in changes:
        name, _, minutes = change.partition("=")
        if name not in PARTS or not minutes.replace(".", "", 1).isdigit():
            raise SystemExit(f"--minutes {change}: give PART=MINUTES, PART one of {', '.join(PARTS)}")
        times[name] = float(minutes)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for everything that is made; the model is in its model/")
    parser.add_argument("--from", dest="model", metavar="MODEL", help="go on from this model folder")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all training times")
    parser.add_argument("--minutes", nargs="*", default=[], metavar="PART=N", help="times of single parts")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--device", default="cpu", help="torch's name of what computes: cpu, cuda (default %(default)s)"
    )
    parser.add_argument("--part", choices=PARTS, help="run this part alone, in this process")
    arguments = parser.parse_args()
    device.use(arguments.device)
    times = read_times(arguments.minutes, arguments.scale, arguments.model is not None)
    if arguments.part:
        run_part(arguments.part, arguments.out, times[arguments.part], arguments.model)
    else:
        run_all(arguments.out, times, arguments.processes, arguments.model)


if __name__ == "__main__":
    main()
