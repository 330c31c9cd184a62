"""The database classes. Database is the one that this environment uses."""

import atexit
import os
import sqlite3
import sys
from contextlib import closing, contextmanager

import __main__
from utils import to_str

# The main file knows the environment (Effective Python, item 54). In a worker process,
# multiprocessing may load it as __mp_main__. But ask __main__ first: after IPython's
# %run, __mp_main__ may be the old __main__.
if not hasattr(__main__, 'TESTING') and '__mp_main__' in sys.modules:
    import __mp_main__ as __main__
if type(getattr(__main__, 'TESTING', None)) is not bool:  # The string 'False' is true.
    raise RuntimeError(f'{__main__} must first set TESTING to True or False')
TESTING = __main__.TESTING  # A copy, so that Database() can refuse a later change.

SETUP = (
    'PRAGMA synchronous = EXTRA',  # By default, a power cut may undo a commit.
    'PRAGMA fullfsync = ON',  # Else, on macOS, a commit may not reach the disk.
    'CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)',
)
INSERT = 'INSERT INTO note (text) VALUES (?)'
SELECT = 'SELECT text FROM note ORDER BY id'
TIMEOUT = 30  # Seconds that SQLite waits for each lock. Ctrl+C acts after the wait.

# A forked child inherits SQLite's mutexes, perhaps held by another thread: so it may
# hang if it opens a database. It doesn't inherit the locks of open files: so it may
# damage the file if it commits or rolls back a transaction of its parent
# (sqlite.org/howtocorrupt.html, on fork). refuse_forked_child prevents the hang,
# end_forked_child the damage.
open_pids = []  # For each connection that is open or being opened, its process's id.


@contextmanager
def refuse_forked_child():
    """Raise ProgrammingError in a child that was forked while a database was open."""
    pid = os.getpid()
    try:
        open_pids.append(pid)  # In `try`: Ctrl+C must not leave the id behind.
        if open_pids[0] != pid:  # In a forked child, the parent's ids come first.
            raise sqlite3.ProgrammingError('forked while a database was open')
        yield
    finally:
        open_pids.remove(pid)


@contextmanager
def end_forked_child(connection):
    """End a forked child (status 1) if it leaves the block with a transaction open."""
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != pid and connection.in_transaction:
            try:
                os.write(2, b'A forked child left a transaction: the child ends.\n')
            finally:  # Even if standard error is closed.
                os._exit(1)  # sys.exit() would roll back the transaction.


