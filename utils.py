"""to_str, and the program that both main files run."""

import argparse
import os
import sys


def to_str(data):
    """Return a str as it is, and bytes decoded from UTF-8.

    Raise UnicodeDecodeError for other bytes, and TypeError for anything else.
    """
    if isinstance(data, str):
        return data
    elif isinstance(data, bytes):
        return data.decode('utf-8')
    else:
        raise TypeError('Must supply str or bytes, '
            'found: %r' % (data,))


def main(db):
    """Add the notes that the command line gives, then show db and all its notes.

    Raise SystemExit for --help and for wrong arguments.
    """
    parser = argparse.ArgumentParser(description='Store each NOTE, then show them all.')
    parser.add_argument('notes', metavar='NOTE', nargs='*', type=note)
    db.add(*parser.parse_args().notes)
    show(repr(db), *db)


def note(argument):
    """Decode an argument's bytes (PEP 383). If they aren't UTF-8, argparse exits."""
    return to_str(os.fsencode(argument))


def show(*lines):
    """Print lines, and escape characters that the output can't encode.

    Ignore a closed pipe, as in `prod_main.py | head`.
    """
    sys.stdout.reconfigure(errors='backslashreplace')
    try:
        print(*lines, sep='\n', flush=True)
    except BrokenPipeError:
        # Else Python's flush at exit fails, too (signal module, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
