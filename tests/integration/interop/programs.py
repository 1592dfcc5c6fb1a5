"""Other people's programs: a command line in, what it printed out; or a server on a free port, ended by its own id."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 30.0
STOP_S = 10.0
RUN_S = 60.0
# Below the ports that the kernel gives to outgoing connections: one of those could take it before the program does.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


def run(
    *command: str | Path | int, check: bool = True, cwd: Path | None = None, timeout: float = RUN_S
) -> "subprocess.CompletedProcess[str]":
    """One program to its end; its two outputs together, as DCMTK's logger writes to the second."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout[-3000:]
    return done


@contextmanager
def serving(port: int, log: Path, *command: str | Path | int) -> Iterator["subprocess.Popen[bytes]"]:
    """A server in a process group of its own, once it listens on `port`; its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"TCP_NODELAY": "1"},  # as Debian builds them, DCMTK and Orthanc leave Nagle on
        )
    try:
        _listening(port, process, log)
        yield process
    finally:
        _end(process)


def _listening(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not listen:\n{log.read_text(errors='replace')[-2000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
