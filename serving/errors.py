"""What the model server answers when it cannot answer, in MLflow's shape: `{"error_code", "message"}`.

`code` is one of MLflow's error codes (mlflow/protos/databricks.proto), so MLflow's own client understands it.
"""

from __future__ import annotations

from core.errors import EmendError


class ServingError(EmendError):
    """Root of what the model server raises."""

    code = "INTERNAL_ERROR"


class BadRequest(ServingError):
    """The body is not what the model takes. The message never repeats the body."""

    status = 400
    code = "BAD_REQUEST"


class UnsupportedContentType(BadRequest):
    status = 415


class BodyTooLarge(BadRequest):
    status = 413


class BodyTooSlow(BadRequest):
    status = 408


class UnknownModel(ServingError):
    """No version of that model is loaded, and the registry has none either."""

    status = 404
    code = "RESOURCE_DOES_NOT_EXIST"


class UnknownVersion(UnknownModel):
    """The registry has no such version of the model, or not its files any more."""


class UnusableVersion(ServingError):
    """The version was fetched and does not load, or answers its example wrongly."""

    status = 409
    code = "INVALID_STATE"

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


class NotReady(ServingError):
    """The default model has no version yet, or the server is full; the same request may succeed later."""

    status = 503
    code = "TEMPORARILY_UNAVAILABLE"
    retry_after_seconds = 1


class BadAnswer(ServingError):
    """The live version answered this input with something that is no probability."""


class VersionRejected(ServingError):
    """A version does not load, or answers its example wrongly. It never goes live."""
