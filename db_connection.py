"""The database classes. Importing this module makes one of them Database."""

import atexit
import os
import shutil
import sqlite3
import sys
from contextlib import closing, contextmanager

import __main__
from utils import to_str

SETUP = (
    'PRAGMA synchronous = EXTRA',  # By default, a power cut may undo a commit.
    'PRAGMA fullfsync = ON',  # Else, on macOS, a commit may not reach the disk.
    'CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)',
)
INSERT = 'INSERT INTO note (text) VALUES (?)'
SELECT = 'SELECT text FROM note ORDER BY id'
TIMEOUT = 30  # Seconds that a call waits for others. Ctrl+C waits, too.

open_pids = []  # The process id of each open connection. See connect().


class SQLiteDatabase:
    """Notes in a file, which is open only during a call or a `with` block."""

    def __init__(self, path=None):
        """Name the file: path, or one in the folder that an environment variable names.

        Raise OSError if that folder isn't an absolute path.
        """
        if path is None:
            folder = os.environ.get(self.variable) or self.default_folder()
            if not os.path.isabs(folder):
                raise OSError(f'{self.variable} must be absolute, found: {folder!r}')
            path = os.path.join(folder, 'production-notes', 'notes.db')
        self.path = os.path.abspath(path)

    def __repr__(self):
        return f'{type(self).__name__}({self.path!r})'

    def add(self, *texts):
        """Store texts, str or UTF-8 bytes: all of them, or none.

        Raise TypeError or UnicodeError for other data, or what connect() raises. After
        Ctrl+C or an I/O error, the texts may nevertheless be stored.
        """
        rows = [(to_str(text),) for text in texts]
        if rows:
            with self.transaction() as connection:
                connection.executemany(INSERT, rows)

    def __iter__(self):
        """Read all notes at once, and return an iterator over them, oldest first."""
        with self.connect() as connection:
            rows = connection.execute(SELECT).fetchall()
        return (text for (text,) in rows)

    @contextmanager
    def transaction(self):
        """Like connect(), but store all that the block does, or nothing if it raises.

        From its start to its end nobody else can write. So a db.add() inside it, which
        opens the file once more, waits for TIMEOUT seconds, then raises.
        """
        with self.connect() as connection:
            # After a plain BEGIN, another's write after our read makes our write fail.
            connection.execute('BEGIN IMMEDIATE')
            with connection:
                yield connection

    @contextmanager
    def connect(self):
        """Open the file for a `with` block as a sqlite3.Connection, then close it.

        Each statement is a transaction of its own. Inside the block, fetch all rows of
        each cursor: an unfinished one keeps the file locked. Raise OSError, or
        sqlite3.Error with the database's repr at the end of its message. Rarely, Ctrl+C
        leaves the file open until the KeyboardInterrupt has been handled.
        """
        pid = os.getpid()
        try:
            open_pids.append(pid)
            # A forked child inherits its parent's ids. There, SQLite believes that it
            # has the parent's locks, and may damage the file
            # (sqlite.org/howtocorrupt.html, 2.6).
            if set(open_pids) != {pid}:
                raise sqlite3.ProgrammingError('forked while a thread used a database')
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            # With None, Python begins no transactions itself. close() would undo them.
            with closing(
                sqlite3.connect(self.path, timeout=TIMEOUT, isolation_level=None)
            ) as connection:
                for statement in SETUP:
                    connection.execute(statement)
                yield connection
        except sqlite3.Error as error:
            error.args = (f'{error}: {self!r}',)
            raise
        finally:
            open_pids.remove(pid)


class PosixDatabase(SQLiteDatabase):
    """Production's database, where the XDG Base Directory Specification puts data."""

    variable = 'XDG_DATA_HOME'

    def default_folder(self):
        return os.path.expanduser('~/.local/share')


class Win32Database(SQLiteDatabase):
    """Production's database on Windows, in the user's local application data."""

    variable = 'LOCALAPPDATA'

    def default_folder(self):
        return os.path.expanduser('~/AppData/Local')


class TestDatabase(SQLiteDatabase):
    """Development's database, by default in a temporary folder.

    The process that makes the folder deletes it on exit.
    """

    variable = 'TEST_DATA_HOME'

    def default_folder(self):
        import tempfile  # Production starts faster without it.

        folder = tempfile.mkdtemp()
        os.environ[self.variable] = folder  # So that worker processes share it.
        atexit.register(delete_folder, folder, maker=os.getpid())
        return folder


def delete_folder(folder, maker):
    if os.getpid() == maker:  # A forked child may run this, too.
        shutil.rmtree(folder, ignore_errors=True)


# Effective Python, item 54. multiprocessing loads a worker's main file as __mp_main__.
# Ask __main__ first, because an old __mp_main__ may remain.
if not hasattr(__main__, 'TESTING') and '__mp_main__' in sys.modules:
    import __mp_main__ as __main__
if type(getattr(__main__, 'TESTING', None)) is not bool:  # The string 'False' is true.
    raise RuntimeError(f'{__main__} must first set TESTING to True or False')

if sys.platform.startswith('win32'):
    RealDatabase = Win32Database
else:
    RealDatabase = PosixDatabase

if __main__.TESTING:
    Database = TestDatabase
else:
    Database = RealDatabase
