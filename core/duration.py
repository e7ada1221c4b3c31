"""A length of time as people say it."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """ "12 s", "3 min 20 s", "2 h 05 min": as the pages say it, to the second, for nobody knows it better."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
