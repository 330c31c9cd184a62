"""The suite: unit tests in this process, integration tests that run the main files."""

import gc
import importlib
import io
import multiprocessing
import os
import re
import shlex
import sqlite3
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import types
from contextlib import closing, redirect_stdout, suppress
from unittest import TestCase, defaultTestLoader, main, mock, skipUnless

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
            with self.subTest(bad), self.assertRaises(TypeError) as caught:
                to_str(bad)
            self.assertEqual(
                f'Must supply str or bytes, found: {bad!r}', str(caught.exception)
            )


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

    def test_testing_chooses_the_database(self):
        for testing, name in (True, 'TestDatabase'), (False, 'RealDatabase'):
            with self.subTest(testing):
                module = choose(main_file(TESTING=testing))
                self.assertIs(module.Database, getattr(module, name))

    def test_the_platform_chooses_the_real_database(self):
        for platform, name in (
            ('win32', 'Win32Database'),
            ('linux', 'PosixDatabase'),
            ('darwin', 'PosixDatabase'),
            ('cygwin', 'PosixDatabase'),
        ):
            with self.subTest(platform):
                module = choose(main_file(TESTING=False), platform=platform)
                self.assertIs(module.RealDatabase, getattr(module, name))

    def assert_refused(self, name, found, main_module):
        with self.subTest(found), self.assertRaises(RuntimeError) as caught:
            choose(main_module)
        self.assertEqual(
            f'{name} must set TESTING to True or False{found} '
            'before it imports db_connection',
            str(caught.exception),
        )

    def test_anything_but_true_and_false_is_refused(self):
        for bad in 'False', '', 0, 1, None, []:
            main_module = main_file(__file__='a_main.py', TESTING=bad)
            self.assert_refused('a_main.py', f', not {bad!r},', main_module)
        self.assert_refused('a_main.py', '', main_file(__file__='a_main.py'))
        self.assert_refused('__main__', '', main_file())

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
        with self.assertRaises(RuntimeError):
            choose(main_file(TESTING=None), main_file(TESTING=True))


HERE = os.path.dirname(os.path.abspath(__file__))
POSIX = skipUnless(os.name == 'posix', 'Windows has no such thing')
TRACEMALLOC = skipUnless(tracemalloc, 'needs tracemalloc')


