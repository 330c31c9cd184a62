"""The suite: unit tests in this process, integration tests that run the main files."""

import contextlib
import gc
import importlib
import io
import itertools
import multiprocessing
import os
import pickle
import re
import shlex
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import types
from contextlib import closing
from pathlib import Path
from unittest import TestCase, main, mock, skipUnless

import __main__
import utils
from utils import to_str

try:
    import tracemalloc
except ImportError:  # PyPy has none.
    tracemalloc = None

with mock.patch.object(__main__, 'TESTING', True, create=True):
    import db_connection


class UtilsTestCase(TestCase):
    """to_str: first the documents' own three tests."""

    def test_to_str_bytes(self):
        self.assertEqual('hello', to_str(b'hello'))

    def test_to_str_str(self):
        self.assertEqual('hello', to_str('hello'))

    def test_to_str_bad(self):
        self.assertRaises(TypeError, to_str, object())

    def test_to_str_bytes_are_utf_8(self):
        self.assertEqual('caf\xe9', to_str(b'caf\xc3\xa9'))
        self.assertRaises(UnicodeDecodeError, to_str, b'caf\xe9')

    def test_to_str_bad_names_the_value(self):
        for bad in (1, 2), (), None, 7, bytearray(b'%s'):
            with self.subTest(repr(bad)), self.assertRaises(TypeError) as caught:
                to_str(bad)
            message = f'Must supply str or bytes, found: {bad!r}'
            self.assertEqual(message, str(caught.exception))


def main_file(**constants):
    """Make a main module that has these constants."""
    made = types.ModuleType('__main__')
    vars(made).update(constants)
    return made


def choose(main_module, mp_main=None, platform=sys.platform):
    """Import db_connection afresh, as it would be imported beside these modules."""
    with mock.patch.dict(sys.modules, __main__=main_module):
        for name in '__mp_main__', 'db_connection':
            sys.modules.pop(name, None)
        if mp_main:
            sys.modules['__mp_main__'] = mp_main
        with mock.patch.object(sys, 'platform', platform):
            return importlib.import_module('db_connection')


class ChoiceTestCase(TestCase):
    """Which database __main__.TESTING and sys.platform choose, and what is refused."""

    def test_testing_and_the_platform_choose_the_database(self):
        for testing, platform, name in (
            (True, 'linux', 'TestDatabase'),
            (False, 'win32', 'Win32Database'),
            (False, 'linux', 'PosixDatabase'),
        ):
            with self.subTest(platform, testing=testing):
                module = choose(main_file(TESTING=testing), platform=platform)
                self.assertIs(module.Database, getattr(module, name))

    def test_anything_but_true_and_false_is_refused(self):
        must, when = 'must set TESTING to True or False', 'before it imports'
        for constants, message in (
            ({}, f'__main__ {must} {when}'),
            ({'__file__': 'a_main.py'}, f'a_main.py {must} {when}'),
            ({'TESTING': 'False'}, f"__main__ {must}, not 'False', {when}"),
            ({'TESTING': None}, f'__main__ {must}, not None, {when}'),
        ):
            with self.subTest(message), self.assertRaises(RuntimeError) as caught:
                choose(main_file(**constants))
            self.assertEqual(f'{message} db_connection', str(caught.exception))

    def test_mp_main_is_asked_where_main_has_no_testing(self):
        for testing, name in (True, 'TestDatabase'), (False, 'RealDatabase'):
            with self.subTest(testing):
                module = choose(main_file(), main_file(TESTING=testing))
                self.assertIs(module.Database, getattr(module, name))
        with self.assertRaisesRegex(RuntimeError, "^worker.py .* not 'False'"):
            choose(main_file(), main_file(__file__='worker.py', TESTING='False'))

    def test_a_stale_mp_main_is_not_asked(self):
        module = choose(main_file(TESTING=False), main_file(TESTING=True))
        self.assertIs(module.Database, module.RealDatabase)


