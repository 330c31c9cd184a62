"""to_str, and the program that both main files run."""

import argparse
import os
import sys

TYPE_CHECKING = False  # mypy takes it for True. Importing typing would slow a start.
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    class Database(Iterable[str], Protocol):
        """What the program needs from a database: add, iteration, close, and a repr."""
        def add(self, *texts: str | bytes) -> None: ...
        def close(self) -> None: ...


def to_str(data: str | bytes) -> str:
    """Return data as str, bytes from UTF-8. Raise TypeError or UnicodeDecodeError."""
    if isinstance(data, str):
        return data
    elif isinstance(data, bytes):
        return data.decode('utf-8')
    else:
        raise TypeError(f'Must supply str or bytes, found: {data!r}')


def utf8(argument: str) -> str:
    """Decode the bytes of an argument (PEP 383), or raise UnicodeDecodeError."""
    return to_str(os.fsencode(argument))


def main(db: 'Database') -> None:
    """Store the notes of the command line in db, then print db and all its notes.

    Raise SystemExit(2) for a usage error, and what db and standard output raise.
    """
    parser = argparse.ArgumentParser(description='Store each NOTE, then show them all.')
    parser.add_argument('notes', metavar='NOTE', nargs='*', type=utf8, help='its text')
    db.add(*parser.parse_args().notes)
    if hasattr(sys.stdout, 'reconfigure'):  # It may be None, or another object.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        print(repr(db))
        for text in db:
            print(text)
        if sys.stdout is not None:
            sys.stdout.flush()  # Here, so that a broken pipe is noticed here.
    except BrokenPipeError:
        # The interpreter flushes once more (Python's signal module, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