class FolderTestCase(TestCase):
    """A temporary folder, where the program finds its home and its data."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        self.path = os.path.join(self.folder, 'production-notes', 'notes.db')
        environ = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
        environ.pop('FORCE_COLOR', None)
        homes = 'HOME', 'USERPROFILE', 'XDG_DATA_HOME', 'LOCALAPPDATA'
        environ.update(dict.fromkeys(homes, self.folder), PYTHONUTF8='1', COLUMNS='80')
        environ['PYTHONPATH'] = HERE
        patched = mock.patch.dict(os.environ, environ, clear=True)
        patched.start()
        self.addCleanup(patched.stop)

    def write(self, name, content):
        """Write a file in the folder, and return its path."""
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    def program(self, text):
        """Write a main file of production that does this with db; return its path."""
        imports = 'import os, signal, sqlite3, threading\nimport db_connection\n'
        if hasattr(os, 'fork'):  # A child that hangs is to end.
            imports += 'os.register_at_fork(after_in_child=lambda: signal.alarm(15))\n'
        opening = 'db = db_connection.Database()\n'
        return self.write('a_main.py', f'TESTING = False\n{imports}{opening}{text}')

    def start(self, *arguments, **options):
        """Start Python with these arguments; a warning is an error."""
        options = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE) | {
            'cwd': HERE,
            'encoding': 'utf-8',
            **options,
        }
        process = subprocess.Popen(
            [sys.executable, '-W', 'error', '-X', 'dev', *arguments], **options
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def run_python(self, *arguments, stdin='', **options):
        """Return what was printed to each stream, and the exit status."""
        process = self.start(*arguments, **options)
        return *process.communicate(stdin, timeout=30), process.returncode

    def assert_prints(self, lines, *arguments, **options):
        stdout, stderr, status = self.run_python(*arguments, **options)
        self.assertEqual(('', lines, 0), (stderr, stdout.splitlines(), status))


class DatabaseTests:
    """What all databases have in common."""

    def open(self, *arguments):
        db = self.database(*arguments)
        self.addCleanup(db.close)
        return db

    def assert_fails(self, error, message, function, *arguments):
        with self.assertRaises(error) as caught:
            function(*arguments)
        self.assertEqual(message, str(caught.exception))

    def test_it_is_a_connection_with_its_table_and_settings(self):
        db = self.open()
        self.assertIsInstance(db, sqlite3.Connection)
        self.assertEqual(
            [('CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)',)],
            db.execute('SELECT sql FROM sqlite_master').fetchall(),
        )
        self.assertEqual([(30000,)], db.execute('PRAGMA busy_timeout').fetchall())
        self.assertEqual([(2,)], db.execute('PRAGMA synchronous').fetchall())
        self.assertEqual('IMMEDIATE', db.isolation_level)

    def opening(self, **errors):
        """Return the statements that opening executes, some with an error."""
        statements = []

        class Recorded(self.database):
            def execute(self, sql):
                statements.append(sql)
                for word, error in errors.items():
                    if word in sql:
                        raise error
                return super().execute(sql)

            def close(self):
                statements.append('close')
                super().close()

        with suppress(*map(type, errors.values())):
            Recorded().close()
        return statements

    def test_wal_mode_is_set_after_reading_and_before_anything_is_written(self):
        # Else one that fails to set WAL may keep the others from setting it.
        reading, setting, *others, writing, _ = self.opening()
        self.assertRegex(reading, '^SELECT ')
        self.assertEqual('PRAGMA journal_mode = WAL', setting)
        self.assertIn('PRAGMA synchronous = FULL', others)
        self.assertRegex(writing, '^CREATE TABLE ')

    def test_opening_waits_for_a_lock_once_and_leaves_nothing_open(self):
        locked, interrupt = sqlite3.OperationalError('locked'), KeyboardInterrupt()
        for error in locked, interrupt:
            with self.subTest(error):
                self.assertEqual('close', ' '.join(self.opening(SELECT=error)[1:]))
        self.assertRegex(str(locked), r'^locked: Recorded\(')
        self.assertEqual((), interrupt.args)

    def test_a_mode_that_cannot_be_set_is_left_for_later(self):
        locked = sqlite3.OperationalError('database is locked')
        self.assertRegex(self.opening(journal_mode=locked)[-2], '^CREATE TABLE ')
        interrupted = self.opening(journal_mode=KeyboardInterrupt())
        self.assertRegex(interrupted[-2], '^PRAGMA journal_mode ')

    def test_notes_are_text_and_come_oldest_first(self):
        db = self.open()
        db.add('b', b'caf\xc3\xa9')
        db.add('a')
        db.row_factory = lambda cursor, row: {'row': row}
        self.assertEqual(['b', 'caf\xe9', 'a'], list(db))
        rows = db.execute('SELECT DISTINCT typeof(text) FROM note').fetchall()
        self.assertEqual([{'row': ('text',)}], rows)

    def test_a_listing_has_each_note_once_in_order_whatever_its_id_is(self):
        db = self.open()
        db.execute('PRAGMA reverse_unordered_selects = ON')
        ids = [-(2**63), -(2**40), -1, 0, *range(7, 5000, 4), 2**60, 2**63 - 1]
        insert = 'INSERT INTO note VALUES (?, ?)'
        db.executemany(insert, [(note, str(note)) for note in reversed(ids)])
        self.assertEqual([str(note) for note in ids], list(db))

    def test_a_listing_has_each_note_at_each_number_of_notes(self):
        db = self.open()
        numbers = 0, 1, 499, 500, 501, 999, 1000, 1001
        for before, number in zip((0, *numbers), numbers):
            db.add(*map(str, range(before, number)))
            self.assertEqual([*map(str, range(number))], list(db))

    def test_a_listing_ends_with_what_was_there_when_it_began(self):
        db = self.open()
        db.add(*['old'] * 600)
        for text in db:
            self.assertEqual('old', text)
            db.add('new')
        self.assertEqual(1200, len(list(db)))

    def test_an_error_of_whoever_reads_a_listing_is_not_changed(self):
        db = self.open()
        db.add('a note')
        listing = iter(db)
        next(listing)
        with self.assertRaises(KeyError) as caught:
            listing.throw(KeyError('a key'))
        self.assertEqual(('a key',), caught.exception.args)

    def test_add_is_one_transaction_that_takes_its_lock_first(self):
        db = self.open()
        statements = []
        db.set_trace_callback(statements.append)
        db.add('a', 'b')
        self.assertEqual('BEGIN IMMEDIATE', statements[0].strip())
        self.assertEqual(
            ['BEGIN', 'INSERT', 'INSERT', 'COMMIT'], [s.split()[0] for s in statements]
        )

    def test_add_of_nothing_does_nothing(self):
        db = self.open()
        statements = []
        db.set_trace_callback(statements.append)
        db.add()
        self.assertEqual([], statements)

    def test_add_is_all_or_nothing_whatever_the_transaction_control_is(self):
        db = self.open()
        db.execute(
            'CREATE TRIGGER refuse BEFORE INSERT ON note '
            "WHEN new.text = 'bad' BEGIN SELECT raise(FAIL, 'refused'); END"
        )
        level = 'isolation_level'
        for control in (level, ''), (level, None), ('autocommit', True):
            setattr(db, *control)
            for bad, error, named in (
                (object(), TypeError, False),
                (b'caf\xe9', UnicodeDecodeError, False),
                ('caf\udce9', UnicodeEncodeError, False),
                ('bad', sqlite3.IntegrityError, True),
            ):
                with self.subTest(bad, control=control):
                    with self.assertRaises(error) as caught:
                        db.add('a', bad, 'b')
                    messages = map(str, caught.exception.args)
                    self.assertEqual(
                        [f'refused: {db!r}'] * named,
                        [message for message in messages if repr(db) in message],
                    )
                    self.assertEqual([], list(db))
                    self.assertFalse(db.in_transaction)
        db.add('still works')
        self.assertFalse(db.in_transaction)
        self.assertEqual(['still works'], list(db))

    def test_add_leaves_a_transaction_of_the_caller_alone(self):
        db = self.open()
        db.execute(db_connection.INSERT, ["the caller's"])
        message = f'cannot start a transaction within a transaction: {db!r}'
        self.assert_fails(sqlite3.OperationalError, message, db.add, 'a note')
        self.assertTrue(db.in_transaction)
        db.commit()
        self.assertEqual(["the caller's"], list(db))

    def test_a_full_disk_is_said_and_survived(self):
        db = self.open()
        db.add('before')
        ((pages,),) = db.execute('PRAGMA page_count').fetchall()
        db.execute(f'PRAGMA max_page_count = {pages}').fetchall()
        message = f'database or disk is full: {db!r}'
        large = 'large' * 10_000
        self.assert_fails(sqlite3.OperationalError, message, db.add, 'small', large)
        db.execute('PRAGMA max_page_count = 1000000').fetchall()
        db.add('after')
        self.assertEqual(['before', 'after'], list(db))

    def test_an_error_of_a_listing_names_the_database(self):
        db = self.open()
        db.execute('DROP TABLE note')
        message = f'no such table: note: {db!r}'
        self.assert_fails(sqlite3.OperationalError, message, list, db)

    @TRACEMALLOC
    def test_listing_takes_no_more_memory_for_more_notes(self):
        db = self.open()
        db.execute('PRAGMA reverse_unordered_selects = ON')
        peaks = []
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for more in 2000, 0, 8000:
            db.add(*['a note'] * more)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in db:
                pass
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        self.assertLess(peaks[2], peaks[1] + 5000)

    @TRACEMALLOC
    def test_opening_and_closing_leaks_nothing(self):
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        held = []
        for times in 20, 100:
            for _ in range(times):
                self.database().close()
            gc.collect()
            files = os.listdir('/dev/fd') if os.path.isdir('/dev/fd') else ()
            held.append((tracemalloc.get_traced_memory()[0], len(files)))
        (memory, files), (more_memory, more_files) = held
        self.assertLess(more_memory, memory + 10_000)
        self.assertEqual(files, more_files)


class TestDatabaseTestCase(DatabaseTests, FolderTestCase):
    """Development's database: in memory, and nowhere else."""

    database = db_connection.TestDatabase

    def test_repr_opens_such_a_database(self):
        self.assertEqual('TestDatabase()', repr(self.open()))

    def test_it_is_private_to_its_connection(self):
        self.open().add('mine')
        self.assertEqual([], list(self.open()))

    def test_a_fork_that_python_does_not_see_begin_changes_nothing(self):
        module = choose(main_file(TESTING=True))  # Some servers fork in C.
        with closing(module.Database()) as db:
            db.add('as it was')
            module._reopen()
            self.assertEqual(['as it was'], list(db))

    def test_it_has_no_file_and_looks_for_none(self):
        with mock.patch.object(db_connection, 'os', None):
            db = self.open()
        self.assertEqual([('memory',)], db.execute('PRAGMA journal_mode').fetchall())
        self.assertEqual([], os.listdir(self.folder))


