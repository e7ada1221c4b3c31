"""Labels as people type them: Unicode NFC, single spaces, checked before they touch a disk or a database.

Comparison is case-insensitive (`key_of`): "Cat" and "cat" are one category.
"""

from __future__ import annotations

import unicodedata

from core.errors import InvalidLabel

MAX_LABEL_CHARACTERS = 64
MAX_LABEL_BYTES = 200  # a file system's name has at most 255
_FORBIDDEN = set('/\\:*?"<>|\x00')  # no path tricks, on any system


def normalise(label: str) -> str:
    """Raises InvalidLabel, which says what is wrong without repeating a long label."""
    if len(label) > 4 * MAX_LABEL_CHARACTERS:
        raise InvalidLabel(f"label has {len(label)} characters; at most {MAX_LABEL_CHARACTERS} are allowed")
    text = " ".join(unicodedata.normalize("NFC", label).split())
    if not text:
        raise InvalidLabel("label is empty; say what the image shows")
    bad = sorted({c for c in text if c in _FORBIDDEN or unicodedata.category(c)[0] == "C"})
    if bad:
        named = ", ".join(f"U+{ord(c):04X}" for c in bad[:5])
        raise InvalidLabel(
            f"label has characters that are not allowed ({named}); use letters, digits and spaces"
        )
    if len(text) > MAX_LABEL_CHARACTERS or len(text.encode()) > MAX_LABEL_BYTES:
        raise InvalidLabel(
            f"label has {len(text)} characters; at most {MAX_LABEL_CHARACTERS} ({MAX_LABEL_BYTES} bytes) are allowed"
        )
    if not any(unicodedata.category(c)[0] in "LNS" for c in text):
        raise InvalidLabel("label has no letter, digit or symbol; say what the image shows")
    if text.startswith("."):
        raise InvalidLabel("label starts with a dot; start it with a letter")
    return text


def key_of(label: str) -> str:
    """What two spellings of one category have in common."""
    return unicodedata.normalize("NFC", label.casefold())
