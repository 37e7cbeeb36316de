"""An interpreter of pickle's opcodes that can build data and nothing else.

``pickle.Unpickler`` with a closed ``find_class`` runs no code, but a hostile file can still exhaust it:
memory by a length that the file merely claims, or by a memo index of four billion; time by hashing a tuple
that shares its halves forty times over. So the opcodes are interpreted here. Nothing here imports by name: a
name in a pickle is looked up in the caller's table, and only the table's own functions are called.

Opcodes that picklers do not write for data from protocol 2 on are refused: protocol 0's text forms, extension
codes, ``INST``, out-of-band buffers. Of Python 2's byte strings, short ones are names and become text
(Latin-1); long ones stay bytes.
"""

import io
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol, runtime_checkable

MAX_OPCODES = 300_000  # a reference's file for 1024×1024 pixels has about 27,000
MAX_CALLS = 20_000  # of which 2,200 are calls
MAX_ARGUMENTS = 16
MAX_INTEGER_BYTES = 8  # more would allow many dictionary keys with the same hash
MAX_LINE = 256  # bytes of a module's or a class's name


class DamagedPickle(Exception):
    """The bytes are not a pickle, or one that asks for something that no data needs."""


class ForbiddenName(Exception):
    """The pickle refers to a name that is not in the table. The message is the dotted name."""


@dataclass(frozen=True)
class Known:
    """A name that pickles may refer to.

    Attributes:
        name: the dotted name.
        build: takes the pickle's arguments, returns data; None where the name may be mentioned and not
            called.
    """

    name: str
    build: Callable[..., Any] | None = None


@runtime_checkable
class Buildable(Protocol):
    """A value that takes its state in a second step (``BUILD``)."""

    def set_state(self, state: Any) -> None:
        """Check and keep ``state``. Raises :class:`ValueError` or :class:`TypeError`."""


def read_pickle(
    stream: IO[bytes],
    names: Mapping[tuple[str, str], Known],
    load_persistent: Callable[[Any], Any] | None = None,
    max_opcodes: int = MAX_OPCODES,
    max_calls: int = MAX_CALLS,
) -> Any:
    """Read the next pickle of ``stream``, and leave the position behind it.

    Whatever the bytes are, memory is bounded by the stream's length plus some hundred megabytes, and time by
    some seconds, if the functions in ``names`` take constant time.

    Args:
        stream: open for reading bytes.
        names: what pickles may refer to, by ``(module, name)``.
        load_persistent: turns a persistent id into a value; None refuses such ids.
        max_opcodes: how many opcodes the pickle may have.
        max_calls: how many of these may be calls, which cost more.

    Returns:
        None, numbers, text, bytes, lists, tuples, dictionaries and sets (with keys that are text, integers,
        booleans or None), :class:`Known` names, and what their ``build`` and ``load_persistent`` return.
        Containers may share parts and may contain themselves.

    Raises:
        ForbiddenName: a name that is not in ``names``.
        DamagedPickle: anything else that is wrong.
    """
    machine = _Machine(_Reader(stream), names, load_persistent, max_calls)
    try:
        return machine.run(max_opcodes)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise DamagedPickle(f"{type(error).__name__}: {error}") from error


def check_key(key: Any) -> Any:
    """``key`` if it may be a key or a set's member. Raises :class:`TypeError`.

    Tuples may not: hashing one can take forever.
    """
    if key is None or type(key) in (str, int, bool):
        return key
    raise TypeError(f"a {type(key).__name__} as key")


class _Reader:
    """Reads no more than the stream has, and allocates no memory for more."""

    def __init__(self, stream: IO[bytes]) -> None:
        if not stream.seekable():
            stream = io.BytesIO(stream.read())
        start = stream.tell()
        self.left = stream.seek(0, io.SEEK_END) - start
        stream.seek(start)
        self.stream = stream

    def read(self, count: int) -> bytes:
        if count > self.left:
            raise DamagedPickle("it ends too early")
        self.left -= count
        return self.stream.read(count)

    def line(self) -> str:
        data = self.stream.readline(MAX_LINE)
        if not data.endswith(b"\n"):
            raise DamagedPickle("a name without an end")
        self.left -= len(data)
        return data[:-1].decode("utf-8")


