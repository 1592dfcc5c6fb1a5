"""A node as its users see it: a process tree on a port. Started for a test, ended with it, by its own id."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dicomnode.dimse.client import Peer
from tests import databases

READY_S = 60.0
STOP_S = 60.0
CODECS = ("gdcm", "openjpeg", "jpeg_ls", "pylibjpeg")  # as their files are called


def loads(process: psutil.Process, *libraries: str) -> bool:
    """Whether it has any of these native libraries in its memory."""
    return any(library in mapping.path for mapping in process.memory_maps() for library in libraries)


@dataclass
class RunningNode:
    """A started `dicomnode serve`."""

    root: Path
    port: int
    process: "subprocess.Popen[str]"
    tls_port: int = 0  # 0: it has none
    http_port: int = 0  # likewise

    @property
    def log_text(self) -> str:
        """Everything that it has logged."""
        return (self.root.parent / f"{self.root.name}.log").read_text()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def peer(self) -> Peer:
        return Peer("127.0.0.1", self.port)

    def kill_tree(self) -> None:
        """kill -9 of the whole process group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def started(
    command: str, root: Path, *arguments: str, environment: dict[str, str] | None = None, module: str = "dicomnode"
) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A command that says when it is ready and then stays, in a process group of its own; what it said.

    `module` runs it, changed for a test.
    """
    words = [sys.executable, "-m", module, command, "--root", str(root), "--json", *arguments]
    with (root.parent / f"{root.name}.log").open("a") as log:
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=os.environ | databases.environment(root) | (environment or {}),
        )
        assert process.stdout is not None
        try:
            waiting, _, _ = select.select([process.stdout], [], [], READY_S)
            line = process.stdout.readline() if waiting else ""
            assert line, f"{command} did not start:\n{Path(log.name).read_text()[-2000:]}"
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            process.stdout.close()


@contextmanager
def running_node(
    root: Path, *arguments: str, environment: dict[str, str] | None = None, module: str = "dicomnode"
) -> Iterator[RunningNode]:
    """`dicomnode serve`, ready to be called."""
    here = ("--host", "127.0.0.1", "--port", "0")
    with started("serve", root, *here, *arguments, environment=environment, module=module) as (process, ready):
        yield RunningNode(root, ready["port"], process, ready.get("tls_port", 0), ready.get("http_port", 0))


def dicomnode(*arguments: str | Path, check: bool = True, timeout: float = 300.0) -> "subprocess.CompletedProcess[str]":
    """One command of the program, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "dicomnode", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | databases.environment_of([str(word) for word in arguments]),
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def answered(*arguments: str | Path) -> Any:
    """The JSON document that a command prints."""
    return json.loads(dicomnode(*arguments, "--json").stdout)


@contextmanager
def running_command(*arguments: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """A command, with --json, in a process group of its own; killed with all it started, if left running."""
    words = [sys.executable, "-m", "dicomnode", *map(str, arguments), "--json"]
    process = subprocess.Popen(
        words,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | databases.environment_of(words),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
