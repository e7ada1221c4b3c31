"""What pydantic finds wrong, in plain sentences: for answers over HTTP and for settings.

    told("limit", {"type": "less_than_equal", "ctx": {"le": 500}, ...})   # "limit must be at most 500"

No sentence repeats what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_CHARACTERS = 300
_UUID = "must be a UUID, such as 019a1c7e-5f0a-7c3e-8b1d-2f6a9c4e7d10"

# By pydantic's type of the fault; https://docs.pydantic.dev/latest/errors/validation_errors/
_SENTENCES = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "string_type": "must be text",
    "string_unicode": "is no valid text",
    "string_pattern_mismatch": "has characters that are not allowed",
    "string_too_long": "has more than {max_length} characters",
    "string_too_short": "has fewer than {min_length} characters",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "too_long": "has more than {max_length} entries",
    "too_short": "has fewer than {min_length} entries",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "uuid_type": _UUID,
    "uuid_parsing": _UUID,
    "uuid_version": _UUID,
}


def told(name: str, fault: Mapping[str, Any]) -> str:
    """fault: one of `ValidationError.errors()`. Of a type that is not listed here, pydantic's own words."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "string_too_short" and context["min_length"] == 1:
        return f"{name} is empty"
    if kind in _SENTENCES:
        return f"{name} {_SENTENCES[kind].format_map(context)}"[:_MOST_CHARACTERS]
    if kind == "value_error" and "UploadFile" in fault["msg"]:  # FastAPI's own check
        return f"{name} must be a file, sent as multipart/form-data with a file name"
    said = str(context["error"]) if kind == "value_error" else fault["msg"]
    return f"{name}: {said}"[:_MOST_CHARACTERS]