HERE = os.path.dirname(os.path.abspath(__file__))
CPYTHON = skipUnless(sys.implementation.name == 'cpython', "PyPy's sqlite3 is Python")
POSIX = skipUnless(os.name == 'posix', 'Windows has no such thing')
CONNECT = sqlite3.connect
FORK_WARNING = 'ignore:This process:DeprecationWarning'  # Of a fork beside threads.
PROMPT = r'(?:\(Pdb\)|>>>>?) '
DATA_HOMES = (
    ('PosixDatabase', 'XDG_DATA_HOME', '.local/share'),
    ('Win32Database', 'LOCALAPPDATA', 'AppData/Local'),
)
REFUSE_BAD = """
CREATE TRIGGER refuse BEFORE INSERT ON note
WHEN new.text = 'bad' BEGIN SELECT raise(FAIL, 'refused'); END
"""
OPENING = """
import os, signal, sqlite3, sys, threading
def before_fork(): pass
if hasattr(os, 'fork'):  # What is registered first runs last. A child must not hang.
    os.register_at_fork(
        before=lambda: before_fork(), after_in_child=lambda: signal.alarm(10)
    )
import db_connection
db = db_connection.Database()
"""


class FolderTestCase(TestCase):
    """A temporary folder, where the program finds its home and its data."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        self.path = os.path.join(self.folder, 'production-notes', 'notes.db')
        self.real = f'{db_connection.RealDatabase.__name__}({self.path!r})'
        environ = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
        environ.pop('FORCE_COLOR', None)
        homes = 'HOME', 'USERPROFILE', 'XDG_DATA_HOME', 'LOCALAPPDATA'
        environ.update(dict.fromkeys(homes, self.folder), PYTHONUTF8='1', COLUMNS='80')
        environ['PYTHONPATH'] = HERE
        patch = mock.patch.dict(os.environ, environ, clear=True)
        patch.start()
        self.addCleanup(patch.stop)

    def write(self, name, content):
        """Write a file in the folder, and return its path."""
        path = os.path.join(self.folder, name)
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(content)
        return path

    def run_python(self, *arguments, **options):
        """Return what was printed to each stream, and the exit status."""
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'input': ''}
        options = {'cwd': HERE, 'encoding': 'utf-8', **pipes, **options}
        python = sys.executable, '-W', 'error', '-W', FORK_WARNING, '-X', 'dev'
        run = subprocess.run([*python, *arguments], check=False, timeout=30, **options)
        return run.stdout, run.stderr, run.returncode

    def assert_prints(self, lines, *arguments, **options):
        stdout, stderr, status = self.run_python(*arguments, **options)
        self.assertEqual(('', lines, 0), (stderr, stdout.splitlines(), status))

    def program(self, text, testing=False):
        """Write a main file that does this with db, and return its path."""
        text = f'TESTING = {testing}{OPENING}{text}'
        return self.write('a_main.py', text.encode())

    def bare(self, path=None, **options):
        """Connect to the file as another program might: without patience."""
        connection = CONNECT(path or self.path, timeout=0, **options)
        self.addCleanup(connection.close)
        return connection

    def journal_mode(self, path=None):
        with closing(self.bare(path)) as connection:
            return connection.execute('PRAGMA journal_mode').fetchall()[0][0]

    def connections(self, **options):
        """List the connections that are made from now on, with these options."""
        def connect(path, **given):
            made.append(CONNECT(path, **{**given, **options}))
            return made[-1]

        made = []
        self.addCleanup(lambda: [connection.close() for connection in made])
        patch = mock.patch.object(sqlite3, 'connect', connect)
        patch.start()
        self.addCleanup(patch.stop)
        return made

    def assert_closed(self, connection):
        self.assertRaises(sqlite3.ProgrammingError, connection.execute, 'SELECT 1')

    def assert_fails(self, error, message, function, *arguments):
        with self.assertRaises(error) as caught:
            function(*arguments)
        self.assertEqual(message, str(caught.exception))


def at_each_moment(operation, handler):
    """Run operation again and again; yield what it returns or raises each time.

    Each time, handler is called at a later moment, as the handler of a signal might be:
    when the first function that db_connection calls returns, then at the second one,
    and so on. The last run, which ends before that moment, isn't yielded.
    """

    def profile(frame, event, returned):
        nonlocal left
        caller = frame if event == 'c_return' else frame.f_back
        here = caller and caller.f_code.co_filename == db_connection.__file__
        # Python 3.14 keeps a lock whose with statement is interrupted at once.
        entered = getattr(returned, '__name__', None) == '__enter__'
        if left and event.endswith('return') and here and not entered:
            left -= 1
            if not left:
                handler()

    for moment in itertools.count(1):
        left = moment
        sys.setprofile(profile)
        try:
            result = operation()
        except (sqlite3.Error, KeyboardInterrupt, SystemExit) as error:
            result = error
        finally:
            sys.setprofile(None)
        if left:
            return
        yield result


class DatabaseTests:
    """What all databases have in common: its subclasses run it."""

    def open(self, *arguments):
        db = self.database_class(*arguments)
        self.addCleanup(db.close)
        return db

    def open_and_show(self, **options):
        """Return a database, and its connection, which is made with these options."""
        made = self.connections(**options)
        return self.open(), made[0]

    def open_again(self, db):
        """Return what opens like this database: unpickled, and its repr evaluated."""
        again = pickle.loads(pickle.dumps(db)), eval(repr(db), vars(db_connection))
        for each in again:
            self.addCleanup(each.close)
        return again

    def test_a_write_waits_for_30_seconds_and_is_on_disk_when_it_returns(self):
        def with_another_default(*arguments, **options):
            connection = sqlite3.Connection(*arguments, **options)
            connection.execute('PRAGMA synchronous = OFF')
            return connection

        _, connection = self.open_and_show(factory=with_another_default)
        for setting, value in ('busy_timeout', 30_000), ('synchronous', 2):
            rows = connection.execute(f'PRAGMA {setting}').fetchall()
            self.assertEqual([(value,)], rows)

    def test_notes_are_text_and_come_oldest_first(self):
        db, connection = self.open_and_show()
        db.add('b', b'caf\xc3\xa9')
        db.add('a')
        self.assertEqual(['b', 'caf\xe9', 'a'], list(db))
        sql = 'SELECT id, typeof(text) FROM note'
        rows = [(1, 'text'), (2, 'text'), (3, 'text')]
        self.assertEqual(rows, connection.execute(sql).fetchall())

    def test_a_listing_has_each_note_once_in_order_whatever_its_id_is(self):
        db, connection = self.open_and_show()
        connection.execute('PRAGMA reverse_unordered_selects = ON')
        ids = [-(2**63), -(2**40), -1, 0, *range(7, 5000, 4), 2**60, 2**63 - 1]
        rows = [(note, str(note)) for note in reversed(ids)]
        with connection:
            connection.executemany('INSERT INTO note VALUES (?, ?)', rows)
        self.assertEqual([str(note) for note in ids], list(db))

    @skipUnless(tracemalloc, 'PyPy has no tracemalloc')
    def test_a_listing_takes_memory_for_a_page_only(self):
        db = self.open()
        for _ in range(20):
            db.add(*['x' * 10_000] * 100)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertEqual(2000, sum(1 for _ in db))
        self.assertLess(tracemalloc.get_traced_memory()[1], 5_000_000)

    def test_add_is_all_or_nothing_and_an_error_of_sqlite_names_the_database(self):
        db, connection = self.open_and_show()
        connection.execute(REFUSE_BAD)
        ((pages,),) = connection.execute('PRAGMA page_count').fetchall()
        connection.execute(f'PRAGMA max_page_count = {pages}').fetchall()
        for bad, error, message in (
            (object(), TypeError, 'Must supply'),
            (b'caf\xe9', UnicodeDecodeError, ''),
            ('caf\udce9', UnicodeEncodeError, ''),
            ('bad', sqlite3.IntegrityError, f'refused: {db!r}'),
            ('x' * 9000, sqlite3.OperationalError, f'database or disk is full: {db!r}'),
        ):
            with self.subTest(error.__name__):
                with self.assertRaises(error) as caught:
                    db.add('a', bad, 'b')
                self.assertIn(message, str(caught.exception))
                self.assertEqual([], list(db))
        db.add('still works')
        self.assertEqual(['still works'], list(db))
        connection.execute('DROP TABLE note')
        message = f'no such table: note: {db!r}'
        self.assert_fails(sqlite3.OperationalError, message, list, db)

    def test_a_closed_database_opens_again_and_a_dropped_one_is_closed(self):
        made = self.connections()
        db = self.database_class()
        db.close()
        self.assert_closed(made[0])
        db.close()
        db.add('a note')
        self.assertEqual(['a note'], list(db))
        del db
        gc.collect()
        self.assert_closed(made[1])

    def test_a_query_of_ones_own_is_a_transaction(self):
        def work(connection):
            self.assertTrue(connection.in_transaction)
            connection.execute(db_connection.INSERT, ['not kept'])
            raise KeyError

        db = self.open()
        self.assertRaises(KeyError, db._run, work)
        self.assertEqual([], list(db))
        self.assertEqual([(1, 'a row')], db._run(lambda connection: [(1, 'a row')]))

    def test_its_pickle_and_its_repr_open_it_again(self):
        db = self.open()
        for _ in range(2):
            for again in self.open_again(db):
                self.assertIs(type(db), type(again))
                self.assertEqual(repr(db), repr(again))
            db.close()

    def test_threads_share_it(self):
        def work(name):
            for number in range(20):
                db.add(f'{name} {number}', f'{name} {number}')
                lists.append(list(db))

        db, lists = self.open(), []
        threads = [threading.Thread(target=work, args=[name]) for name in 'abcdefgh']
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for notes in lists:
            self.assertEqual(notes[::2], notes[1::2])  # No part of an add.
        self.assertEqual((160, 320), (len(lists), len(list(db))))

    @CPYTHON
    def test_an_interrupt_leaves_all_of_an_add_or_nothing(self):
        def interrupt():
            raise KeyboardInterrupt

        def open_again_and_add():
            db.close()
            db.add('a', 'b')

        db, _ = self.open_and_show()
        for result in at_each_moment(open_again_and_add, interrupt):
            self.assertIsInstance(result, KeyboardInterrupt)
            db.add('still works')
            notes = list(db)
            self.assertEqual(notes.count('a'), notes.count('b'))

    def test_a_call_inside_an_add_does_not_touch_it(self):
        def call_inside():
            list(db)
            for text in 'bad', 'inside':
                try:
                    db.add(text)
                except sqlite3.Error as error:
                    messages.append(str(error))
                else:
                    added.append(text)

        db, connection = self.open_and_show()
        connection.execute(REFUSE_BAD)
        messages, added, outer = [], [], ['a', 'b']
        for result in at_each_moment(lambda: db.add('a', 'b'), call_inside):
            self.assertIsNone(result)
            outer += 'a', 'b'
        self.assertEqual(sorted(outer + added), sorted(db))
        refused = f'a change inside another is refused: {db!r}'
        self.assertEqual({refused, f'refused: {db!r}'}, set(messages))


class TestDatabaseTestCase(DatabaseTests, FolderTestCase):
    """Development's database: in memory, and nowhere else."""
    database_class = db_connection.TestDatabase

    def test_it_is_private_and_has_no_file(self):
        db, connection = self.open_and_show()
        db.add('mine')
        for other in self.open_again(db):
            self.assertEqual([], list(other))
        rows = connection.execute('PRAGMA database_list').fetchall()
        self.assertEqual([(0, 'main', '')], rows)
        self.assertEqual([], os.listdir(self.folder))
        db.close()
        self.assertEqual([], list(db))


