"""What systemd wants to know of a service of Type=notify: that it is ready, takes up settings, stops. sd_notify(3)."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

READY, STOPPING = "READY=1", "STOPPING=1"


def tell(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell who started us, where that is systemd; else nothing."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    where = "\0" + address[1:] if address.startswith("@") else address  # an abstract socket, unix(7)
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made:
        made.sendto(state.encode(), where)


def reloading() -> str:
    """Settings are being read again; READY ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
