"""As much of Hugging Face as looking into a model and fetching it needs, played by a server in this process.

Repos are folders or mappings from names to bytes; whatever is asked and every byte that is served is counted. Files are
read as they are asked for, so a sparse one of 43 GB may be among them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHUNK = 1 << 16
HASHED = 1 << 27
"""Bytes up to which a file's ETag is its content's SHA-256, as for all of the real hub's large files."""

Repo = Mapping[str, bytes | Path]


def repo_of(folder: Path, *names: str) -> Repo:
    """The files of a folder, or those of them that are named, as a repo."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if not names or name in names}


class Hub:
    """What the server has, and what it was asked for."""

    def __init__(self, repos: Mapping[str, Repo]):
        self.repos: dict[str, Repo] = dict(repos)
        self.gated: set[str] = set()
        self.commit, self.status = "c" * 40, 200
        self.ranges = True
        """Whether it answers with the part of a file that was asked for; else always with the whole."""
        self.breaks: int | None = None
        """Bytes of a file after which the connection is gone."""
        self.asked: list[tuple[str, str, str | None]] = []
        """Method, path and range of each request."""
        self.served: dict[str, int] = {}
        """Bytes of each file that were sent, by name."""

    @property
    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for, in order."""
        paths = [path for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]
        return ["/".join(path.split("/")[5:]) for path in paths]

    @property
    def lists(self) -> int:
        """How often it was asked what a repo holds."""
        return sum(path.startswith("/api/") for _, path, _ in self.asked)

    def forget(self) -> None:
        """What was asked and served so far."""
        self.asked.clear()
        self.served.clear()


def _size(file: bytes | Path) -> int:
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def _digest(file: bytes | Path) -> str:
    if isinstance(file, bytes):
        return hashlib.sha256(file).hexdigest()
    return hashlib.sha256(file.read_bytes() if _size(file) <= HASHED else str(file).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server.hub
        path = self.path.split("?")[0]
        if not (path.startswith("/api/models/") or "/resolve/" in path):
            return self.answer(404)  # what huggingface_hub asks for its own ends
        hub.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/"):
            return self.list("/".join(path.split("/")[3:5]))
        _, owner, name, _, _, *file = path.split("/")
        if f"{owner}/{name}" in hub.gated:
            return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access to it is restricted")
        self.send("/".join(file), hub.repos[f"{owner}/{name}"]["/".join(file)])

    def list(self, repo):
        hub = self.server.hub
        if repo not in hub.repos:
            return self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        siblings = [
            {"rfilename": name, "size": (size := _size(file)),
             "lfs": {"sha256": _digest(file), "size": size, "pointerSize": 134}}
            for name, file in hub.repos[repo].items()
        ]  # fmt: skip
        body = {"id": repo, "sha": hub.commit, "siblings": siblings, "private": False, "tags": []}
        self.answer(hub.status, json.dumps(body).encode(), Content_Type="application/json")

    def send(self, name, file):
        hub, size = self.server.hub, _size(file)
        same = {"X_Repo_Commit": hub.commit, "ETag": f'"{_digest(file)}"', "Accept_Ranges": "bytes"}
        asked, start, stop = self.headers.get("Range"), 0, size
        if asked and hub.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop = int(first), min(size, int(last) + 1) if last else size
            same["Content_Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.send_response(206 if "Content_Range" in same else 200)
        for key, value in {"Content_Length": str(stop - start), **same}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), contextlib.ExitStack() as stack:
            opened = None if isinstance(file, bytes) else stack.enter_context(file.open("rb"))
            for begin in range(start, stop, CHUNK):
                end = min(stop, begin + CHUNK)
                if opened is not None:
                    opened.seek(begin)
                piece = file[begin:end] if opened is None else opened.read(end - begin)
                self.wfile.write(piece[: hub.breaks])
                if hub.breaks is not None and hub.breaks < len(piece):
                    self.close_connection = True
                    return
                hub.served[name] = hub.served.get(name, 0) + end - begin


@contextlib.contextmanager
def play(monkeypatch, cache: Path, repos: Mapping[str, Repo]):
    """Makes a Hub the one that huggingface_hub talks to, with an empty cache in the folder `cache`, and yields it.

    Its `down()` cuts the network, `offline()` says so beforehand.
    """
    from huggingface_hub import constants

    hub = Hub(repos)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.hub = hub
    thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    hub.down = lambda: monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub.offline = lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    try:
        yield hub
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
