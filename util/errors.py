"""The one exception for what a user can mend."""


class InputError(Exception):
    """A mistake in a file or flag. Its text is one line: what, expected, found, what to do."""
