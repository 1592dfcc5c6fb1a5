"""A request and what answers it in, the answer made in a thread out, as soon as there is room for one of its kind.

For a client that has left while it waited nothing is done: a crowd that asks and goes takes no thread from others.
"""

from collections.abc import Callable
from typing import Any, Final

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.requests import Request
from starlette.responses import Response

GONE: Final = 499  # as nginx counts it; nobody reads it


async def answered(
    request: Request, room: CapacityLimiter | None, plain: Callable[..., Response], *arguments: Any
) -> Response:
    """What `plain` makes of the arguments. `room`: how many of this kind run at once; None: of any other kind."""
    async with room or anyio.to_thread.current_default_thread_limiter():
        if await request.is_disconnected():
            return Response(status_code=GONE)
        return await anyio.to_thread.run_sync(plain, *arguments, limiter=CapacityLimiter(1))  # counted already
