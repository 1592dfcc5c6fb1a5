"""What can be wrong with an HTTP request; `problems` tells it, and every error from below, with its status.

WebError
├── BadRequest         400  a path, parameter, header or body that means nothing
├── NotAuthenticated   401  no token where one is needed, or an unknown one
├── NotFound           404  no such resource
├── NotAcceptable      406  nothing of what the Accept header takes can be made of the resource
├── BodyTooSlow        408  a body that pauses too long
├── BodyTooLarge       413  a body over the limit
└── UnsupportedBody    415  a body of a media type that the resource does not take
"""

from typing import ClassVar

from dicomnode.errors import DicomNodeError


class WebError(DicomNodeError):
    """Root of the errors of this package. Its text is fit for a client and quotes nothing of its request."""

    status: ClassVar[int] = 500


class BadRequest(WebError):
    """A path, parameter, header or body that means nothing."""

    status = 400


class NotAuthenticated(WebError):
    """No token where one is needed, or an unknown one."""

    status = 401


class NotFound(WebError):
    """No such resource."""

    status = 404


class NotAcceptable(WebError):
    """Nothing of what the Accept header takes can be made of the resource."""

    status = 406


class BodyTooSlow(WebError):
    """A body that pauses too long, or a client that left in the middle of it."""

    status = 408


class BodyTooLarge(WebError):
    """A body over the limit."""

    status = 413


class UnsupportedBody(WebError):
    """A body of a media type that the resource does not take."""

    status = 415
