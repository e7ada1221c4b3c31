"""Who says it: the `Emend-Actor` header, else a random cookie. Stored only as a salted hash.

Not security until there is sign-in; caps and erasure hang on it. The salt is the deployment's own, made once:
without it hashes of guessable names ("alice") could be looked up.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from fastapi import Request, Response

from core.errors import InvalidInput

COOKIE = "emend_actor"
HEADER = "Emend-Actor"
_YEAR_SECONDS = 365 * 24 * 3600
_PRINTABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,198}[\x21-\x7e])?")


class Actors:
    def __init__(self, data_dir: Path) -> None:
        self._salt = _salt(data_dir / "actor_salt")

    def known(self, request: Request) -> str | None:
        """The hash of who asks, if the request says who. Raises InvalidInput for a header that is no name."""
        given = request.headers.get(HEADER)
        if given is not None:
            if not _PRINTABLE.fullmatch(given):
                raise InvalidInput(f"{HEADER} must be 1 to 200 printable ASCII characters", field=HEADER)
            return self._hashed(given)
        cookie = request.cookies.get(COOKIE, "")
        return self._hashed(cookie) if _PRINTABLE.fullmatch(cookie) else None

    def introduce(self, response: Response, idempotency_key: str | None) -> str:
        """Gives somebody new a cookie, and returns the hash that stands for it.

        With a key the cookie follows from it, so that a repeated request whose first answer got lost, cookie and
        all, comes from the same actor and is kept once.
        """
        if idempotency_key is None:
            token = secrets.token_urlsafe(24)
        else:
            token = hmac.new(self._salt, b"key " + idempotency_key.encode(), hashlib.sha256).hexdigest()[:32]
        response.set_cookie(COOKIE, token, max_age=_YEAR_SECONDS, httponly=True, samesite="lax")
        return self._hashed(token)

    def _hashed(self, name: str) -> str:
        return hashlib.sha256(self._salt + name.encode()).hexdigest()


def _salt(path: Path) -> bytes:
    """Made once, readable by its owner only; of two gateways that start together one wins."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # unlike a rename, a link never replaces
            os.link(temporary, path)
        temporary.unlink()
    return path.read_bytes()