class SQLiteDatabase:
    """Notes in a file, which is open only during a call or a `with` block.

    A subclass has two attributes: `variable`, the environment variable that names the
    data folder, and `default`, the data folder if the variable is unset or empty.
    """

    def __init__(self, path=None):
        """Use the file at path, or else the default file.

        Raise RuntimeError if __main__.TESTING has changed, and ValueError if path is
        None and the data folder isn't absolute.
        """
        # Ask the current __main__, not the one imported above: IPython's %run may have
        # put in a new one. If that doesn't set TESTING, it counts as unchanged.
        if getattr(sys.modules['__main__'], 'TESTING', TESTING) is not TESTING:
            raise RuntimeError(f'TESTING was {TESTING}: start Python anew to change it')
        if path is None:
            # Ask for `default` only if needed: TestDatabase.default makes a folder.
            folder = os.environ.get(self.variable) or os.path.expanduser(self.default)
            if not os.path.isabs(folder):
                raise ValueError(f'{self.variable} must be absolute, found: {folder!r}')
            # The program's name is production-notes, also in development.
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
        if rows:  # Without texts, don't wait for other writers.
            with self.transaction() as connection:
                connection.executemany(INSERT, rows)

    def __iter__(self):
        """Read all notes at once, and return an iterator over them, oldest first.

        Raise what connect() raises.
        """
        with self.connect() as connection:
            return iter([text for (text,) in connection.execute(SELECT)])

    @contextmanager
    def connect(self):
        """Open the file for a `with` block as a sqlite3.Connection, then close it.

        Statements are stored immediately. But those after a BEGIN are stored at COMMIT
        or the end of the block, and lost if the block raises first.

        In the block, fetch all rows of each cursor. Else the file stays locked until
        the cursor is deleted (since Python 3.11, even after the block), and what a
        RETURNING statement writes may be lost.

        Raise OSError, or a sqlite3.Error whose message ends with the database's repr
        (in nested blocks, the innermost database's). A statement may wait for several
        locks, TIMEOUT seconds for each. Ctrl+C may leave the file open until the
        KeyboardInterrupt has been handled.

        Avoid a fork during the block. The child must not use the connection, can't open
        a database, and should call os._exit() without leaving the block. If it leaves
        the block with a transaction open, it is ended with status 1, to protect what
        the parent stores. That protection fails:

        - in WAL mode;
        - if the fork comes before all rows of a RETURNING statement are fetched;
        - if Ctrl+C comes while the child leaves the block;
        - if an ExitStack or a suspended generator keeps the block open, and the child
          exits without os._exit().
        """
        with self.named_errors(), refuse_forked_child():
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            connection = sqlite3.connect(
                self.path,
                timeout=TIMEOUT,
                isolation_level=None,  # Python itself begins no transactions.
            )
            # On exit: perhaps end a forked child, else commit or roll back, then close.
            with closing(connection), connection, end_forked_child(connection):
                for statement in SETUP:
                    connection.execute(statement)
                yield connection

    @contextmanager
    def transaction(self):
        """Like connect(), but store all that the block does, or nothing if it raises.

        Nobody else can write during the block. So db.add() in it, which opens the file
        once more, waits TIMEOUT seconds and raises OperationalError. list(db) in it
        shows what was there before. Once the block has changed more than SQLite's cache
        holds (about 2 MB), list(db) waits and raises, too.

        The block must not end the transaction, as commit(), rollback() and
        executescript() do: a part of the block may then be stored. SQLite itself ends
        the transaction at some errors, such as a full disk, even if the block catches
        them. If no transaction is open at the end of the block, OperationalError is
        raised. But a block that ended its transaction and began another, by BEGIN or
        SAVEPOINT, isn't noticed.
        """
        with self.connect() as connection:  # At its end, it commits or rolls back.
            # After a plain BEGIN and a read, a write may fail instead of waiting.
            connection.execute('BEGIN IMMEDIATE')
            yield connection
            if not connection.in_transaction:
                raise sqlite3.OperationalError('the transaction ended before its block')

    @contextmanager
    def named_errors(self):
        """Add this database's repr to a sqlite3.Error that names no database yet."""
        try:
            yield
        except sqlite3.Error as error:
            if not hasattr(error, 'database'):  # A nested block may have named it.
                error.database = self
                error.args = (f'{error}: {self!r}',)
            raise


class PosixDatabase(SQLiteDatabase):
    """Production's database, where the XDG Base Directory Specification puts data."""

    variable, default = 'XDG_DATA_HOME', '~/.local/share'


class Win32Database(SQLiteDatabase):
    """Production's database on Windows, in the user's local application data."""

    variable, default = 'LOCALAPPDATA', '~/AppData/Local'


class TestDatabase(SQLiteDatabase):
    """Development's database, by default in a temporary folder.

    The process that makes the folder deletes it when it exits normally.
    """

    variable = 'TEST_DATA_HOME'

    @property
    def default(self):
        """Make a temporary folder, and set the variable to it for worker processes."""
        import tempfile  # Production starts faster without it.

        folder = os.environ[self.variable] = tempfile.mkdtemp()
        atexit.register(delete_folder, folder, maker=os.getpid())
        return folder


def delete_folder(folder, maker):
    """Delete the folder if this is the process that made it."""
    import shutil  # Production starts faster without it.

    if os.getpid() == maker:  # A forked child may exit first.
        shutil.rmtree(folder, ignore_errors=True)


if sys.platform.startswith('win32'):
    RealDatabase = Win32Database
else:
    RealDatabase = PosixDatabase

if __main__.TESTING:  # The book's line; TESTING is the same.
    Database = TestDatabase
else:
    Database = RealDatabase
