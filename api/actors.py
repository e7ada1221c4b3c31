"""Who says it: the `Emend-Actor` header, else a random cookie. Stored only as a salted hash.

Not security until there is sign-in; caps and erasure hang on it. The salt is the deployment's own, made once:
without it hashes of guessable names ("alice") could be looked up. With an object store it is kept there, the same for
all gateways; predictions do not wait for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

import anyio
from fastapi import Request, Response
from sqlalchemy import func, select

from core import objects, telemetry
from core.database import session
from core.errors import InvalidInput, Unavailable

SALT_LOCK = 0x73616C74  # an advisory lock of PostgreSQL
FETCH_AGAIN_SECONDS = 2.0
COOKIE = "emend_actor"
HEADER = "Emend-Actor"
_YEAR_SECONDS = 365 * 24 * 3600
_log = telemetry.get_logger("actors")
_PRINTABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,198}[\x21-\x7e])?")


class Actors:
    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "actor_salt"
        self._known_salt = _salt_on_disk(self._path) if objects.store() is None else None

    async def prepare(self) -> None:
        """Returns when the salt is here, however long the object store or the database is away."""
        while self._known_salt is None:
            try:
                self._known_salt = await anyio.to_thread.run_sync(self._fetch)
            except Unavailable as exc:
                _log.warning("no salt yet", reason=exc.message)
                await anyio.sleep(FETCH_AGAIN_SECONDS)

    def known(self, request: Request) -> str | None:
        """The hash of who asks, if the request says who.

        Raises InvalidInput for a header that is no name, StoreUnavailable while the salt is not here.
        """
        name = _name_of(request)
        return None if name is None else self._hashed(name)

    def known_by_now(self, request: Request) -> str | None:
        """As `known`, and None while the salt is not here: a prediction does without."""
        name = _name_of(request)
        return None if name is None or self._known_salt is None else self._hashed(name)

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

    @property
    def _salt(self) -> bytes:
        if self._known_salt is None:
            raise objects.StoreUnavailable("the object store has not answered since this gateway started")
        return self._known_salt

    def _fetch(self) -> bytes:
        """The store's; where it has none yet, what the disk had before there was a store, or a new one."""
        store = objects.store()
        assert store is not None
        with session() as db:
            db.execute(select(func.pg_advisory_xact_lock(SALT_LOCK)))  # of two gateways one makes it
            salt = store.get(self._path.name)
            if salt is None:
                salt = self._path.read_bytes() if self._path.exists() else secrets.token_bytes(32)
                store.put(self._path.name, salt)
        return salt


def _name_of(request: Request) -> str | None:
    """Raises InvalidInput."""
    given = request.headers.get(HEADER)
    if given is not None:
        if not _PRINTABLE.fullmatch(given):
            raise InvalidInput(f"{HEADER} must be 1 to 200 printable ASCII characters", field=HEADER)
        return given
    cookie = request.cookies.get(COOKIE, "")
    return cookie if _PRINTABLE.fullmatch(cookie) else None


def _salt_on_disk(path: Path) -> bytes:
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
