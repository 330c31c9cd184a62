"""to_str, and the program that both main files run."""

import argparse
import os
import sys

TYPE_CHECKING = False  # A type checker takes it as True. Importing typing is slow.
if TYPE_CHECKING:
    from db_connection import SQLiteDatabase


def to_str(data: str | bytes) -> str:
    """Return data as str, bytes from UTF-8. Raise TypeError or UnicodeDecodeError."""
    if isinstance(data, str):
        return data
    elif isinstance(data, bytes):
        return data.decode('utf-8')
    else:
        raise TypeError(f'Must supply str or bytes, found: {data!r}')


def note(argument: str) -> str:
    """Decode an argument's bytes (PEP 383). argparse prints: "invalid note value"."""
    return to_str(os.fsencode(argument))


def main(db: 'SQLiteDatabase') -> None:
    """Store the arguments, print db and its notes. Raise SystemExit on -h or misuse."""
    parser = argparse.ArgumentParser(description='Store each NOTE, then show them all.')
    parser.add_argument('notes', metavar='NOTE', nargs='*', type=note, help='its text')
    db.add(*parser.parse_args().notes)
    if hasattr(sys.stdout, 'reconfigure'):  # It may be None: in pythonw, say.
        sys.stdout.reconfigure(errors='backslashreplace')  # Any note can be printed.
    try:
        print(repr(db))
        for text in db:
            print(text)
        print(end='', flush=True)  # sys.stdout.flush() fails if it's None.
    except BrokenPipeError:  # Whoever reads the output has stopped. That's no error.
        # Python's flush at exit goes there, too (signal module, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
