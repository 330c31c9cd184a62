"""The databases. When this module is imported, it chooses one of them."""

import atexit
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator

import __main__
from utils import TYPE_CHECKING, to_str

if TYPE_CHECKING:
    from typing import Any, TypeVar
    T = TypeVar('T')

OPENING = """  -- In this order, a wrong file is refused before it changes.
    CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
    SELECT id, text FROM note LIMIT 1;  -- Another program's table may lack a column.
    PRAGMA journal_mode = WAL;  -- Readers and a writer don't wait for each other.
    PRAGMA synchronous = FULL;  -- What is committed is on disk,
    PRAGMA fullfsync = ON;  -- on macOS, too.
"""
INSERT = 'INSERT INTO note (text) VALUES (?)'
PAGE = 'SELECT id, text FROM note WHERE id > ? AND id <= ? ORDER BY id LIMIT 200'
LOCKED = 'database is locked'  # SQLite's words. Python 3.10 has no error code.
TIMEOUT = 30  # Seconds that a call waits while other programs lock the database.

_connections: dict[str, sqlite3.Connection] = {}  # Those that are open, by path.
_lock = threading.RLock()  # Re-entrant: a signal handler's call fails, and won't hang.


class SQLiteDatabase:
    """The notes at a path. All databases of one path share its connection."""
    path: str

    def add(self, *texts: str | bytes) -> None:
        """Store all or none. Raise TypeError, UnicodeError, OSError, sqlite3.Error."""
        rows = [(to_str(text),) for text in texts]
        if rows:  # To insert nothing would wait for other programs, too.
            self._run(lambda connection: connection.executemany(INSERT, rows))

    def __iter__(self) -> Iterator[str]:
        """Yield the notes, oldest first, up to the one that is newest at the start."""
        newest = self._read('SELECT max(id) FROM note')[0][0]  # If None: no page.
        last = 0  # Page by page: no lock is held while the caller has a note.
        while page := self._read(PAGE, last, newest):
            for last, text in page:
                yield text

    def close(self) -> None:
        """Close the path's connection. The next call opens another."""
        with _lock:
            if self.path in _connections:
                _connections.pop(self.path).close()

    def _read(self, sql: str, *parameters: object) -> 'list[tuple[Any, ...]]':
        """Return the rows of a SELECT. A writer in another program doesn't delay it."""
        return self._run(lambda c: c.execute(sql, parameters).fetchall(), 'BEGIN')

    def _run(
        self, work: 'Callable[[sqlite3.Connection], T]', begin: str = 'BEGIN IMMEDIATE'
    ) -> 'T':
        """Return work(connection), run in a transaction. If it raises, store nothing.

        Wait up to TIMEOUT seconds for other writers. SQLite's errors name the database.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                with _lock, self._connect() as connection:
                    connection.execute(begin)
                    result = work(connection)
                    connection.commit()  # Here, PyPy undoes one that fails, too.
                    return result
            except sqlite3.Error as error:
                if str(error) != LOCKED or time.monotonic() > deadline:
                    error.args = (f'{error}: {self!r}',)
                    raise
            time.sleep(0.01)  # SQLite's own wait would go on with _lock held.

    def _connect(self) -> sqlite3.Connection:
        connection = _connections.get(self.path) or self._open()
        if connection.in_transaction:  # A signal handler calls during a call, say.
            raise sqlite3.ProgrammingError('a call inside another is refused')
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=0, check_same_thread=False)
        try:
            connection.executescript(OPENING)
        except BaseException:
            connection.close()
            raise
        _connections[self.path] = connection
        return connection


class TestDatabase(SQLiteDatabase):
    """Notes in memory. All in a process are one; a forked child has a copy of it."""
    path = ':memory:'

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


class FileDatabase(SQLiteDatabase):
    """Notes in a file. Except on Windows, a new file and its folder are its owner's."""
    variable = default = ''  # The variable that names the data home, and its default.

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Name the file; by default, production's. Raise OSError without a home."""
        if path is None:
            home = os.environ.get(self.variable, '')
            if not os.path.isabs(home):
                home = os.path.expanduser(self.default)
            if not os.path.isabs(home):
                raise OSError(f'no home folder: set {self.variable} to a full path')
            path = os.path.join(home, 'production-notes', 'notes.db')
        self.path = os.path.abspath(path)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.path!r})'

    def _open(self) -> sqlite3.Connection:
        # Only a missing file: if SQLite has one open, by another name, say, then
        # os.close drops SQLite's locks (sqlite.org/howtocorrupt.html, 2.2).
        if not os.path.exists(self.path):
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT, 0o600))
        return super()._open()


class PosixDatabase(FileDatabase):
    """Production's notes where the XDG Base Directory Specification puts them."""
    variable, default = 'XDG_DATA_HOME', '~/.local/share'


class Win32Database(FileDatabase):
    """Production's notes in the user's local application data on Windows."""
    variable, default = 'LOCALAPPDATA', '~/AppData/Local'


def _close_all(keep: str = '') -> None:
    with _lock:
        for path in _connections.keys() - {keep}:
            _connections.pop(path).close()


def _before_fork() -> None:
    # No file may be open in SQLite while the process forks, nor be opened meanwhile
    # (sqlite.org/howtocorrupt.html, 2.6). Notes in memory are copied with the process.
    try:
        with _lock:
            _close_all(keep=':memory:')
            _lock.acquire()  # Once more, until the fork is over.
    except BaseException:  # Ctrl+C, while it waits. Python forks anyway: so wait again.
        _before_fork()
        raise


atexit.register(_close_all)  # This moves the notes from the -wal file into the file.
if hasattr(os, 'register_at_fork'):  # Windows has no fork.
    os.register_at_fork(
        before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release
    )

# While multiprocessing starts a worker, __main__ is multiprocessing's own, and the main
# file is __mp_main__. Elsewhere __mp_main__ may be stale: so ask __main__ first.
if not hasattr(__main__, 'TESTING'):
    __main__ = sys.modules.get('__mp_main__', __main__)
if type(getattr(__main__, 'TESTING', None)) is not bool:  # 'False' would be true.
    raise RuntimeError(f'{__main__} must first set TESTING to True or False')

if sys.platform.startswith('win32'):
    RealDatabase = Win32Database
else:
    RealDatabase = PosixDatabase

Database: type[SQLiteDatabase]
if __main__.TESTING:
    Database = TestDatabase
else:
    Database = RealDatabase
