"""The databases, and the choice of one, made once: as this module is imported."""

import os
import sqlite3
import sys
from collections.abc import Iterator

import __main__
from utils import to_str

CREATE = 'CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)'
INSERT = 'INSERT INTO note (text) VALUES (?)'
SELECT = 'SELECT text FROM note ORDER BY id'
SELECT_NEWEST = 'SELECT max(id) FROM note'
SET_WAL = 'PRAGMA journal_mode = WAL'


class SQLiteDatabase(sqlite3.Connection):
    """Notes in SQLite: a DB-API 2.0 (PEP 249) connection with three things of its own.

    They are add, iteration, and a repr that opens the same database again. Opening and
    the first two raise sqlite3.Error, with that repr in its message. A writer waits up
    to 30 seconds for another; readers and writers don't (https://sqlite.org/wal.html).
    """

    def __init__(self, database: str) -> None:
        super().__init__(database, timeout=30, isolation_level='IMMEDIATE')
        try:
            # Read before the mode is written: a damaged file is to stay as it is. Both
            # may fail. A new file has no table yet. Setting the mode doesn't wait for a
            # lock, but on a new file whoever has it sets the mode too, and on any file
            # the next open does.
            for statement in SELECT_NEWEST, SET_WAL:
                try:
                    self.execute(statement)
                except sqlite3.OperationalError:
                    pass
            self.execute('PRAGMA synchronous = FULL')  # Builds differ in their default.
            self.execute(CREATE)
        except BaseException:
            self.close()
            raise

    def add(self, *texts: str | bytes) -> None:
        """Store all texts in one transaction, or none; they're on disk on return.

        Raise TypeError and UnicodeDecodeError as to_str does.
        """
        if texts:  # Without a row, executemany would still wait for the write lock.
            rows = zip([to_str(text) for text in texts])  # As a list: a tenth faster.
            try:
                with self:
                    self.executemany(INSERT, rows)
            except sqlite3.Error as error:
                self._sign(error)
                raise

    def __iter__(self) -> Iterator[str]:
        """Yield the notes, oldest first, as they're read."""
        try:
            cursor = self.cursor()
            cursor.row_factory = None  # Plain rows, whatever this connection's are.
            for (text,) in cursor.execute(SELECT):
                yield text
        except sqlite3.Error as error:
            self._sign(error)
            raise

    def _sign(self, error: sqlite3.Error) -> None:
        """Put this database in the message of error: SQLite doesn't say which it is."""
        error.args = (f'{error}: {self!r}',)


class TestDatabase(SQLiteDatabase):
    """Notes in memory, private to this connection."""

    def __init__(self) -> None:
        super().__init__(':memory:')

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


class FileDatabase(SQLiteDatabase):
    """Notes in the file path, or in production-notes/notes.db in the data home.

    Missing folders and the file are made for their owner alone, by one thread at a time
    if there are several: a process has one umask. Raise OSError where a folder can't be
    made.
    """

    variable: str  # The environment variable that names the data home,
    default: str  # and the data home where that is unset, empty or relative.

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:
            data_home = os.environ.get(self.variable, '')
            if not os.path.isabs(data_home):
                data_home = os.path.expanduser(self.default)
            path = os.path.join(data_home, 'production-notes', 'notes.db')
        self.path = os.path.abspath(path)
        try:
            if not os.path.exists(self.path):
                umask = os.umask(0o077)  # SQLite would make the file with 0o644.
                try:
                    os.makedirs(os.path.dirname(self.path), exist_ok=True)
                    sqlite3.connect(self.path).close()
                finally:
                    os.umask(umask)
            super().__init__(self.path)
        except sqlite3.Error as error:
            self._sign(error)
            raise

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.path!r})'


class PosixDatabase(FileDatabase):
    """Production's notes where the XDG Base Directory Specification has them."""

    variable, default = 'XDG_DATA_HOME', '~/.local/share'


class Win32Database(FileDatabase):
    """Production's notes in the user's local application data on Windows."""

    variable, default = 'LOCALAPPDATA', '~/AppData/Local'


RealDatabase: type[FileDatabase]
if sys.platform.startswith('win32'):
    RealDatabase = Win32Database
else:
    RealDatabase = PosixDatabase

# While multiprocessing loads the main file in a worker process, it's __mp_main__, and
# __main__ is multiprocessing's own. Elsewhere __mp_main__ may be stale: ask it last.
_main = __main__
if not hasattr(_main, 'TESTING'):
    _main = sys.modules.get('__mp_main__', _main)

_testing = getattr(_main, 'TESTING', None)

Database: type[TestDatabase] | type[FileDatabase]
if _testing is True:  # Not merely true: 'False' would be, too.
    Database = TestDatabase
elif _testing is False:
    Database = RealDatabase
else:
    raise RuntimeError(
        f'{getattr(_main, "__file__", "__main__")} must set TESTING to True or False'
        + (f', not {_testing!r},' if hasattr(_main, 'TESTING') else '')
        + ' before it imports db_connection'
    )
