"""What a user can mend, and how it is told in one line."""

import errno

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk, a user's share of it, or a file is full


class InputError(Exception):
    """A mistake in a file or flag. Its text is one line: what, expected, found, what to do."""


def remedy_of(error: Exception) -> str | None:
    """Return the one line that tells a user what to mend; None for a fault of the program."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return (f"{error.filename or 'a file'}: expected room to write it, found '{error.strerror}'; "
                f"make room there, then go on")
    return None
