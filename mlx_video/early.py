"""What a command does before anything else is loaded: a signal then ends it at once, with 130 and without a traceback.

`cli.run` takes over from here while the command runs, and leaves this behind for the moments in which Python ends.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn


def end(*_: object) -> NoReturn:
    """Ends the process; nothing has been begun, or everything is done."""
    os._exit(130)


def guard() -> None:
    """For the program alone, not for a library: a signal that the caller has switched off stays so."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end)
