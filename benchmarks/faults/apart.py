"""Code that may hang, abort or take all memory, run in a process of its own."""

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CRASHED = 99
"""Exit code of a traceback."""


class Ended(NamedTuple):
    """How it ended: an exit code (negative: by that signal), and what it wrote on stderr."""

    code: int
    errors: str


def run_apart(function: Callable[[], int], *, cpu_s: int = 60, memory_gib: int = 12) -> Ended:
    """Run a function in a forked process.

    Args:
        function: What to run; its result is the exit code.
        cpu_s: CPU seconds after which it is ended; a process that waits gets twenty times as long.
        memory_gib: Address space that it may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "stderr"
        pid = os.fork()
        if pid == 0:
            _run(function, errors, cpu_s, memory_gib)
        deadline = time.monotonic() + 20 * cpu_s
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        return Ended(os.waitstatus_to_exitcode(ended[1]), errors.read_text(errors="replace"))


def _run(function: Callable[[], int], errors: Path, cpu_s: int, memory_gib: int) -> None:
    """The child: it never returns into the parent's code."""
    code = CRASHED
    try:
        target = os.open(errors, os.O_WRONLY | os.O_CREAT)
        for number in (1, 2):
            os.dup2(target, number)
        # Whoever captures output, such as pytest, has put other files here.
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - to the end
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - to the end
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + cpu_s, used + cpu_s + 1))
        resource.setrlimit(resource.RLIMIT_AS, (memory_gib << 30, memory_gib << 30))
        code = function()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:  # noqa: BLE001 - this is what is counted
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
