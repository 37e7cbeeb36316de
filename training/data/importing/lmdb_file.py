"""Reading the records of an LMDB database file, such as LSUN's ``data.mdb``.

The lmdb library maps the file into memory and trusts the numbers in it, so that a truncated or altered file
ends the process (SIGBUS, SIGSEGV). Here every number is checked before it is used, and what lies outside the
file is an error. The format is that of LMDB 0.9 on 64-bit little-endian machines: pages of one size, of which
the first two describe the database, and below its root a B+tree of branch pages, leaf pages, and overflow
pages for large values.
"""

import array
import os
import struct
from collections.abc import Iterator

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE_HEADER = struct.Struct("<QHHHH")  # number, unused, kind, end of the list of nodes, end of the free space
META = struct.Struct("<II16x")  # magic number and version; address and size of the map
# page size (of the first tree), flags, depth, pages of three kinds, records, root
TREE = struct.Struct("<IHHQQQQQ")
# of a branch: the child's page in 48 bits; of a leaf: size of the value in 32 bits, flags; size of the key
NODE = struct.Struct("<HHHH")
BRANCH, LEAF, OVERFLOW = 1, 2, 4
# a node's flag: the value is the number of an overflow page. The other flags are for databases in databases
BIG_VALUE = 1
EMPTY = 2**64 - 1  # in place of a root
PAGE_SIZES = [2**power for power in range(9, 17)]
MAX_DEPTH = 32


class LmdbFile:
    """The records of a database, by number, in the order of their keys.

    Instances may be forked or pickled: each process opens the file itself.

    Attributes:
        keys: of the records.

    Raises:
        ValueError: the file is of another kind or damaged; also from :meth:`read`.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._descriptor: int | None = None
        self._pid = 0
        self.keys: list[bytes] = []
        self._starts, self._sizes = array.array("Q"), array.array("Q")
        self._page_size = 0
        self._file_size = os.stat(self.path).st_size
        root, count = self._newest_root()
        pages_left = [self._file_size // self._page_size]
        if root != EMPTY:
            for key, start, size in self._records(root, 0, pages_left):
                self.keys.append(key)
                self._starts.append(start)
                self._sizes.append(size)
        if len(self.keys) != count:
            raise ValueError(f"it has {len(self.keys)} records where it says {count}")
        self.close()

    def read(self, index: int) -> bytes:
        """The value of a record."""
        return self._bytes(self._starts[index], self._sizes[index])

    def close(self) -> None:
        """Close this process's descriptor; reading opens a new one."""
        if self._descriptor is not None and self._pid == os.getpid():
            os.close(self._descriptor)
        self._descriptor = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptor": None}

    def _newest_root(self) -> tuple[int, int]:
        """Root page and number of records, from the newer of the two descriptions."""
        first = self._description(0)
        self._page_size = first[3]
        if self._page_size not in PAGE_SIZES:
            raise ValueError(f"it has pages of {self._page_size} bytes")
        _transaction, root, count, _ = max(first, self._description(self._page_size))
        return root, count

    def _description(self, start: int) -> tuple[int, int, int, int]:
        """Number of the transaction, root page, number of records, page size."""
        head = self._bytes(start, PAGE_HEADER.size + META.size + 2 * TREE.size + 16)
        magic, version = META.unpack_from(head, PAGE_HEADER.size)
        if magic != MAGIC or version != VERSION:
            raise ValueError("it does not begin as LMDB files of 64-bit machines do")
        trees = PAGE_HEADER.size + META.size
        page_size = TREE.unpack_from(head, trees)[0]
        *_, count, root = TREE.unpack_from(head, trees + TREE.size)
        (transaction,) = struct.unpack_from("<Q", head, trees + 2 * TREE.size + 8)
        return transaction, root, count, page_size

    def _records(self, number: int, depth: int, pages_left: list[int]) -> Iterator[tuple[bytes, int, int]]:
        """Key, start and size of each record below a page. ``pages_left`` counts down to end circles."""
        pages_left[0] -= 1
        if depth > MAX_DEPTH or pages_left[0] < 0:
            raise ValueError("its pages refer to each other in a circle")
        start = number * self._page_size
        page = self._bytes(start, self._page_size)
        found, _, kind, lower, upper = PAGE_HEADER.unpack_from(page)
        if (
            found != number
            or kind not in (BRANCH, LEAF)
            or not PAGE_HEADER.size <= lower <= upper <= self._page_size
        ):
            raise ValueError(f"page {number} is damaged")
        used = 0
        for (place,) in struct.iter_unpack("<H", page[PAGE_HEADER.size : lower - lower % 2]):
            low, high, flags, key_size = NODE.unpack(
                page[place : place + NODE.size].ljust(NODE.size, b"\xff")
            )
            begin = place + NODE.size + key_size
            used += NODE.size + key_size
            if place < upper or begin > self._page_size or used > self._page_size:
                raise ValueError(f"page {number} is damaged")
            if kind == BRANCH:
                yield from self._records(low | high << 16 | flags << 32, depth + 1, pages_left)
                continue
            size = low | high << 16
            if flags not in (0, BIG_VALUE) or begin + (8 if flags else size) > self._page_size:
                raise ValueError(f"page {number} is damaged, or a key in it has several values")
            value = self._overflow(page, begin) if flags else start + begin
            if value + size > self._file_size:
                raise ValueError(
                    f"it ends before the value of {page[place + NODE.size : begin]!r:.100}: the file is "
                    "truncated"
                )
            yield page[place + NODE.size : begin], value, size

    def _overflow(self, page: bytes, place: int) -> int:
        """The start of a large value, whose page number stands at ``place``."""
        (number,) = struct.unpack_from("<Q", page, place)
        start = number * self._page_size
        found, _, kind, _, _ = PAGE_HEADER.unpack(self._bytes(start, PAGE_HEADER.size))
        if found != number or kind != OVERFLOW:
            raise ValueError(f"page {number} is damaged")
        return start + PAGE_HEADER.size

    def _bytes(self, start: int, size: int) -> bytes:
        if self._descriptor is None or self._pid != os.getpid():
            self._descriptor, self._pid = os.open(self.path, os.O_RDONLY), os.getpid()
        if start + size > self._file_size:
            raise ValueError(f"it ends before byte {start + size}, which it refers to: the file is truncated")
        content = os.pread(self._descriptor, size, start)
        if len(content) != size:
            raise ValueError("it has become shorter while it was read")
        return content
