"""Small changes to files, at random."""

import json
import random
from typing import Any

NUMBERS = [
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
]

#: In place of a value of a JSON document, as its text.
VALUES = [
    *(
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e999",
        "-1e308",
        "NaN",
        "-Infinity",
        "9" * 30,
        "9" * 5000,
        "10000000000000000000",
    ),
    *(
        '""',
        '"x"',
        r'"\u0000"',
        r'"\ud800"',
        r'"\u001b[2J"',
        '"../../x"',
        '"/etc/passwd"',
        '"' + "y" * 5000 + '"',
    ),
    *(
        "[]",
        "{}",
        "[[]]",
        '{"": {}}',
        '{"a": 1, "a": 2}',
        "[" * 100 + "]" * 100,
        "[" * 20_000,
        '{"a":' * 5000,
        "[1, 2]",
        '[["x", [1]]]',
    ),
]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to four changes: bits, bytes, numbers, truncation, parts that go, come twice or move."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        _change(changed, chance)
    return bytes(changed)


def mutated_json(content: bytes, chance: random.Random) -> bytes:
    """A document with another value somewhere, or without one; one in four is changed as bytes."""
    if chance.random() < 0.25:
        return mutated(content, chance)
    document = json.loads(content)
    places = list(_places(document))
    parent, key = chance.choice(places) if places else (None, None)
    mark = f"<{chance.random()}>"
    if parent is None:
        return chance.choice(VALUES).encode()
    if isinstance(parent, dict) and chance.random() < 0.2:
        del parent[key]
    else:
        parent[key] = mark
    return json.dumps(document).replace(f'"{mark}"', chance.choice(VALUES)).encode()


def _places(value: Any) -> Any:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _change(content: bytearray, chance: random.Random) -> None:
    size = len(content)
    place = chance.randrange(size + 1)
    length = min(chance.choice([1, 2, 4, 8, 16, 100, 1000]), size - place)
    kind = chance.randrange(8)
    if kind == 0 and place < size:
        content[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        content[place : place + length] = bytes(chance.randrange(256) for _ in range(length))
    elif kind in (2, 3):
        width = chance.choice([1, 2, 4, 8])
        number = chance.choice(NUMBERS) % 256**width
        content[place : place + width] = number.to_bytes(width, chance.choice(["little", "big"]))
    elif kind == 4:
        del content[place:]
    elif kind == 5:
        del content[place : place + length]
    elif kind == 6:
        content[place:place] = content[place : place + length] * chance.choice([1, 2, 50])
    else:
        other = chance.randrange(size + 1)
        content[place : place + length] = content[other : other + length]