class FileDatabaseTestCase(DatabaseTests, FolderTestCase):
    """Production's database: the place, the file, and other processes."""
    database_class = db_connection.RealDatabase

    def content(self, mode, create=db_connection.CREATE):
        """Return the content of a file that has this journal mode and this table."""
        path = self.write('made', b'')
        with closing(self.bare(path)) as connection, connection:
            connection.execute(f'PRAGMA journal_mode = {mode}').fetchall()
            connection.execute(create)
            if create == db_connection.CREATE:
                connection.executemany(db_connection.INSERT, [('x' * 3000,)] * 9)
        return Path(path).read_bytes()

    def change_folder(self):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)

    def test_its_data_home_is_the_variable_or_the_default(self):
        for name, variable, default in DATA_HOMES:
            default = os.path.join(self.folder, *default.split('/'))
            given = os.path.join(self.folder, f'given to {name}')
            for value, home in ('', default), ('relative', default), (given, given):
                with self.subTest(name, value=value):
                    os.environ[variable] = value
                    path = os.path.join(home, 'production-notes', 'notes.db')
                    with closing(getattr(db_connection, name)()) as db:
                        self.assertEqual(f'{name}({path!r})', repr(db))
                    self.assertTrue(os.path.isfile(path))

    def test_without_a_home_it_is_nowhere(self):
        self.change_folder()
        os.environ.update(HOME='relative', USERPROFILE='relative')
        without_passwd = mock.patch.object(os.path, 'expanduser', lambda path: path)
        for name, variable, _ in DATA_HOMES:
            del os.environ[variable]
            message = f'no home folder: set {variable} to a full path'
            self.assert_fails(OSError, message, getattr(db_connection, name))
            with without_passwd:
                self.assert_fails(OSError, message, getattr(db_connection, name))
        self.assertEqual([], os.listdir())

    def test_a_path_takes_the_place_of_its_own(self):
        self.change_folder()
        name = "it's 100%41 #1 " + os.fsdecode('\xe9'.encode())
        name += '?mode=memory' * (os.name == 'posix')
        db = self.open(os.path.join('elsewhere', name))
        os.chdir(os.path.dirname(self.folder))
        path = os.path.join(self.folder, 'elsewhere', name)
        db.add('a note')
        self.assertEqual(path, db.path)
        self.assertEqual(f'{self.database_class.__name__}({path!r})', repr(db))
        self.assertEqual(['elsewhere'], os.listdir(self.folder))
        self.assertTrue(os.path.isfile(path))

    @POSIX
    def test_only_the_owner_reaches_what_it_makes(self):
        self.addCleanup(os.umask, os.umask(0))
        path = os.path.join(self.folder, 'a', 'b', 'notes.db')
        link = os.path.join(self.folder, 'link.db')
        os.symlink('linked.db', link)
        for name in path, link:
            db = self.open(name)
            db.close()
            os.remove(os.path.realpath(name))
            db.add('It is made anew.')
        self.assertTrue(os.path.islink(link))
        modes = {
            name: stat.S_IMODE(os.stat(os.path.join(parent, name)).st_mode)
            for parent, folders, files in os.walk(self.folder)
            for name in folders + files
        }
        self.assertEqual({0o700}, {modes.pop('a'), modes.pop('b')})
        self.assertEqual({0o600}, set(modes.values()), modes)

    def test_a_wrong_file_is_refused_and_left_as_it_is(self):
        with closing(self.open()) as db:
            db.add('kept')
        db.close = self.fail  # A refused file is closed without a subclass's own close.
        right, made = Path(self.path).read_bytes(), self.connections()
        for mode in 'DELETE', 'WAL':
            healthy = self.content(mode)
            for content, cause in (
                (b'no', 'file is not a database'),
                (b'a text file\n', 'file is not a database'),
                (b'SQLite format 3\0' + b'garbage' * 1000, 'file is not a database'),
                (healthy[:9000], 'database disk image is malformed'),
                (healthy.replace(b'CREATE', b'DAMAGE'), 'malformed database schema'),
                (healthy[:4096].ljust(len(healthy)), 'database disk image is malform'),
                (self.content(mode, 'CREATE TABLE note (id)'), 'no such column: text'),
                (self.content(mode, 'CREATE TABLE NOTE (text)'), 'no such column: id'),
            ):
                with self.subTest(cause, mode=mode):
                    self.write(self.path, content)
                    with self.assertRaises(sqlite3.DatabaseError) as caught:
                        db.add('a note')
                    self.assertRegex(str(caught.exception), f'^{cause}')
                    self.assertTrue(str(caught.exception).endswith(f': {db!r}'))
                    self.assert_closed(made[-1])
                    self.assertEqual(content, Path(self.path).read_bytes())
        self.write(self.path, right)
        self.assertEqual(['kept'], list(db))

    def test_a_file_is_in_wal_mode_once_the_lock_is_free(self):
        self.write(self.path, self.content('DELETE'))
        other = self.bare(isolation_level=None)
        other.execute('BEGIN IMMEDIATE')
        self.open().close()
        other.execute('ROLLBACK')
        self.assertEqual('delete', self.journal_mode())
        self.open().close()
        self.assertEqual('wal', self.journal_mode())

    def test_a_writer_waits_for_another(self):
        db = self.open()
        other = self.bare(isolation_level=None, check_same_thread=False)
        other.execute('BEGIN IMMEDIATE')
        threading.Timer(0.2, other.execute, ['COMMIT']).start()
        db.add('a note')
        self.assertFalse(other.in_transaction)

    def test_only_what_writes_waits_and_it_says_for_what(self):
        with closing(self.open()) as db:
            db.add('a note')
        self.connections(timeout=0)
        self.bare(isolation_level=None).execute('BEGIN IMMEDIATE')
        db.add()
        self.assertEqual(['a note'], list(db))
        message = f'database is locked: {db!r}'
        self.assert_fails(sqlite3.OperationalError, message, db.add, 'another')

    def test_a_half_read_listing_holds_up_nobody(self):
        db = self.open()
        db.add(*['a note'] * 1000)
        listing = iter(db)
        next(listing)
        with closing(self.bare(isolation_level=None)) as other:
            other.execute(db_connection.INSERT, ['another'])
            thread = threading.Thread(target=db.add, args=['of a thread'])
            thread.start()
            thread.join()
            checkpoint = other.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()
        self.assertEqual([(0, 0, 0)], checkpoint)
        self.assertEqual(999, len(list(listing)))

    @CPYTHON
    def test_a_handler_that_closes_it_and_exits_ends_the_call(self):
        def close_and_exit():
            db.close()
            sys.exit()

        db = self.open()
        for result in at_each_moment(lambda: db.add('a', 'b'), close_and_exit):
            self.assertIsInstance(result, SystemExit)
            self.assertEqual(0, len(list(db)) % 2)


