"""Downloads that are slow, break, are killed or run twice at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from tests.trials.case import closing
from tests.trials.draw import nth, source
from tests.trials.faults.disks import small_disk
from tests.trials.faults.process import (
    Found,
    Place,
    examined,
    hidden,
    jobs,
    usual_seconds,
    wrong_results,
)
from tests.trials.material import Material


@contextmanager
def hub(material: Material, pause: float, cut: int | None) -> Iterator[tuple[str, Callable[[], None]]]:
    """A server that holds the model as a/model: (address, a call that lets it be quick and whole from then on).

    pause: seconds between pieces of a file; cut: bytes after which every connection breaks.
    """
    from tests.support import played_hub

    state = {"pause": pause, "cut": cut}

    class Slow(played_hub._Handler):
        def send(self, name, file):
            raw, sent = self.wfile, 0

            class Slowly:
                def write(self, piece):
                    nonlocal sent
                    time.sleep(state["pause"] or 0)
                    sent += len(piece)
                    if state["cut"] is not None and sent > state["cut"]:
                        raise ConnectionResetError
                    return raw.write(piece)

                def __getattr__(self, name):
                    return getattr(raw, name)

            self.wfile = Slowly()
            try:
                super().send(name, file)
            finally:
                self.wfile = raw

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    names = [str(path.relative_to(material.model)) for path in material.model.rglob("*") if path.is_file()]
    server.hub = played_hub.Hub({"a/model": played_hub.repo_of(material.model, *names)})  # type: ignore[attr-defined]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", lambda: state.update(pause=0, cut=None)
    finally:
        server.shutdown()
        server.server_close()


def download(number: int, seed: int, place: Place) -> Found:
    """A download that is slow, breaks, is killed, or runs twice at once; then the same from a hub in good order."""
    draw = source(seed, "download", number)
    kind = nth(
        ("SIGKILL", "SIGTERM", "SIGINT", "breaks", "gone", "twice", "small disk", "SIGKILL", "breaks"), number, seed
    )
    job = jobs(place.material)["clip"]
    words = list(job.line)
    words[words.index(str(place.material.model))] = "a/model"
    pause, cut = draw.uniform(0.002, 0.02), draw.randrange(1000, 10_000_000) if kind == "breaks" else None
    with hub(place.material, pause, cut) as (address, mend), small_disk(place, "6m") as there:
        home = there / "hf" if kind == "small disk" and there else place.folder / "hf"
        env = {
            "HF_ENDPOINT": address if kind != "gone" else "http://127.0.0.1:9",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        place.remember()
        process = place.start("generate", words, env=env)
        other = place.start("generate", words, env=env) if kind == "twice" else None
        sent = getattr(signal, kind, None)
        ended = place.end(
            process,
            (lambda: process.process.send_signal(sent)) if sent else None,
            usual_seconds(place, "clip") * 0.5 + draw.uniform(0, 3),
        )
        statuses = {"SIGKILL": (-9,), "SIGTERM": (130, 143), "SIGINT": (130,)}.get(kind, (2,))
        verdict, why = examined(place, job, ended, statuses=statuses, names=("a/model", "hub", "network", "disk",
        "free", "interrupted"), same=True,
                                ignored=lambda name: name.startswith(("hf",
                                "disk")) or (kind == "SIGKILL" and hidden(name)))  # fmt: skip
        if other is not None:
            place.end(other)
        if verdict in ("clear", "accepted") and kind != "small disk":
            mend()
            again = place.run("generate", words, env=env | {"HF_ENDPOINT": address})
            if again.status:
                verdict, why, ended = (
                    "wrong status",
                    f"from a good hub it then ended with {again.status}: {closing(again.said)[-1:]}",
                    again,
                )
            elif wrong_results(place, job):
                verdict, why = "silent", "from a good hub: " + wrong_results(place, job)
    return f"{kind} {'' if cut is None else cut}", verdict, why, ended.said
