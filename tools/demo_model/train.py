"""Makes the demo model from nothing: `python -m tools.demo_model.train --out FOLDER`.

Runs every part in its order, each in a process of its own with one thread, at most two at a time; a part that is done is
not run again and a part that was interrupted goes on from its last save. `--scale` stretches or shrinks all times. Times
are wall clock of a core that is not shared; see README.md for what they gave.

It does not know what the parts do: see the files that PARTS names.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

import torch

# name -> (minutes of a CPU core, names of the parts that must be done before it)
PARTS = {
    "codec": (2, ()),
    "autoencoder": (15, ()),
    "bank128": (4, ("codec",)),
    "audio_bank": (0.2, ("autoencoder",)),
    "bank256": (6, ("codec",)),
    "upsampler": (6, ("bank256",)),
    "raised": (0.5, ("upsampler",)),
    "transformer": (120, ("bank128", "audio_bank", "raised")),
    "video_decoder": (30, ("codec",)),
    "audio_decoder": (5, ("audio_bank",)),
    "vocoder": (8, ("audio_decoder",)),
    "video_encoder": (15, ("codec",)),
    "distilled": (15, ("transformer",)),
    "outputs": (1, ("distilled",)),
    "polish": (12, ("outputs", "video_decoder")),
    "pack": (0.2, ("polish", "video_encoder", "vocoder")),
}
# glibc gives every large buffer back to the system at once; keeping them made steps twice as fast.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def run_part(name: str, folder: str, scale: float) -> None:
    from . import (
        bank,
        codec,
        pack,
        train_audio,
        train_lora,
        train_polish,
        train_transformer,
        train_upsampler,
        train_video,
    )
    from .reference import build

    path = lambda file: os.path.join(folder, file)
    minutes = PARTS[name][0] * scale
    load_codec = lambda: codec.Codec(torch.load(path("codec.pt")))
    if name == "codec":
        bank.save(codec.fit(), path("codec.pt"))
    elif name == "bank128":
        bank.make_video(folder, load_codec(), 128, 10)
    elif name == "bank256":
        bank.make_video(folder, load_codec(), 256, 3)
    elif name in ("autoencoder", "audio_decoder", "vocoder"):
        start = None
        if name == "audio_decoder":  # goes on from the decoder half of the autoencoder
            state = torch.load(path("autoencoder.pt"))["networks"]
            start = {name: {k.removeprefix(name + "."): v for k, v in state.items() if k.startswith(name)}}
        train_audio.AudioTrainer(folder, name, minutes, start).run()
    elif name == "audio_bank":
        encoder, state = build("audio_encoder"), torch.load(path("autoencoder.pt"))["networks"]
        encoder.load_state_dict({k.removeprefix("audio_encoder."): v for k, v in state.items() if "encoder." in k})
        bank.save(bank.make_audio(encoder), path("bank-audio.pt"))
    elif name in ("video_decoder", "video_encoder"):
        train_video.HalfTrainer(folder, name.removeprefix("video_"), minutes).run()
    elif name == "raised":
        train_upsampler.raise_bank(folder)
    elif name == "outputs":
        train_polish.make_outputs(folder, 320, lora=True)
    elif name == "polish":
        train_polish.PolishTrainer(folder, minutes, torch.load(path("video_decoder.pt"))["averaged"]).run()
    elif name == "upsampler":
        train_upsampler.UpsamplerTrainer(folder, minutes).run()
    elif name == "transformer":
        train_transformer.Trainer(folder, name, minutes, 0.015).run(share_256=0.45)
    elif name == "distilled":
        train_lora.LoraTrainer(folder, name, minutes).run(late=0.0, share_256=0.4)
    elif name == "pack":
        pack.pack(folder, path("model"))
    open(path(name + ".done"), "w").close()


def run_all(folder: str, scale: float, processes: int) -> None:
    os.makedirs(folder, exist_ok=True)
    running: dict[str, subprocess.Popen] = {}
    is_done = lambda part: os.path.exists(os.path.join(folder, part + ".done"))
    while not all(map(is_done, PARTS)):
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                if process.returncode:
                    raise SystemExit(f"{name} failed, see {folder}/{name}.log; start again to go on")
        for name, (_, before) in PARTS.items():
            if len(running) < processes and name not in running and not is_done(name) and all(map(is_done, before)):
                print(time.strftime("%H:%M:%S"), name, flush=True)
                with open(os.path.join(folder, name + ".log"), "a") as log:
                    running[name] = subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "tools.demo_model.train",
                            "--out",
                            folder,
                            "--scale",
                            str(scale),
                            "--part",
                            name,
                        ],
                        env={**os.environ, **ENVIRONMENT},
                        stdout=log,
                        stderr=log,
                    )
        time.sleep(2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for everything that is made; the model is in its model/")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all training times")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help="run this part alone, in this process")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.part:
        run_part(arguments.part, arguments.out, arguments.scale)
    else:
        run_all(arguments.out, arguments.scale, arguments.processes)