FORKING = """
def fork():
    if os.fork():
        os.read(added, 1)
    else:
        add_to_all()
        os.write(adding, b'.')
        os.read(closed, 1)
        add_to_all()
        os._exit(0)

def add_to_all():
    for each in dbs:
        each.add('of a child')

def close():  # This deletes the WAL. What is open across a fork would go on writing it.
    for each in dbs:
        db_connection.SQLiteDatabase.close(each)
    os.write(closing, b'.')
    os.wait()

dbs = [db]
added, adding = os.pipe()
closed, closing = os.pipe()
"""
FORKED = """
def before_fork():  # Another thread can't open the file now.
    thread.start()
    thread.join(0.2)
    print(thread.is_alive(), flush=True)

def add_in_a_thread():
    adder = threading.Thread(target=db.add, args=['of a thread of a child'])
    adder.start()
    adder.join()

class Other(db_connection.RealDatabase):
    close = None  # A fork closes the database, whatever a subclass makes of close.

dbs.append(Other(db.path))
memory = db_connection.TestDatabase()
memory.add('as it was')
os.register_at_fork(after_in_child=lambda: memory.add('of a child'))
os.register_at_fork(after_in_child=lambda: print(*memory, sep=', ', flush=True))
thread = threading.Thread(target=db.add, args=['of a thread'])
os.register_at_fork(after_in_child=add_in_a_thread)
fork()
thread.join()
close()
print(*memory)
print(*sorted(db), sep=', ')
"""
FORKED_BY_A_HANDLER = """
from test_utils import at_each_moment

def reopen():
    db.close()
    db.add('of the parent')

forks, kept = 0, 1  # at_each_moment adds once more.
for operation in reopen, lambda: list(db):
    for result in at_each_moment(operation, fork):
        close()
        forks += 1
        kept += result is None
        if isinstance(result, Exception):
            assert str(result).endswith(f'closed database.: {db!r}'), result
notes = list(db)
print(forks > 20, notes.count('of a child') - 2 * forks)
print(kept - notes.count('of the parent'))
"""
FORKED_IN_SPITE_OF_AN_INTERRUPT = """
class Slow(str):
    def __conform__(self, protocol):  # sqlite3 asks for it in the middle of an add.
        started.set()
        going_on.wait()
        return str(self)

def interrupt(signum, frame):
    going_on.set()
    raise KeyboardInterrupt

started, going_on = threading.Event(), threading.Event()
thread = threading.Thread(target=db.add, args=[Slow('of a thread')])
thread.start()
started.wait()
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.2)
fork()  # It waits for the thread, and is interrupted.
close()
thread = threading.Thread(target=db.add, args=['of another thread'])
thread.start()
thread.join()
print(*sorted(db), sep=', ')
"""


