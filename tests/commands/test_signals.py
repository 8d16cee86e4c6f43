"""A signal at any moment ends a command with 130 and without a traceback, and leaves the caller's handlers alone."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from mlx_video import UserError, cli, generate

EARLY = """
import importlib.abc, os, runpy, signal, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Finder())
sys.argv = ["mlx_video", "--help"]
runpy.run_module({module!r}, run_name="__main__")
"""
LATE = """
import atexit, os, runpy, sys

atexit.register(os.kill, os.getpid(), {number})
sys.argv = ["mlx_video", "--help"]
runpy.run_module({module!r}, run_name="__main__")
"""


@pytest.fixture(autouse=True)
def interrupts_heard():
    """A shell's background job begins with SIGINT switched off, and hands that on to what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["mlx_video.generate", "mlx_video.models.ltx_2.convert"])
@pytest.mark.parametrize("moment", [EARLY, LATE], ids=["begins", "ends"])
def test_a_signal_while_python_begins_or_ends(number, module, moment):
    code = moment.format(name="mlx_video.cli", number=int(number), module=module)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_command_runs(number, monkeypatch, capsys):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(generate, "generate", lambda args: os.kill(os.getpid(), number))
    assert generate.main(["a fox"]) == 130
    assert capsys.readouterr().err == "mlx_video.generate: interrupted; nothing was written.\n"
    assert {each: signal.getsignal(each) for each in before} == before


@pytest.mark.parametrize("ending", [None, UserError("no"), RuntimeError("a fault")])
def test_handlers_are_put_back_however_a_command_ends(ending):
    def action(args):
        assert signal.getsignal(signal.SIGTERM) is not mine
        if ending is not None:
            raise ending

    def mine(*_):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        if isinstance(ending, RuntimeError):
            with pytest.raises(RuntimeError):
                cli.run(lambda: cli.Parser(prog="p"), action, [])
        else:
            assert cli.run(lambda: cli.Parser(prog="p"), action, []) == (0 if ending is None else 2)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_without_memory_says_so(monkeypatch, capsys):
    def full(args):
        raise MemoryError

    monkeypatch.setattr(generate, "generate", full)
    assert generate.main(["a fox"]) == 1
    assert capsys.readouterr().err.startswith("mlx_video.generate: this process may not take as much memory")


def test_a_command_runs_in_any_thread(monkeypatch):
    monkeypatch.setattr(generate, "generate", lambda args: None)
    found = []
    thread = threading.Thread(target=lambda: found.append(generate.main(["a fox"])))
    thread.start()
    thread.join()
    assert found == [0]


@pytest.mark.skipif(os.name != "posix", reason="closed streams as a POSIX shell makes them")
def test_closed_streams_are_no_fault():
    code = "import sys; from mlx_video import generate; sys.exit(generate.main(['a', '--height', '33']))"
    assert subprocess.run(f'{sys.executable} -c "{code}" >&- 2>&-', shell=True).returncode == 2
