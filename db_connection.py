"""The databases, and the choice of one, made once: as this module is imported."""

import _thread  # As with _weakrefset, the public module would slow each start.
import os
import sqlite3
import sys
from _weakrefset import WeakSet
from collections.abc import Iterator

import __main__
from utils import to_str

HAS_TABLE = "SELECT name FROM sqlite_master WHERE name LIKE 'note'"
CREATE = 'CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)'
INSERT = 'INSERT INTO note (text) VALUES (?)'
NEWEST = 'SELECT max(id) FROM note WHERE text IS NOT NULL'  # Fails without both.
PAGE_END = 'SELECT id FROM note WHERE id > ? AND id < ? ORDER BY id LIMIT 1 OFFSET 499'
PAGE = 'SELECT text FROM note WHERE id > ? AND id <= ? ORDER BY id'
ERRORS = sqlite3.Error, UnicodeDecodeError


class SQLiteDatabase(sqlite3.Connection):
    """Notes in SQLite: a DB-API 2.0 (PEP 249) connection, with add, iteration, a repr.

    The repr opens the same database again. Opening, add and iteration raise
    sqlite3.Error with the repr in its message. A writer waits up to 30 seconds for
    another one; readers and writers don't wait (https://sqlite.org/wal.html).

    A forked child has a new connection, set up like any new one: to the same file, or
    to an empty database in memory. But if it was forked in a transaction, with a half-
    read cursor or beside other threads, it must not use or close it: use os._exit.
    """

    path = ':memory:'

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        try:
            super().__init__(self.path, timeout=30, isolation_level='IMMEDIATE')
            try:
                # Read first: a damaged file or another table must stay unchanged.
                if self.execute(HAS_TABLE).fetchall():
                    self.execute(NEWEST).fetchall()
                try:
                    self.execute('PRAGMA journal_mode = WAL').fetchall()
                except sqlite3.OperationalError:
                    pass  # SQLite doesn't wait for a lock here. The next open sets it.
                self.execute('PRAGMA synchronous = FULL')  # The default may be another.
                self.execute(CREATE)
            except BaseException:
                self.close()
                raise
        except ERRORS as error:
            raise self._named(error)
        _databases.add(self)

    def add(self, *texts: str | bytes) -> None:
        """Store all texts in one transaction, or none; they're on disk on return.

        Raise what to_str does, UnicodeEncodeError (a surrogate), OverflowError (2 GiB).
        """
        if not texts:  # An empty transaction would still wait for the write lock.
            return
        rows = zip([to_str(text) for text in texts])  # A list: all are checked first.
        try:
            in_caller_transaction = self.in_transaction
            try:
                self.execute('BEGIN IMMEDIATE')
                self.executemany(INSERT, rows)
                self.execute('COMMIT')
            finally:
                if self.in_transaction and not in_caller_transaction:
                    self.execute('ROLLBACK')
        except ERRORS as error:
            raise self._named(error)

    def __iter__(self) -> Iterator[str]:
        """Yield the notes that exist when this starts, oldest first."""
        try:
            cursor = self.cursor()
            cursor.row_factory = None  # Tuples, whatever the connection has.
            ((newest,),) = cursor.execute(NEWEST).fetchall()
            end = float('-inf')  # Less than any id.
            while end != newest:  # Page by page: an open query lets the WAL grow.
                start = end
                page_end = cursor.execute(PAGE_END, (start, newest)).fetchall()
                end = page_end[0][0] if page_end else newest
                for (text,) in cursor.execute(PAGE, (start, end)).fetchall():
                    yield text
        except ERRORS as error:
            raise self._named(error)

    def _named(self, error: Exception) -> Exception:
        if isinstance(error, UnicodeDecodeError):  # SQLite quoted a damaged file.
            error = sqlite3.DatabaseError(error.object.decode(errors='replace'))
        error.args = (f'{error}: {self!r}',)  # SQLite doesn't name the database.
        return error


class TestDatabase(SQLiteDatabase):
    """Notes in memory, private to this connection."""

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


