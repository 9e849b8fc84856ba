"""The one error that is meant for a person: bad input, said in one line."""


class InputError(Exception):
    """Something that was given cannot be used.

    The message is one line: what is wrong, where (file, line or name), and what to do about it. The
    command prints it and ends with exit code 2; a library caller can show it as it is.
    """


class DivergedError(InputError):
    """A training ended in numbers that are not finite; other settings may do better."""
