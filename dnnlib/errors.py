"""The exception that means "the user can fix this", and one kind of it."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it.

    Entry points print it after ``Error:`` and exit with status 1, without a traceback
    (see :func:`dnnlib.cli.friendly_errors`).
    """


class Unavailable(UserError):
    """What would have to be downloaded, and cannot be."""