class FileDatabase(SQLiteDatabase):
    """Notes in a file, made for its owner alone. Raise OSError if it can't be made."""

    variable: str  # The environment variable that names the data home.
    default: str  # The data home if the variable has no absolute path.

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:
            home = os.environ.get(self.variable, '')
            if not os.path.isabs(home):
                home = os.path.expanduser(self.default)
            if not os.path.isabs(home):
                raise OSError(f'no home folder: set {self.variable} to a full path')
            path = os.path.join(home, 'production-notes', 'notes.db')
        self.path = os.path.abspath(path)
        super().__init__()

    def _open(self) -> None:
        with _making:  # When touch closes the file, this process loses its locks on it.
            if not os.path.exists(self.path):
                from pathlib import Path  # Here, since only a first start needs it.
                for folder in reversed(Path(self.path).parents):
                    folder.mkdir(mode=0o700, exist_ok=True)
                Path(self.path).touch(mode=0o600)
        super()._open()

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.path!r})'


class PosixDatabase(FileDatabase):
    """Production's notes where the XDG Base Directory Specification puts them."""

    variable, default = 'XDG_DATA_HOME', '~/.local/share'


class Win32Database(FileDatabase):
    """Production's notes in the user's local application data on Windows."""

    variable, default = 'LOCALAPPDATA', '~/AppData/Local'


_databases: WeakSet[SQLiteDatabase] = WeakSet()
_making = _thread.allocate_lock()
_pipe: list[int] = []


def _prepare() -> None:
    one_thread = len(sys._current_frames()) == 1  # Beside others, a close might hang.
    _pipe[:] = os.pipe() if one_thread else ()


def _wait() -> None:
    if _pipe:  # Keep all locks until the child has closed what it inherits.
        os.close(_pipe.pop())
        os.read(_pipe[0], 1)
        os.close(_pipe.pop())


def _reopen() -> None:
    # A child inherits SQLite's record of its locks, but not the locks. Connections to a
    # file share that record, so all must be closed before one is opened. SQLite advises
    # against a close (https://sqlite.org/howtocorrupt.html, 2.6). But the lock of the
    # parent, which waits, protects the WAL; and a connection left open loses notes.
    global _making
    _making = _thread.allocate_lock()
    inherited = []
    for db in _databases if _pipe else ():
        try:
            if not db.in_transaction:  # A rollback would damage the parent's.
                db.close()
                inherited.append((db, vars(db).copy()))
        except sqlite3.Error:
            pass  # It's closed already, or belongs to another thread.
    _databases.clear()
    while _pipe:
        os.close(_pipe.pop())
    for db, attributes in inherited:
        try:
            db._open()
        except (OSError, sqlite3.Error):  # As it is, its next use crashes CPython 3.10.
            sqlite3.Connection.__init__(db, ':memory:')
            db.close()
        vars(db).update(attributes | vars(db))  # From 3.11 on, __init__ clears them.


if hasattr(os, 'register_at_fork'):  # Windows has no fork.
    os.register_at_fork(before=_prepare, after_in_parent=_wait, after_in_child=_reopen)

# While multiprocessing starts a worker, the main file is __mp_main__, and __main__ is
# multiprocessing's own. At other times __mp_main__ may be stale: ask __main__ first.
if not hasattr(__main__, 'TESTING'):
    __main__ = sys.modules.get('__mp_main__', __main__)
if type(getattr(__main__, 'TESTING', None)) is not bool:  # The str 'False' is true.
    raise RuntimeError(
        f'{getattr(__main__, "__file__", "__main__")} must set TESTING to True or False'
        + (f', not {__main__.TESTING!r},' if hasattr(__main__, 'TESTING') else '')
        + ' before it imports db_connection'
    )

if sys.platform.startswith('win32'):
    RealDatabase = Win32Database
else:
    RealDatabase = PosixDatabase

Database: type[TestDatabase] | type[FileDatabase]
if __main__.TESTING:
    Database = TestDatabase
else:
    Database = RealDatabase