@skipUnless(hasattr(os, 'fork'), 'Windows has no fork')
class ForkTestCase(FolderTestCase):
    """What is stored after a fork: all that was added, by the parent and the child."""

    def test_a_child_loses_nothing_and_has_a_copy_of_what_is_in_memory(self):
        notes = ['of a child'] * 4 + ['of a thread', 'of a thread of a child']
        lines = ['True', 'as it was, of a child', 'as it was', ', '.join(notes)]
        self.assert_prints(lines, self.program(FORKING + FORKED))

    @CPYTHON
    def test_a_child_that_a_signal_handler_forks_loses_nothing(self):
        program = self.program(FORKING + FORKED_BY_A_HANDLER)
        self.assert_prints(['True 0', '0'], program)

    def test_an_interrupt_of_a_fork_that_waits_does_no_harm(self):
        program = self.program(FORKING + FORKED_IN_SPITE_OF_AN_INTERRUPT)
        stdout, stderr, status = self.run_python(program)
        notes = 'of a child, of a child, of a thread, of another thread\n'
        self.assertEqual((notes, 0), (stdout, status))
        self.assertRegex(stderr, r'^Exception ignored (?s:.*)\nKeyboardInterrupt')


ENDED = """
class Connection(sqlite3.Connection):
    def close(self):
        print('closed')
        super().close()

sqlite3.connect = Connection
dbs = db_connection.Database(), db_connection.TestDatabase()
db.close()
"""
KILLED = """
class Kill(str):
    def __conform__(self, protocol):  # sqlite3 asks for it in the middle of an add.
        os.kill(os.getpid(), signal.SIGTERM)

db.add('kept')
db.add('a part', Kill())
"""
WORKERS = """
import multiprocessing

def work(barrier, pickled, text):
    barrier.wait(timeout=20)
    new = db_connection.RealDatabase(f'opened by {text}.db')
    for each in new, db, pickled:
        each.add(text)
        each.close()

if __name__ == '__main__':
    db.add('main')
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        arguments = context.Barrier(4), db, method
        workers = [context.Process(target=work, args=arguments) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        new = db_connection.RealDatabase(f'opened by {method}.db')
        print(method, len(list(new)), list(db).count(method))
        new.close()
    print(*sorted(db))
"""