class _Machine:
    def __init__(
        self,
        reader: _Reader,
        names: Mapping[tuple[str, str], Known],
        load_persistent: Callable[[Any], Any] | None,
        max_calls: int,
    ) -> None:
        self.reader = reader
        self.names = names
        self.load_persistent = load_persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.calls = 0
        self.max_calls = max_calls

    def run(self, max_opcodes: int) -> Any:
        for _ in range(max_opcodes):
            code = self.reader.read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise DamagedPickle(f"opcode {code!r} is unknown or not allowed")
            operation(self)
        raise DamagedPickle(f"it has more than {max_opcodes} opcodes")

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self.reader.read(struct.calcsize(layout)))[0]

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def find(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise DamagedPickle("a name that is not text")
        if (module, name) not in self.names:
            raise ForbiddenName(f"{module}.{name}")
        self.stack.append(self.names[module, name])

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Known or function.build is None:
            raise DamagedPickle("a call of something that is not a function")
        if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
            raise DamagedPickle(f"a call of {function.name} with unusual arguments")
        self.count_call()
        self.stack.append(function.build(*arguments))

    def count_call(self) -> None:
        self.calls += 1
        if self.calls > self.max_calls:
            raise DamagedPickle(f"it has more than {self.max_calls} calls")

    def build(self) -> None:
        self.count_call()
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Buildable):
            target.set_state(state)
        elif type(target) is not dict or state:  # a subclass of dict without attributes may say so
            raise DamagedPickle(f"a state for a {type(target).__name__}")

    def persistent(self) -> None:
        if self.load_persistent is None:
            raise ForbiddenName("an object outside the file")
        self.stack.append(self.load_persistent(self.stack.pop()))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        self.container(list).extend(items)

    def add(self, items: list[Any]) -> None:
        self.container(set).update(check_key(item) for item in items)

    def set_items(self, items: list[Any]) -> None:
        self.container(dict).update(_dictionary(items))

    def container(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise DamagedPickle(f"a {type(self.stack[-1]).__name__} in place of a {kind.__name__}")
        return self.stack[-1]


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    return {check_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _integer(data: bytes) -> int:
    if len(data) > MAX_INTEGER_BYTES:
        raise DamagedPickle(f"an integer of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _latin1(data: bytes) -> str:
    return data.decode("latin1")


_Operation = Callable[[_Machine], Any]


def _push(make: Callable[[_Machine], Any]) -> _Operation:
    return lambda m: m.stack.append(make(m))


def _last(count: int) -> _Operation:
    def operation(m: _Machine) -> None:
        if len(m.stack) < count:
            raise DamagedPickle("the stack is empty")
        items = tuple(m.stack[len(m.stack) - count :])
        del m.stack[len(m.stack) - count :]
        m.stack.append(items)

    return operation


def _counted(layout: str, decode: Callable[[bytes], Any]) -> _Operation:
    return lambda m: m.stack.append(decode(m.reader.read(m.unpack(layout))))


def _pair(operation: Callable[[_Machine, list[Any]], None], count: int) -> _Operation:
    def pop_and_run(m: _Machine) -> None:
        items = [m.stack.pop() for _ in range(count)][::-1]
        operation(m, items)

    return pop_and_run


def _stack_global(m: _Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.find(module, name)


_OPERATIONS: dict[bytes, _Operation] = {
    # Frames and the protocol's number concern readers that buffer.
    pickle.PROTO: lambda m: m.reader.read(1),
    pickle.FRAME: lambda m: m.reader.read(8),
    # Constants and numbers.
    pickle.NONE: _push(lambda m: None),
    pickle.NEWTRUE: _push(lambda m: True),
    pickle.NEWFALSE: _push(lambda m: False),
    pickle.BININT: _push(lambda m: m.unpack("<i")),
    pickle.BININT1: _push(lambda m: m.unpack("<B")),
    pickle.BININT2: _push(lambda m: m.unpack("<H")),
    pickle.BINFLOAT: _push(lambda m: m.unpack(">d")),
    pickle.LONG1: _counted("<B", _integer),
    # Bytes and text, with lengths of one, four or eight bytes.
    pickle.SHORT_BINBYTES: _counted("<B", bytes),
    pickle.BINBYTES: _counted("<I", bytes),
    pickle.BINBYTES8: _counted("<Q", bytes),
    pickle.BYTEARRAY8: _counted("<Q", bytes),
    pickle.SHORT_BINSTRING: _counted("<B", _latin1),
    pickle.BINSTRING: _counted("<I", bytes),
    pickle.SHORT_BINUNICODE: _counted("<B", _text),
    pickle.BINUNICODE: _counted("<I", _text),
    pickle.BINUNICODE8: _counted("<Q", _text),
    # Containers.
    pickle.MARK: lambda m: m.marks.append(len(m.stack)),
    pickle.EMPTY_TUPLE: _push(lambda m: ()),
    pickle.TUPLE1: _last(1),
    pickle.TUPLE2: _last(2),
    pickle.TUPLE3: _last(3),
    pickle.TUPLE: _push(lambda m: tuple(m.since_mark())),
    pickle.EMPTY_LIST: _push(lambda m: []),
    pickle.LIST: _push(lambda m: m.since_mark()),
    pickle.APPEND: _pair(_Machine.extend, 1),
    pickle.APPENDS: lambda m: m.extend(m.since_mark()),
    pickle.EMPTY_DICT: _push(lambda m: {}),
    pickle.DICT: _push(lambda m: _dictionary(m.since_mark())),
    pickle.SETITEM: _pair(_Machine.set_items, 2),
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.EMPTY_SET: _push(lambda m: set()),
    pickle.ADDITEMS: lambda m: m.add(m.since_mark()),
    pickle.FROZENSET: _push(lambda m: {check_key(item) for item in m.since_mark()}),
    pickle.POP: lambda m: m.stack.pop(),
    pickle.POP_MARK: lambda m: m.since_mark(),
    # The memo.
    pickle.BINPUT: lambda m: m.put(m.unpack("<B")),
    pickle.LONG_BINPUT: lambda m: m.put(m.unpack("<I")),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.BINGET: _push(lambda m: m.memo[m.unpack("<B")]),
    pickle.LONG_BINGET: _push(lambda m: m.memo[m.unpack("<I")]),
    # Names, and calls of what the table has for them.
    pickle.GLOBAL: lambda m: m.find(m.reader.line(), m.reader.line()),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.persistent,
}
