"""Random inputs: values that have broken decoders, valid inputs, and mutations of both."""

import json
from random import Random
from typing import Any

#: texts that are no number, no instant, no valid Unicode, or more than anyone expects
TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "1e400",
    "-1e308",
    "NaN",
    "Infinity",
    "1" + "0" * 400,
    "9" * 5000,
    "²",
    "٣",
    "0x10",
    "1_000",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-02-30",
    "2026-01-10T03:30:00Z",
    "24:00",
    "1768016112.25",
    "1768016112000",
    "-62135596800",
    "253402300799",
    "\ud800",
    "\udfff\ud800",
    "\x1b[2J",
    "a\nb",
    "\0",
    "\u202e",
    "\x9b1m",
    "é" * 50,
    "null",
    "true",
    "{",
    "[",
    "[" * 2000,
    '{"a":' * 40,
    "patchtst",
    "model.promoted",
    "a" * 64,
    "A" * 64,
    "/dev/zero",
    "/opt/quantum/ai_engine/models/../x",
    "../" * 100,
    "%s%n{0}{}",
    "${PATH}",
    "'\"\\",
    "x" * 300,
)
NUMBERS = (0, 1, -1, 0.5, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, 1e308, float("inf"), float("nan"), True)


def text(random: Random) -> str:
    """A text: from the list, or of random characters, sometimes long."""
    choice = random.random()
    if choice < 0.6:
        return random.choice(TEXTS)
    if choice > 0.9999:
        return random.choice(TEXTS) * random.randrange(50_000)
    return "".join(chr(random.randrange(random.choice((128, 0x11000)))) for _ in range(random.randrange(20)))


def value(random: Random, depth: int = 3) -> Any:
    """A JSON value of any kind."""
    choice = random.random()
    if choice < 0.4 or depth == 0:
        return text(random)
    if choice < 0.65:
        return random.choice(NUMBERS)
    if choice < 0.72:
        return None
    if choice < 0.86:
        return [value(random, depth - 1) for _ in range(random.randrange(4))]
    return {text(random): value(random, depth - 1) for _ in range(random.randrange(4))}


def changed(random: Random, valid: dict[str, Any]) -> dict[str, Any]:
    """`valid` with some fields replaced, removed or added."""
    found = dict(valid)
    for _ in range(random.randrange(4)):
        name = random.choice((*valid, text(random)))
        if random.random() < 0.2:
            found.pop(name, None)
        else:
            found[name] = value(random)
    return found


def as_json(random: Random, content: Any) -> str:
    """JSON, sometimes mutated; with halves of surrogate pairs as escapes, and numbers that are not finite."""
    encoded = json.dumps(content)
    return mutated(random, encoded.encode()).decode(errors="replace") if random.random() < 0.3 else encoded


def mutated(random: Random, content: bytes) -> bytes:
    """`content` with bytes changed, removed, repeated or inserted."""
    found = bytearray(content)
    for _ in range(random.randrange(1, 4)):
        position = random.randrange(len(found) + 1)
        match random.randrange(5):
            case 0 if position < len(found):
                found[position] = random.randrange(256)
            case 1:
                del found[position : position + random.randrange(1, 20)]
            case 2:
                found[position:position] = random.choice(TEXTS).encode(errors="surrogatepass")
            case 3:
                found[position:position] = found[position : position + random.randrange(200)]
            case _:
                del found[position:]
    return bytes(found)


def raw(random: Random, fields: dict[str, Any]) -> dict[bytes, bytes]:
    """The fields of an entry or a hash as Redis returns them, sometimes mutated."""
    found = {}
    for name, content in fields.items():
        shown = content if isinstance(content, str) else as_json(random, content)
        encoded = shown.encode(errors="surrogatepass")
        found[name.encode(errors="surrogatepass")] = mutated(random, encoded) if random.random() < 0.1 else encoded
    return found