class ProcessTestCase(FolderTestCase):
    """Processes that share the file, from their start to their end."""

    def test_both_kinds_are_closed_at_exit(self):
        self.assert_prints(['closed', 'closed'], self.program(ENDED))

    def test_workers_share_a_file_and_may_open_a_new_one_at_the_same_instant(self):
        methods = multiprocessing.get_all_start_methods()
        for testing in True, False:
            with self.subTest(testing):
                path = self.program(WORKERS, testing)
                lines = [f'{method} 4 {0 if testing else 8}' for method in methods]
                notes = sorted(['main', *([] if testing else methods * 8)])
                self.assert_prints([*lines, ' '.join(notes)], path, cwd=self.folder)
                for method in methods:
                    path = os.path.join(self.folder, f'opened by {method}.db')
                    self.assertEqual('wal', self.journal_mode(path))
                    os.remove(path)

    def test_a_killed_process_loses_no_note_and_leaves_no_part(self):
        status = self.run_python(self.program(KILLED))[2]
        self.assertNotEqual(0, status)
        self.assert_prints([self.real, 'kept'], 'prod_main.py')


class ProgramTestCase(FolderTestCase):
    """The program, in this process, where standard output need not be a file."""

    def setUp(self):
        super().setUp()
        self.db = db_connection.TestDatabase()
        self.addCleanup(self.db.close)

    def main(self, *arguments, db=None):
        argv = mock.patch.object(sys, 'argv', ['a_main.py', *arguments])
        with argv, contextlib.redirect_stdout(io.StringIO()) as self.stdout:
            utils.main(db or self.db)
        return self.stdout.getvalue()

    def test_it_prints_each_note_as_it_is_read_and_ends_with_an_error(self):
        def notes():
            yield 'a note'
            printed.append(self.stdout.getvalue())
            raise BrokenPipeError('of the database')  # Not of the output.

        printed = []
        db = mock.MagicMock(__iter__=lambda db: notes(), __repr__=lambda db: 'db')
        with self.assertRaisesRegex(BrokenPipeError, 'of the database'):
            self.main(db=db)
        self.assertEqual(['db\na note\n'], printed)

    def test_it_runs_without_a_standard_output(self):
        argv = mock.patch.object(sys, 'argv', ['a_main.py', 'a note'])
        with argv, contextlib.redirect_stdout(None):
            utils.main(self.db)
        self.assertEqual(['a note'], list(self.db))


