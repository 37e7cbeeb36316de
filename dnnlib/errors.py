"""The exception that means "the user can fix this", and one kind of it."""


def printable(text: str, keep: str = "") -> str:
    """``text`` with control characters and broken Unicode as escapes, but for those in ``keep``.

    Names and contents of files can hold them: escaped, they cannot move a terminal's cursor or forge a line of a log.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else ascii(letter)[1:-1] for letter in text)


class UserError(Exception):
    """Bad input. The message is one printable line: what is wrong, where, and what to do about it.

    Entry points print it after ``Error:`` and exit with status 1, without a traceback
    (see :func:`dnnlib.cli.friendly_errors`).
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split("\n"))))


class Unavailable(UserError):
    """What would have to be downloaded, and cannot be."""