class FileDatabaseTestCase(DatabaseTests, FolderTestCase):
    """Production's database: the place, the file, and other processes."""

    database = db_connection.RealDatabase

    def bare(self, path=None, **options):
        """Open the file as another program might: without settings or patience."""
        connection = sqlite3.connect(path or self.path, timeout=0, **options)
        self.addCleanup(connection.close)
        return connection

    def make_bare(self, mode, create=db_connection.CREATE, rows=9):
        """Make a file with this table and some pages, and return its content."""
        self.write(self.path, b'')
        with closing(self.bare()) as connection, connection:
            connection.execute(f'PRAGMA journal_mode = {mode}').fetchall()
            connection.execute(create)
            if rows:
                connection.executemany(db_connection.INSERT, [('x' * 3000,)] * rows)
        return self.read()

    def read(self):
        with open(self.path, 'rb') as file:
            return file.read()

    def journal_mode(self):
        with closing(self.bare()) as connection:
            return connection.execute('PRAGMA journal_mode').fetchall()[0][0]

    def test_its_data_home_is_the_variable_or_the_default(self):
        for name, variable, *default in (
            ('PosixDatabase', 'XDG_DATA_HOME', '.local', 'share'),
            ('Win32Database', 'LOCALAPPDATA', 'AppData', 'Local'),
        ):
            for number, (value, *parts) in enumerate(
                ((None, *default), ('', *default), ('relative', *default), ('data',))
            ):
                with self.subTest(name, value=value):
                    home = os.path.join(self.folder, f'{name}{number}')
                    if value == 'data':
                        parts = [value := os.path.join(home, value)]
                    environ = {'HOME': home, 'USERPROFILE': home}
                    if value is not None:
                        environ[variable] = value
                    path = os.path.join(home, *parts, 'production-notes', 'notes.db')
                    with mock.patch.dict(os.environ, environ, clear=True):
                        db = getattr(db_connection, name)()
                    db.close()
                    self.assertEqual(f'{name}({path!r})', repr(db))
                    self.assertTrue(os.path.isfile(path))

    def test_without_a_home_it_is_nowhere(self):
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        for variable in 'XDG_DATA_HOME', 'LOCALAPPDATA':
            del os.environ[variable]
        os.environ.update(HOME='relative', USERPROFILE='relative')
        without_passwd = mock.patch.object(os.path, 'expanduser', lambda path: path)
        for name, variable in (
            ('PosixDatabase', 'XDG_DATA_HOME'),
            ('Win32Database', 'LOCALAPPDATA'),
        ):
            with self.subTest(name):
                message = f'^no home folder: set {variable} to a full path$'
                with self.assertRaisesRegex(OSError, message):
                    getattr(db_connection, name)()
                with without_passwd, self.assertRaisesRegex(OSError, message):
                    getattr(db_connection, name)()
        self.assertEqual([], os.listdir())

    def test_a_path_takes_the_place_of_its_own(self):
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        name = "it's 100%41 \xe9#1.db" + ('?mode=memory' if os.name == 'posix' else '')
        path = os.path.join(os.getcwd(), 'elsewhere', name)
        db = self.open(os.path.join('elsewhere', name))
        os.chdir(here)
        db.add('a note')
        self.assertEqual(f'{self.database.__name__}({path!r})', repr(db))
        self.assertEqual(['a note'], list(self.open(path)))
        self.assertEqual(['elsewhere'], os.listdir(self.folder))
        with closing(self.bare(path)) as other:
            self.assertEqual([(1,)], other.execute('SELECT id FROM note').fetchall())

    def test_repr_opens_the_same_database(self):
        db = self.open()
        db.add('kept')
        again = eval(repr(db), vars(db_connection))
        self.addCleanup(again.close)
        self.assertIs(type(db), type(again))
        self.assertEqual(['kept'], list(again))

    @POSIX
    def test_only_the_owner_reaches_what_it_makes(self):
        everyone = struct.pack('<I', 2) + b''.join(
            struct.pack('<HHI', who, 7, 0xFFFFFFFF) for who in (1, 4, 32)
        )
        with suppress(AttributeError, OSError):  # A default ACL overrides the umask.
            os.setxattr(self.folder, 'system.posix_acl_default', everyone)
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        path = os.path.join(self.folder, 'a', 'b', 'notes.db')
        link = os.path.join(self.folder, 'link.db')
        os.symlink('linked.db', link)
        with mock.patch.object(os, 'umask', self.fail):
            for name in path, link:
                db = self.open(name)
                db.add('a note')
                self.assertEqual(name, db.path)
        self.assertTrue(os.path.islink(link))
        modes = {
            name: stat.S_IMODE(os.stat(os.path.join(parent, name)).st_mode)
            for parent, folders, files in os.walk(self.folder)
            for name in folders + files
        }
        self.assertEqual({0o700}, {modes.pop('a'), modes.pop('b')})
        self.assertEqual({0o600}, set(modes.values()), modes)

    @POSIX
    def test_what_is_there_keeps_its_mode(self):
        self.write(self.path, b'')
        os.chmod(self.path, 0o640)
        os.chmod(os.path.dirname(self.path), 0o750)
        with mock.patch('pathlib.Path.touch', self.fail):
            self.open()
        for path, mode in (self.path, 0o640), (os.path.dirname(self.path), 0o750):
            self.assertEqual(mode, stat.S_IMODE(os.stat(path).st_mode))

    def test_a_file_that_was_made_meanwhile_is_kept(self):
        with closing(self.open()) as db:
            db.add('kept')
        with mock.patch.object(os.path, 'exists', return_value=False):
            self.assertEqual(['kept'], list(self.open()))

    def test_threads_make_a_file_one_at_a_time(self):
        # One that closes the new file would drop the locks of one that uses it already.
        thread = threading.Thread(target=lambda: self.database().close())
        with db_connection._making:
            thread.start()
            thread.join(0.1)
            self.assertFalse(os.path.exists(self.path))
        thread.join()
        self.assertTrue(os.path.exists(self.path))

    def assert_refused(self, content, cause):
        """Write content in the file's place; see it refused and unchanged."""
        self.write(self.path, content)
        with self.assertRaises(sqlite3.DatabaseError) as caught:
            self.open()
        self.assertRegex(str(caught.exception), f'^{cause}')
        name = f': {self.database.__name__}({self.path!r})'
        self.assertTrue(str(caught.exception).endswith(name), str(caught.exception))
        self.assertEqual(content, self.read())

    def test_a_wrong_file_is_refused_and_left_as_it_is(self):
        for mode in 'DELETE', 'WAL':
            healthy = self.make_bare(mode)
            damaged = healthy.replace(b'CREATE', b'DAMAGE')
            for content, cause in (
                (b'no', 'file is not a database'),
                (b'a text file\n', 'file is not a database'),
                (b'SQLite format 3\0' + b'garbage' * 1000, 'file is not a database'),
                (healthy[:9000], 'database disk image is malformed'),
                (damaged, r'malformed database schema \(note\)'),
                (
                    damaged.replace(b'tablenotenote', b'tablen\xfften\xffte'),
                    # Python 3.10 has no message for this.
                    r'malformed .* \(n.te\)' if sys.version_info > (3, 11) else ':',
                ),
                (healthy[:4096].ljust(len(healthy)), 'database disk image is malform'),
            ):
                with self.subTest(cause, mode=mode):
                    self.assert_refused(content, cause)

    def test_another_table_is_refused_and_left_as_it_is(self):
        for table, missing in ('note (id, body)', 'text'), ('NOTE (key, text)', 'id'):
            for mode in 'DELETE', 'WAL':
                with self.subTest(table, mode=mode):
                    content = self.make_bare(mode, f'CREATE TABLE {table}', rows=0)
                    self.assert_refused(content, f'no such column: {missing}')

    def test_a_damaged_page_ends_a_listing_with_an_error(self):
        pages = len(self.make_bare('WAL')) // 4096
        with open(self.path, 'r+b') as file:
            file.seek(pages // 2 * 4096)
            file.write(bytes(4096))
        db = self.open()
        message = f'database disk image is malformed: {db!r}'
        self.assert_fails(sqlite3.DatabaseError, message, list, db)

    def test_a_folder_where_the_file_should_be_is_refused(self):
        os.makedirs(self.path)
        name = f'{self.database.__name__}({self.path!r})'
        message = f'unable to open database file: {name}'
        self.assert_fails(sqlite3.OperationalError, message, self.open)

    def test_a_file_where_the_folder_should_be_is_refused(self):
        folder = self.write('production-notes', b'')
        with self.assertRaises(OSError) as caught:
            self.open()
        self.assertEqual(folder, str(caught.exception.filename))
        self.assertTrue(os.path.isfile(folder))

    def test_a_file_is_in_wal_mode_once_the_lock_is_free(self):
        self.make_bare('DELETE')
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

    def test_a_writer_that_waited_in_vain_says_for_what(self):
        db = self.open()
        db.execute('PRAGMA busy_timeout = 0').fetchall()
        self.bare(isolation_level=None).execute('BEGIN IMMEDIATE')
        message = f'database is locked: {db!r}'
        self.assert_fails(sqlite3.OperationalError, message, db.add, 'a note')

    def test_a_half_read_listing_holds_up_nobody(self):
        db = self.open()
        db.add(*['a note'] * 1000)
        listing = iter(db)
        next(listing)
        with closing(self.bare(isolation_level=None)) as other:
            other.execute(db_connection.INSERT, ['another'])
            db.add('mine')
            checkpoint = other.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()
        self.assertEqual([(0, 0, 0)], checkpoint)
        self.assertEqual(999, len(list(listing)))


FORKED = """
other, closed = db_connection.Database(), db_connection.Database()
closed.close()
db.attribute = 'kept'
reading, writing = os.pipe()
if not os.fork():
    db.add('of a child that ends first')
    db.close()
    os._exit(0)
os.wait()
db.add('of the parent')
if os.fork():
    db.close()
    other.close()
    os.write(writing, b'.')
    os.wait()
else:
    os.read(reading, 1)
    db.add('of a child')
    other.add('of its other database')
    own = db_connection.Database()
    own.add('of one of its own')
    if not os.fork():
        own.add('of a grandchild')
        os._exit(0)
    os.wait()
    print(db.attribute)
    try:
        closed.add('of a closed database')
    except sqlite3.ProgrammingError as error:
        print(error, flush=True)
    os._exit(0)
"""
FORKED_IN_A_TRANSACTION = """
db.execute('PRAGMA cache_size = 5')
db.executemany(db_connection.INSERT, [('a row of a large transaction',)] * 20000)
files = os.listdir('/dev/fd')
if not os.fork():
    os._exit(0)
os.wait()
assert len(files) == len(os.listdir('/dev/fd'))
db.commit()
print(len(list(db)), *db.execute('PRAGMA integrity_check').fetchone())
db.close()
"""
FORKED_BESIDE_A_THREAD = """
def hold():
    with db_connection._making:
        ready.set()
        done.wait()

ready, done = threading.Event(), threading.Event()
threading.Thread(target=hold).start()
ready.wait()
memory = db_connection.TestDatabase()
memory.add('as it was')
if os.fork():
    os.wait()
    done.set()
    memory.close()
    db.close()
else:
    if os.fork():
        os.wait()
    else:
        db_connection.Database().close()
    print(*memory, flush=True)
    os._exit(0)
"""
FORKED_SLOWLY = """
import time

def close(self):
    if os.getpid() != parent:
        time.sleep(0.3)  # Time enough for a parent that doesn't wait.
    sqlite3.Connection.close(self)

parent = os.getpid()
db_connection.SQLiteDatabase.close = close
if not os.fork():
    os._exit(0)
db.close()
if not os.fork():
    db_connection.Database().add('of another process')
    os._exit(0)
os.wait()
os.wait()
"""
FORKED_WITHOUT_A_FILE = """
folder = os.path.dirname(db.path)
other = db_connection.RealDatabase(folder + '/other/notes.db')
for path, make in (db.path, os.mkdir), (folder + '/other', os.mkfifo):
    os.rename(path, path + '.old')
    make(path)
if os.fork():
    os.wait()
else:
    for each in db, other:
        try:
            each.add('a note')
        except sqlite3.ProgrammingError as error:
            print(error, flush=True)
        each.close()
    os._exit(0)
db.close()
other.close()
"""


@skipUnless(hasattr(os, 'fork'), 'Windows has no fork')
class ForkTestCase(FolderTestCase):
    """What a forked process does with the databases that were open."""

    def setUp(self):
        super().setUp()
        self.closed = 'Cannot operate on a closed database.: '
        self.closed += f'{db_connection.RealDatabase.__name__}({self.path!r})'

    def test_nothing_is_lost_whoever_ends_first(self):
        self.assert_prints(['kept', self.closed], self.program(FORKED))
        self.assert_prints([], self.program(FORKED_SLOWLY))
        with closing(db_connection.RealDatabase()) as db:
            notes = list(db)
        self.assertEqual(['of a child that ends first', 'of the parent'], notes[:2])
        self.assertEqual(
            ['of a child', 'of its other database', 'of one of its own'], notes[2:5]
        )
        self.assertEqual(['of a grandchild', 'of another process'], notes[5:])

    def test_a_transaction_goes_on_in_the_parent(self):
        self.assert_prints(['20000 ok'], self.program(FORKED_IN_A_TRANSACTION))

    def test_beside_a_thread_nothing_is_touched_and_nothing_waits(self):
        program = self.program(FORKED_BESIDE_A_THREAD)
        options = '-W', 'ignore::DeprecationWarning'  # Python's own, of such a fork.
        self.assert_prints(['as it was', 'as it was'], *options, program)

    def test_what_cannot_be_opened_again_is_closed(self):
        program = self.program(FORKED_WITHOUT_A_FILE)
        other = self.closed.replace('notes.db', 'other/notes.db')
        self.assert_prints([self.closed, other], program)


class ProgramTestCase(FolderTestCase):
    """The program, in this process, where standard output need not be a file."""

    def setUp(self):
        super().setUp()
        self.db = db_connection.TestDatabase()
        self.addCleanup(self.db.close)

    def main(self, *arguments, db=None):
        argv = mock.patch.object(sys, 'argv', ['a_main.py', *arguments])
        with argv, redirect_stdout(io.StringIO()) as self.stdout:
            utils.main(db or self.db)
        return self.stdout.getvalue()

    def test_it_stores_all_notes_of_a_call_or_none_and_says_so(self):
        self.db.execute('CREATE UNIQUE INDEX once ON note (text)')
        self.assertRaises(sqlite3.IntegrityError, self.main, 'a', 'b', 'a')
        self.assertEqual([], list(self.db))

    def test_it_ends_with_an_error_of_the_listing(self):
        self.db.execute('DROP TABLE note')
        self.assertRaises(sqlite3.OperationalError, self.main)

    def test_it_prints_the_database_and_its_notes(self):
        self.assertEqual('TestDatabase()\nb\na\n', self.main('b', 'a'))

    def test_it_prints_each_note_as_it_is_read(self):
        def notes():
            yield 'a note'
            printed.append(self.stdout.getvalue())

        printed = []
        db = mock.MagicMock(__iter__=lambda db: notes(), __repr__=lambda db: 'db')
        self.main(db=db)
        self.assertEqual(['db\na note\n'], printed)

    def test_it_runs_without_a_standard_output(self):
        argv = mock.patch.object(sys, 'argv', ['a_main.py', 'a note'])
        with argv, redirect_stdout(None):
            utils.main(self.db)
        self.assertEqual(['a note'], list(self.db))


FIRST_OPEN = """
TESTING = False
import sys, db_connection
print('ready', flush=True)
input()
db = db_connection.Database()
db.add(sys.argv[1])
db.close()
"""
KILLED = """
db.add('kept')
db.execute(db_connection.INSERT, ['a part'])
print('ready', flush=True)
input()
"""
# A main file's own work in worker processes, in place of the last line of dev_main.py.
WORKERS = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    db.add('main')
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(1, context) as pool:
            print(*pool.submit(work, method).result(timeout=30), flush=True)
    print(*db)
"""
WORK = """
def work(text):
    db.add(text)
    own = db_connection.Database()
    own.add(text)
    own.close()
    return repr(own), *db


"""


def project_file(name):
    """Return the text of one of the project's files."""
    with open(os.path.join(HERE, name), encoding='utf-8') as file:
        return file.read()


class MainsTestCase(FolderTestCase):
    """The two main files, as they're run."""

    def setUp(self):
        super().setUp()
        self.real = f'{db_connection.RealDatabase.__name__}({self.path!r})'

    def test_development_forgets(self):
        self.assert_prints(['TestDatabase()', 'try this'], 'dev_main.py', 'try this')
        self.assert_prints(['TestDatabase()'], 'dev_main.py')
        self.assertEqual([], os.listdir(self.folder))

    def test_production_keeps(self):
        self.assert_prints([self.real, 'keep this'], 'prod_main.py', 'keep this')
        self.assert_prints([self.real, 'keep this', 'b', 'a'], 'prod_main.py', 'b', 'a')
        self.assert_prints([self.real, 'keep this', 'b', 'a'], 'prod_main.py')

    def test_they_run_from_anywhere_and_optimised(self):
        for name, line in ('dev_main', 'TestDatabase()'), ('prod_main', self.real):
            path = os.path.join(HERE, f'{name}.py')
            for arguments in [path], ['-O', path], ['-m', name]:
                with self.subTest(arguments):
                    self.assert_prints([line], *arguments, cwd=self.folder)

    def test_they_differ_in_docstring_and_testing_alone(self):
        dev, prod = (project_file(f'{name}_main.py') for name in ('dev', 'prod'))
        pairs = zip(dev.splitlines(), prod.splitlines(), strict=True)
        docstring, *others = [pair for pair in pairs if len(set(pair)) == 2]
        self.assertTrue(dev.startswith(docstring[0]))
        self.assertEqual([('TESTING = True', 'TESTING = False')], others)

    def test_a_worker_process_has_databases_of_its_own(self):
        for name, real in ('dev', False), ('prod', True):
            with self.subTest(name):
                text = project_file(f'{name}_main.py')
                text = text.replace('if __name__', WORK + 'if __name__')
                text = text.replace('    utils.main(db)\n', WORKERS)
                lines, kept = [], 'main'
                for method in multiprocessing.get_all_start_methods():
                    kept += f' {method} {method}' * real
                    lines.append(
                        f'{self.real} {kept}' if real else f'TestDatabase() {method}'
                    )
                self.assert_prints([*lines, kept], self.write('program.py', text))

    def test_an_interactive_session_finds_its_database_open(self):
        stdout, stderr, status = self.run_python(
            *('-i', 'dev_main.py', 'a note'), stdin='print(list(db))\n'
        )
        stdout = stdout.replace('>>>> ', '')  # PyPy prints its prompts there.
        self.assertEqual("TestDatabase()\na note\n['a note']\n", stdout)
        self.assertEqual('', stderr.strip('>. \n'))
        self.assertEqual(0, status)

    def test_help_explains_the_usage(self):
        stdout, stderr, status = self.run_python('dev_main.py', '--help')
        self.assertRegex(stdout, r'^usage: dev_main.py \[-h\] \[NOTE ...\]\n\nStore ')
        self.assertRegex(stdout, r'\n  NOTE +its text\n')
        self.assertEqual(('', 0), (stderr, status))

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

    @skipUnless(os.path.exists('/dev/full'), 'needs /dev/full')
    def test_output_that_cannot_be_written_is_an_error(self):
        with open('/dev/full', 'w') as full:
            _, stderr, status = self.run_python('dev_main.py', stdout=full)
        self.assertIn('No space left on device', stderr)
        self.assertNotEqual(0, status)

    def test_a_listing_does_not_wait_for_a_writer(self):
        with closing(db_connection.RealDatabase()) as db:
            db.add('committed')
            db.execute(db_connection.INSERT, ['not yet committed'])
            self.assert_prints([self.real, 'committed'], 'prod_main.py')

    def test_processes_may_open_a_new_database_at_the_same_instant(self):
        program = self.write('program.py', FIRST_OPEN)
        processes = [self.start(program, str(n)) for n in range(6)]
        for process in processes:
            self.assertEqual('ready\n', process.stdout.readline())
        for process in processes:
            process.stdin.write('go\n')
            process.stdin.flush()
        for process in processes:
            self.assertEqual(('', ''), process.communicate(timeout=30))
        with closing(db_connection.RealDatabase()) as db:
            self.assertEqual([*'012345'], sorted(db))
            self.assertEqual([('wal',)], db.execute('PRAGMA journal_mode').fetchall())

    def test_a_killed_process_loses_no_note_and_leaves_no_part(self):
        process = self.start(self.program(KILLED))
        self.assertEqual('ready\n', process.stdout.readline())
        process.kill()
        process.wait()
        self.assert_prints([self.real, 'kept'], 'prod_main.py')

    def test_a_start_imports_only_what_is_used(self):
        plain = 'import argparse, atexit, sqlite3, _weakrefset, sys\n'
        plain += 'argparse.ArgumentParser().parse_args()'
        ours = 'TESTING = True; import dev_main, sys; dev_main.utils.main(dev_main.db)'
        modules = []
        for code in plain, ours:
            code += '\nprint(*sys.modules)'
            stdout, stderr, _ = self.run_python('-c', code)
            self.assertEqual('', stderr)
            modules.append(set(stdout.splitlines()[-1].split()))
        self.assertEqual(
            {'dev_main', 'db_connection', 'utils'}, modules[1] - modules[0]
        )


PROMPT = r'(?:\(Pdb\)|>>>>?) '


class ReadmeTestCase(FolderTestCase):
    """What README.md shows is what happens."""

    def setUp(self):
        super().setUp()
        del os.environ['XDG_DATA_HOME'], os.environ['PYTHONPATH']
        os.environ['PYTHONUNBUFFERED'] = '1'

    def blocks(self, language):
        text = project_file('README.md')
        blocks = re.findall(rf'(?ms)^```{language}\n(.*?)^```$', text)
        self.assertTrue(blocks)
        return blocks

    def printed(self, command, typed):
        """Return what a command prints, at /home/you, when these lines are typed."""
        if command == 'python -m unittest':  # It would call itself.
            tests = defaultTestLoader.discover(HERE).countTestCases()
            return f'{"." * tests}\nRan {tests} tests in 0.000s\n\nOK\n'
        words = shlex.split(command)
        python = words.index('python')
        settings = dict(word.split('=') for word in words[:python])
        with mock.patch.dict(os.environ, settings):
            stdout, _, _ = self.run_python(
                *words[python + 1 :], stdin=typed, stderr=subprocess.STDOUT
            )
        stdout = stdout.replace(self.folder, '/home/you')
        return stdout.replace(HERE + os.sep, '/home/you/production/')

    @POSIX
    def test_commands_print_what_is_shown(self):
        for block in self.blocks('console'):
            for command, shown in re.findall(r'(?m)^\$ (.*)\n((?:[^$].*\n)*)', block):
                if tracemalloc is None and 'tracemalloc' in command:
                    continue
                with self.subTest(command):
                    typed = ''.join(re.findall(f'(?m)^{PROMPT}(.*\n)', shown))
                    shown = re.sub(f'(?m)^{PROMPT}.*\n', '', shown)
                    printed = re.sub(PROMPT, '', self.printed(command, typed))
                    shown, printed = (
                        re.sub(r'\d+\.\d{3}(?!\d)', '0.000', text)
                        .replace('"', "'")
                        .strip('\n')
                        for text in (shown, printed)
                    )
                    pattern = re.escape(shown).replace('\\\n…', r'(?:\n.*)?')
                    if not re.fullmatch('(?s)' + pattern.replace('…', '.*'), printed):
                        self.assertEqual(shown, printed)  # Which shows the difference.

    def test_python_blocks_compile(self):
        for block in self.blocks('python'):
            compile(block, 'README.md', 'exec')


if __name__ == '__main__':
    main()