class MainsTestCase(FolderTestCase):
    """The two main files, as they're run."""

    def test_development_forgets(self):
        self.assert_prints(['TestDatabase()', 'try this'], 'dev_main.py', 'try this')
        self.assert_prints(['TestDatabase()'], 'dev_main.py')
        self.assertEqual([], os.listdir(self.folder))

    def test_production_keeps(self):
        self.assert_prints([self.real, 'keep this'], 'prod_main.py', 'keep this')
        self.assert_prints([self.real, 'keep this', 'b', 'a'], 'prod_main.py', 'b', 'a')

    def test_they_differ_in_docstring_and_testing_alone(self):
        files = (Path(HERE, f'{name}_main.py') for name in ('dev', 'prod'))
        dev, prod = (file.read_text(encoding='utf-8') for file in files)
        pairs = zip(dev.splitlines(), prod.splitlines(), strict=True)
        docstrings, testing = [pair for pair in pairs if len(set(pair)) == 2]
        self.assertEqual(docstrings, (dev.splitlines()[0], prod.splitlines()[0]))
        self.assertEqual(('TESTING = True', 'TESTING = False'), testing)

    def test_help_explains_the_usage(self):
        stdout, stderr, status = self.run_python('dev_main.py', '--help')
        self.assertEqual(('', 0), (stderr, status))
        usage, what, *_ = stdout.split('\n\n')
        self.assertEqual('usage: dev_main.py [-h] [NOTE ...]', usage)
        self.assertEqual('Store each NOTE, then show them all.', what)
        self.assertRegex(stdout, r'  NOTE +its text\n')

    def test_a_usage_error_stores_nothing(self):
        invalid = b'caf\xe9' if os.name == 'posix' else 'caf\udce9'
        for argument, cause in (
            ('--unknown', 'unrecognized arguments: --unknown'),
            (invalid, r"argument NOTE: invalid utf8 value: 'caf\udce9'"),
        ):
            with self.subTest(cause):
                stdout, stderr, status = self.run_python('prod_main.py', 'a', argument)
                self.assertEqual('', stdout)
                self.assertRegex(stderr, r'\Ausage: .*\nprod_main.py: error: .*\n\Z')
                self.assertIn(cause, stderr)
                self.assertEqual(2, status)
        self.assert_prints([self.real], 'prod_main.py')

    def test_arguments_are_utf_8_and_what_output_cannot_encode_is_escaped(self):
        os.environ.update(PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', LC_ALL='C')
        note = 'caf\xe9 \u2026'
        argument = note.encode() if os.name == 'posix' else note
        for encoding, line in ('utf-8', note), ('ascii', r'caf\xe9 \u2026'):
            os.environ['PYTHONIOENCODING'] = encoding
            self.assert_prints(['TestDatabase()', line], 'dev_main.py', argument)

    @POSIX  # Windows' error is another one.
    def test_a_reader_that_stops_early_is_no_error(self):
        for notes in ['few'], ['many' * 10_000] * 3:
            with self.subTest(notes[0][:4]):
                reading, writing = os.pipe()
                os.close(reading)
                result = self.run_python('dev_main.py', *notes, stdout=writing)
                os.close(writing)
                self.assertEqual((None, '', 0), result)


class ReadmeTestCase(FolderTestCase):
    """What README.md shows is what happens."""

    @POSIX
    def test_commands_print_what_is_shown(self):
        del os.environ['XDG_DATA_HOME'], os.environ['PYTHONPATH']
        os.environ['PYTHONUNBUFFERED'] = '1'
        text = Path(HERE, 'README.md').read_text(encoding='utf-8')
        commands = re.findall(r'(?m)^\$ python (.*)\n((?:[^$`].*\n)*)', text)
        for command, shown in commands:
            if command == '-m unittest' or not tracemalloc and 'tracemalloc' in command:
                continue
            with self.subTest(command):
                typed = re.findall(f'{PROMPT}(.*\n)', shown)
                options = {'input': ''.join(typed), 'stderr': subprocess.STDOUT}
                output, _, _ = self.run_python(*shlex.split(command), **options)
                for path, name in (HERE, '/home/you/code'), (self.folder, '/home/you'):
                    output = output.replace(repr(path)[1:-1], name).replace(path, name)
                output = re.sub(PROMPT, '', output).replace('"', "'")
                pattern = re.escape(re.sub(f'{PROMPT}.*\n', '', shown))
                self.assertRegex(output, f'(?s)^{pattern}$'.replace('…', '.*'))


if __name__ == '__main__':
    main()
