"""What can go wrong, named. Each error says what happened, which thing, and what to do next.

Errors that reach an HTTP client carry a status, a code and, where one is to blame, a field; every service
answers them in one shape, `{"error": {"code", "message", "field"?}}`.
"""

from __future__ import annotations


class EmendError(Exception):
    """Root of everything Emend raises on purpose. The message may be shown to a user."""

    status = 500
    code = "internal"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def as_json(self) -> dict[str, dict[str, str]]:
        error = {"code": self.code, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        return {"error": error}


class InvalidInput(EmendError):
    """The request or file cannot be used as it is."""

    status = 400
    code = "invalid_input"


class InvalidImage(InvalidInput):
    code = "invalid_image"

    def __init__(self, message: str, *, field: str | None = "image") -> None:
        super().__init__(message, field=field)


class InvalidLabel(InvalidInput):
    code = "invalid_label"

    def __init__(self, message: str, *, field: str | None = "label") -> None:
        super().__init__(message, field=field)


class TooLarge(InvalidInput):
    status = 413
    code = "too_large"


class Forbidden(EmendError):
    """Another site's page may not ask for this, or the request came under a name that is not this machine's."""

    status = 403
    code = "forbidden"


class NotFound(EmendError):
    status = 404
    code = "not_found"


class Conflict(EmendError):
    """The request is sound but the present state forbids it."""

    status = 409
    code = "conflict"


class IdempotencyMismatch(EmendError):
    """An Idempotency-Key came again with another body."""

    status = 422
    code = "idempotency_mismatch"


class Unavailable(EmendError):
    """A part this needs is away; the same request may succeed later."""

    status = 503
    code = "unavailable"
    retry_after_seconds = 2


class TooBusy(Unavailable):
    """More is asked than can be answered."""

    code = "too_busy"
    retry_after_seconds = 1


class DiskFull(EmendError):
    status = 507
    code = "disk_full"


class ConfigurationError(EmendError):
    """A setting or a parameter is missing, unknown or out of range."""

    code = "configuration"
