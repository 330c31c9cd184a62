"""to_str, and the program that both main files run."""

import argparse
import os
import sqlite3
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

    Raise SystemExit for --help, wrong arguments, and errors of db. If show() raises,
    the notes are already stored.
    """
    parser = argparse.ArgumentParser(description='Store each NOTE, then show them all.')
    parser.add_argument('notes', metavar='NOTE', nargs='*')
    arguments = parser.parse_args().notes
    try:
        # Python decoded the arguments by the locale. Undo that: notes are UTF-8.
        db.add(*map(os.fsencode, arguments))
        notes = list(db)
    except sqlite3.Error as error:  # Its message names the database.
        sys.exit(f'{parser.prog}: {error}')
    except (OSError, UnicodeError) as error:
        sys.exit(f'{parser.prog}: {error}: {db!r}')
    show(db, *notes)


def show(*values):
    """Print each value's repr, as the interactive interpreter does.

    Ignore a closed pipe, as in `prod_main.py | head`.
    """
    try:
        for value in values:
            sys.__displayhook__(value)  # Escapes what print can't encode.
        sys.stdout.flush()
    except BrokenPipeError:
        # Without this, Python's flush at exit fails (signal module, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
