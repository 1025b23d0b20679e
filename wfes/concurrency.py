"""What an instance counts as where its workflow's concurrency is limited, and how that is said.

A value of the input's field is told from another by its JSON text, which is what the log records: it is short, the
same in every process, and needs none of the user's code to be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, cast

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

VALUE_CHARS_MAX = 200


def slot_value(input: object, field: str) -> str:
    """What an instance with this input counts as.

    Args:
        input: The input, validated.
        field: The field that the workflow's concurrency counts by; empty: all instances count together.

    >>> slot_value({"customer": "c-1"}, "customer")
    '"c-1"'
    >>> slot_value({"customer": "c-1"}, "")
    ''
    """
    if not field:
        return ""
    if isinstance(input, Mapping):
        found = cast("Mapping[Any, Any]", input).get(field)
    else:
        found = getattr(input, field, None)
    try:
        text = to_json(found, fallback=repr).decode()
    except PydanticSerializationError:  # lone surrogates, which JSON has an escape for
        text = json.dumps(to_jsonable_python(found, fallback=repr), separators=(",", ":"))
    if len(text) > VALUE_CHARS_MAX:
        return "sha256:" + sha256(text.encode()).hexdigest()
    return text


def held_reason(by: str, value: str | None) -> str:
    """Why an instance is held that counts by this field with this value.

    >>> held_reason("customer", '"c-1"')
    'waits for a free slot: concurrency is limited for each customer, here "c-1"'
    """
    if not by:
        return "waits for a free slot: concurrency is limited"
    return f"waits for a free slot: concurrency is limited for each {by}" + (
        f", here {value}" if value else ""
    )
