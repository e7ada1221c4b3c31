"""What only the gateway answers; the rest is in core/errors.py."""

from __future__ import annotations

from core.errors import EmendError, Forbidden, NotFound


class GatewayError(EmendError):
    """Root of the gateway's own errors."""


class UnknownModel(NotFound, GatewayError):
    code = "unknown_model"


class BadAnswer(GatewayError):
    """The model server answered, but not with probabilities: never passed on."""

    status = 502
    code = "bad_answer"


class TooMany(GatewayError):
    """The actor has more waiting than one actor may."""

    status = 429
    code = "too_many"


class NotYours(Forbidden, GatewayError):
    """Only the actor who made it may do that."""

    code = "not_yours"
