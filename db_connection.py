"""The databases. When this module is imported, it chooses one of them."""

import atexit
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator

import __main__
from utils import to_str

COLUMNS = 'PRAGMA table_info(note)'
CREATE = 'CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)'
INSERT = 'INSERT INTO note (text) VALUES (?)'
NEWEST = 'SELECT max(id), text FROM note'  # It fails if a column is missing.
PAGE = 'SELECT id, text FROM note WHERE id > ? AND id <= ? ORDER BY id LIMIT 400'
Rows = list[tuple[int, str]]
Work = Callable[[sqlite3.Connection], Rows]
_lock = threading.RLock()  # Re-entrant: a signal handler may call db during a call.
_in_memory: set[sqlite3.Connection] = set()  # The connections that are open.
_on_files: set[sqlite3.Connection] = set()


class SQLiteDatabase:
    """Notes in SQLite. Threads and forks may share it. SQLite's errors name it."""
    path = ':memory:'
    _arguments: tuple[str, ...] = ()
    _lock, _connections = _lock, _in_memory  # At exit, __del__ may find no globals.
    _connection: sqlite3.Connection | None = None

    def __init__(self) -> None:
        self._run(lambda connection: [], reads=True)  # This opens it.

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(map(repr, self._arguments))})'

    def __reduce__(self) -> tuple[type['SQLiteDatabase'], tuple[str, ...]]:
        return type(self), self._arguments  # A pickle opens it again, like the repr.

    def add(self, *texts: str | bytes) -> None:
        """Store all texts or none, in a file on disk. Raise as to_str and SQLite do."""
        checked = [to_str(text) for text in texts]
        if checked:
            self._run(lambda c: _fetch(c.executemany, INSERT, zip(checked)))

    def __iter__(self) -> Iterator[str]:
        """Yield the notes, oldest first, up to the one that is newest at the start."""
        ((newest, _),) = self._read(NEWEST)
        before, last = None, float('-inf')
        while before != last:  # Until a page is empty.
            before = last
            for last, text in self._read(PAGE, before, newest):
                yield text

    def close(self) -> None:
        """Close it. The next call opens another: in memory, an empty one."""
        with self._lock:
            if self._connection in self._connections:
                try:
                    self._connection.close()
                finally:  # An interrupt may have come.
                    self._connections.discard(self._connection)

    __del__ = close  # Else _connections would keep a dropped one open.

    def _read(self, sql: str, *parameters: object) -> Rows:
        return self._run(lambda c: _fetch(c.execute, sql, parameters), reads=True)

    def _run(self, work: Work, reads: bool = False) -> Rows:
        """Return work(connection). Unless it only reads, store all changes or none."""
        with _lock:
            connection = self._connection
            try:
                if connection not in self._connections:
                    connection = self._open()
                if reads:
                    return work(connection)
                if connection.in_transaction:
                    raise sqlite3.ProgrammingError('a change inside another is refused')
                try:
                    connection.execute('BEGIN IMMEDIATE')
                    rows = work(connection)
                    connection.commit()
                    return rows
                except BaseException:
                    if connection in self._connections:  # A handler may have closed it.
                        connection.rollback()
                    raise
            except sqlite3.Error as error:
                error.args = (f'{error}: {self!r}',)
                raise

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
        self._connections.add(connection)  # So that _close_all closes it.
        self._connection = connection
        try:
            if _fetch(connection.execute, COLUMNS):
                _fetch(connection.execute, NEWEST)  # Refuse a wrong file unchanged.
            try:
                _fetch(connection.execute, 'PRAGMA journal_mode = WAL')
            except sqlite3.OperationalError:
                pass  # Another process may have the lock. The next open tries again.
            connection.execute('PRAGMA synchronous = FULL')  # The default may be less.
            connection.execute(CREATE)
        except BaseException:
            SQLiteDatabase.close(self)
            raise
        return connection


class TestDatabase(SQLiteDatabase):
    """Notes in memory. A forked child has a copy of them."""


class FileDatabase(SQLiteDatabase):
    """Notes in a file. A new one is its owner's alone; OSError if it can't be made."""
    _connections = _on_files
    variable = default = ''  # The variable that names the data home, and its default.

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:
            home = os.environ.get(self.variable, '')
            if not os.path.isabs(home):
                home = os.path.expanduser(self.default)
            if not os.path.isabs(home):
                raise OSError(f'no home folder: set {self.variable} to a full path')
            path = os.path.join(home, 'production-notes', 'notes.db')
        self.path = os.path.abspath(path)
        self._arguments = (self.path,)
        super().__init__()

    def _open(self) -> sqlite3.Connection:
        if not os.path.exists(self.path):
            _make_folder(os.path.dirname(self.path))
            os.close(os.open(self.path, os.O_CREAT, 0o600))
        return super()._open()


class PosixDatabase(FileDatabase):
    """Production's notes where the XDG Base Directory Specification puts them."""
    variable, default = 'XDG_DATA_HOME', '~/.local/share'


class Win32Database(FileDatabase):
    """Production's notes in the user's local application data on Windows."""
    variable, default = 'LOCALAPPDATA', '~/AppData/Local'


def _fetch(execute: Callable[..., sqlite3.Cursor], sql: str, args: object = ()) -> Rows:
    # list(execute(sql, args)), but no signal handler runs while its cursor is open.
    return list(*map(execute, [sql], [args]))


def _make_folder(path: str) -> None:
    parent = os.path.dirname(path)
    if parent != path:
        _make_folder(parent)  # makedirs gives its mode to the last folder only.
    os.makedirs(path, mode=0o700, exist_ok=True)


def _close_all(connections: set[sqlite3.Connection] = _on_files) -> None:
    """Close them, at exit or before a fork (sqlite.org/howtocorrupt.html, 2.6)."""
    while connections:  # Again, if a signal handler has opened another meanwhile.
        with _lock:
            for connection in [*connections]:
                connection.close()
                connections.discard(connection)


atexit.register(_close_all)
atexit.register(_close_all, _in_memory)
if hasattr(os, 'register_at_fork'):  # Windows has no fork.
    # Before a fork, hooks of later imports run first: they may wait for threads that
    # use db, so these must be last. An interrupt skips a hook: so each is there thrice.
    for _ in range(3):
        os.register_at_fork(before=_close_all, after_in_parent=_lock.release)
        os.register_at_fork(before=_lock.acquire, after_in_child=_lock.release)
# While multiprocessing starts a worker, the main file is __mp_main__, and __main__ is
# multiprocessing's own. At other times __mp_main__ may be stale: ask __main__ first.
if not hasattr(__main__, 'TESTING'):
    __main__ = sys.modules.get('__mp_main__', __main__)
_must = f'{getattr(__main__, "__file__", "__main__")} must set TESTING to True or False'
if hasattr(__main__, 'TESTING'):
    _must += f', not {__main__.TESTING!r},'
if type(getattr(__main__, 'TESTING', None)) is not bool:  # bool('False') is True.
    raise RuntimeError(f'{_must} before it imports db_connection')

if sys.platform.startswith('win32'):
    RealDatabase = Win32Database
else:
    RealDatabase = PosixDatabase

if __main__.TESTING:
    Database: type[SQLiteDatabase] = TestDatabase
else:
    Database = RealDatabase
