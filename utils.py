"""What both main files share: to_str and the program itself."""

import argparse
import io
import os
import sys

TYPE_CHECKING = False  # As in typing, which costs more to import than the rest here.
if TYPE_CHECKING:
    from db_connection import SQLiteDatabase


def to_str(data: str | bytes) -> str:
    """Return data as a str; bytes are decoded as UTF-8.

    Raise TypeError for anything but str and bytes, UnicodeDecodeError for bytes that
    aren't UTF-8.
    """
    if isinstance(data, str):
        return data
    elif isinstance(data, bytes):
        return data.decode('utf-8')
    else:
        raise TypeError(f'Must supply str or bytes, found: {data!r}')


def utf8(argument: str) -> str:
    """Return a command-line argument, which is bytes to the system, as text.

    Raise UnicodeDecodeError, a ValueError and so a usage error to argparse, where it
    isn't UTF-8 (PEP 383 has how such bytes come to be in a str).
    """
    return to_str(os.fsencode(argument))


def main(db: 'SQLiteDatabase') -> None:
    """Store the notes of the command line in db, then print db and all its notes.

    Raise SystemExit(2) for a usage error, and what db and standard output raise.
    """
    parser = argparse.ArgumentParser(
        description='Keep notes: store each NOTE, then show them all, oldest first.'
    )
    parser.add_argument(
        'notes', metavar='NOTE', nargs='*', type=utf8, help='a note to store'
    )
    db.add(*parser.parse_args().notes)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        print(repr(db))
        for text in db:
            print(text)
        print(end='', flush=True)
    except BrokenPipeError:
        # The reader has seen enough. The interpreter flushes once more as it exits:
        # give it somewhere to write (Python's signal module, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
