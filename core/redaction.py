"""What no log and no error report may hold: passwords, keys, images, and who sent a request.

    redaction = Redaction.of(settings())
    redaction.of_field("reason", "postgresql://emend:hunter2@db/emend refuses")    # …emend:***@db/emend refuses

Code does not log such things on purpose; this is for what slips in with an error's text or a library's line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from core.errors import ConfigurationError
from core.settings import Settings, settings

HIDDEN = "***"
SHORTEST_SECRET = 8  # characters; a shorter one may be a part of any word, and is hidden in addresses only
LONGEST_WORD = 200  # characters without a space: what is longer is an image, or nothing that anybody reads

_PASSWORD_IN_ADDRESS = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_LONG_WORD = re.compile(rf"[A-Za-z0-9+/=_-]{{{LONGEST_WORD},}}")
_SIGNATURE = re.compile(r"(?i)((?:X-Amz-)?(?:Signature|Credential|Security-Token)=)[^&\s\"']+")
_HIDDEN_FIELDS = re.compile(
    r"(?i)authorization|cookie|emend[-_]actor|password|passwd|secret|api[-_]?key|dsn$"
)


@lru_cache(maxsize=1_000)  # names are few, and the search is most of what a line costs
def _is_hidden(name: str) -> bool:
    return _HIDDEN_FIELDS.search(name) is not None


@dataclass(frozen=True)
class Redaction:
    """secrets: none of them is a part of another that comes before it."""

    secrets: tuple[str, ...]

    @classmethod
    def of(cls, chosen: Settings) -> Redaction:
        found: set[str] = set()
        for field in Settings.model_fields:
            value = getattr(chosen, field)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
                found.add(value)
            if isinstance(value, str) and "://" in value:
                password = urlsplit(value).password
                found |= {password, unquote(password)} if password else set()
        return cls(tuple(sorted((each for each in found if len(each) >= SHORTEST_SECRET), key=len)[::-1]))

    def of_field(self, name: str, value: Any) -> Any:
        """The value of a field of that name, and all below it, without what must not be told."""
        if _is_hidden(name):
            return HIDDEN
        if isinstance(value, str):
            return self.of_text(value)
        if isinstance(value, Mapping):
            return {key: self.of_field(str(key), each) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.of_field("", each) for each in value]
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        return value

    def of_text(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        if "://" in text:
            text = _PASSWORD_IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
        if "=" in text:
            text = _SIGNATURE.sub(rf"\1{HIDDEN}", text)
        if len(text) >= LONGEST_WORD:
            text = _LONG_WORD.sub(lambda found: f"<{len(found[0])} characters>", text)
        return text


def redacted(message: str) -> str:
    """Of this deployment's secrets. Settings that cannot be read hold none that anybody could have used."""
    try:
        return Redaction.of(settings()).of_text(message)
    except ConfigurationError:
        return message
