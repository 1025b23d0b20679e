"""Ids and names: how an instance's id is made, and what ids and names may look like.

Made ids are ordered by time, so that new rows go to the end of an index. An id that starts with `$` names a stream of
the engine's own (a key, a schedule, the audit seal), which users can therefore never reach by an id.
"""

from __future__ import annotations

from hashlib import sha256

ID_CHARS = 26
NAME_CHARS_MAX = 200
RESERVED = "$"

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_MILLIS_BITS = 48
_RANDOM_BYTES = 10


def new_id(millis: int, random80: bytes) -> str:
    """A 26-character id in Crockford's base 32, lower case, that sorts by time.

    Args:
        millis: Milliseconds since the Unix epoch, below 2**48.
        random80: 10 random bytes.

    >>> new_id(1_700_000_000_000, bytes(10))
    '01hf7yat000000000000000000'
    """
    if not 0 <= millis < 1 << _MILLIS_BITS:
        raise ValueError(f"millis is {millis!r}; it must be at least 0 and below 2**{_MILLIS_BITS}")
    if len(random80) != _RANDOM_BYTES:
        raise ValueError(f"random80 has {len(random80)} bytes; it must have {_RANDOM_BYTES}")
    number = millis << 80 | int.from_bytes(random80, "big")
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def check_id(text: str, what: str = "id") -> str:
    """`text`, if it can be an instance's id: 1 to 200 characters, none of them a control character, no `$` first.

    Args:
        text: The id.
        what: The option's name, for the error.

    Raises:
        TypeError: It is not a str.
        ValueError: It cannot be an id.
    """
    _check_text(text, what)
    if text.startswith(RESERVED):
        raise ValueError(
            f"{what} is {text!r}; it must not start with {RESERVED!r}, which the engine keeps for itself"
        )
    if not text.isprintable() and any(char < " " or "\x7f" <= char <= "\x9f" for char in text):
        raise ValueError(f"{what} is {text!r}; it must not hold control characters")
    return text


def check_name(text: str, what: str = "name") -> str:
    """`text`, if it can be the name of a step or wait: 1 to 200 characters, none of them `/` or `#`.

    Args:
        text: The name.
        what: What it is for, for the error, such as "step name".

    Raises:
        TypeError: It is not a str.
        ValueError: It cannot be a name.
    """
    _check_text(text, what)
    if "/" in text or "#" in text:
        raise ValueError(
            f"{what} is {text!r}; it must not hold '/' or '#', which separate the parts of a path"
        )
    return text


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} is {text!r}; it must be a str")
    if not text:
        raise ValueError(f"{what} is empty; it must have 1 to {NAME_CHARS_MAX} characters")
    if len(text) > NAME_CHARS_MAX:
        raise ValueError(
            f"{what} {text[:40]!r}… has {len(text)} characters; at most {NAME_CHARS_MAX} are allowed"
        )
    if (found := flaw(text)) is not None:
        raise ValueError(f"{what} is {text!r}; it must not hold {found}")


def flaw(text: str) -> str | None:
    """What a text holds that some database keeps in no column, in words; None: nothing of the kind.

    It is the same for every database, so that what works on one works on the others.
    """
    if "\0" in text:
        return "null characters, which not every database stores"
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        return "lone surrogates, which are not text"
    return None


def flawless(text: str) -> str:
    """A text for people, with its flaws written as Python writes them.

    >>> flawless("a\\0b")
    'a\\\\x00b'
    """
    if flaw(text) is None:
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def derived_id(*parts: str) -> str:
    """An id made of these parts alone: 26 characters like `new_id`'s, the same whenever the parts are the same.

    SHA-256 cut to 130 bits, so two different lists of parts never meet in practice. It does not sort by time.
    """
    text = "\n".join(f"{len(part)}:{part}" for part in parts)
    number = int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in range(26))
