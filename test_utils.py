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
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import types
from contextlib import closing, redirect_stdout
from unittest import TestCase, defaultTestLoader, main, mock, skipUnless

import __main__
import utils
from utils import to_str

with mock.patch.object(__main__, 'TESTING', True, create=True):
    import db_connection

MAINS = 'dev', 'prod'
HERE = os.path.dirname(os.path.abspath(__file__))
POSIX = skipUnless(os.name == 'posix', 'Windows has no such thing')


def project_file(name):
    """Return the text of one of the project's files."""
    with open(os.path.join(HERE, name), encoding='utf-8') as file:
        return file.read()


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


class UtilsTestCase(TestCase):
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


class ChoiceTestCase(TestCase):
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
                self.assertIs(module.Database, module.RealDatabase)

    def test_anything_but_true_and_false_is_refused(self):
        for bad in 'False', '', 0, 1, None, []:
            with self.subTest(bad), self.assertRaises(RuntimeError) as caught:
                choose(main_file(__file__='a_main.py', TESTING=bad))
            self.assertEqual(
                f'a_main.py must set TESTING to True or False, not {bad!r}, '
                'before it imports db_connection',
                str(caught.exception),
            )

    def test_no_testing_is_refused(self):
        for main_module, name in (
            (main_file(__file__='a_main.py'), 'a_main.py'),
            (main_file(), '__main__'),
        ):
            with self.subTest(name), self.assertRaises(RuntimeError) as caught:
                choose(main_module)
            self.assertEqual(
                f'{name} must set TESTING to True or False '
                'before it imports db_connection',
                str(caught.exception),
            )

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


class FolderTestCase(TestCase):
    """A temporary folder, where the program finds its home and its data."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.path = os.path.join(self.folder, 'production-notes', 'notes.db')
        environ = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
        homes = 'HOME', 'USERPROFILE', 'XDG_DATA_HOME', 'LOCALAPPDATA'
        environ.update(dict.fromkeys(homes, self.folder), PYTHONUTF8='1')
        patched = mock.patch.dict(os.environ, environ, clear=True)
        patched.start()
        self.addCleanup(patched.stop)

    def start(self, *arguments, **options):
        """Start Python, strict, with these arguments."""
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
        return *process.communicate(stdin, timeout=60), process.returncode

    def assert_prints(self, lines, *arguments, **options):
        stdout, stderr, status = self.run_python(*arguments, **options)
        self.assertEqual(('', lines, 0), (stderr, stdout.splitlines(), status))


class DatabaseTests:
    """What the three databases have in common."""

    def setUp(self):
        super().setUp()
        self.database = getattr(db_connection, self.name)

    def open(self, *arguments):
        db = self.database(*arguments)
        self.addCleanup(db.close)
        return db

    def test_it_is_a_connection_to_a_database_with_the_table(self):
        db = self.open()
        self.assertIsInstance(db, sqlite3.Connection)
        self.assertEqual(
            [('CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)',)],
            db.execute('SELECT sql FROM sqlite_master').fetchall(),
        )

    def test_settings_do_not_depend_on_the_environment(self):
        db = self.open()
        self.assertEqual((30000,), db.execute('PRAGMA busy_timeout').fetchone())
        self.assertEqual((2,), db.execute('PRAGMA synchronous').fetchone())

    def opening(self):
        """Return the statements that opening a database executes."""
        statements = []

        class Recorded(self.database):
            def execute(self, sql):
                statements.append(sql)
                return super().execute(sql)

        Recorded().close()
        return statements

    def test_synchronous_is_set_whatever_the_default_is(self):
        self.assertIn('PRAGMA synchronous = FULL', self.opening())

    def test_wal_mode_is_set_before_anything_is_written(self):
        # Else who can't set it at a first open may keep all others from setting it.
        reading, setting, *_, writing = self.opening()
        self.assertEqual('SELECT max(id) FROM note', reading)
        self.assertEqual('PRAGMA journal_mode = WAL', setting)
        self.assertRegex(writing, '^CREATE TABLE ')

    def test_no_connection_is_left_open_behind_an_error(self):
        closed = []

        class Failing(self.database):
            def execute(self, sql):
                raise error

            def close(self):
                closed.append(error)
                super().close()

        for error in sqlite3.DatabaseError('damaged'), KeyboardInterrupt():
            self.assertRaises(type(error), Failing)
            self.assertIs(error, closed.pop())

    def test_notes_are_text_and_come_oldest_first(self):
        db = self.open()
        db.execute('PRAGMA reverse_unordered_selects = ON')
        db.add('b', b'caf\xc3\xa9')
        db.add('a')
        self.assertEqual(['b', 'caf\xe9', 'a'], list(db))
        self.assertEqual({('text',)}, set(db.execute('SELECT typeof(text) FROM note')))

    def test_notes_are_text_whatever_the_rows_are(self):
        db = self.open()
        db.add('a note')
        db.row_factory = lambda cursor, row: {'text': row[0]}
        self.assertEqual(['a note'], list(db))

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

    def test_add_is_all_or_nothing(self):
        db = self.open()
        db.execute(
            'CREATE TRIGGER refuse BEFORE INSERT ON note '
            "WHEN new.text = 'bad' BEGIN SELECT raise(FAIL, 'refused'); END"
        )
        for bad, error in (
            (object(), TypeError),
            (b'caf\xe9', UnicodeDecodeError),
            ('caf\udce9', UnicodeEncodeError),
            ('bad', sqlite3.IntegrityError),
        ):
            with self.subTest(bad):
                with self.assertRaises(error) as caught:
                    db.add('a', bad, 'b')
                named = repr(db) in repr(caught.exception.args)
                self.assertEqual(error is sqlite3.IntegrityError, named)
                self.assertEqual([], list(db))
                self.assertFalse(db.in_transaction)
        db.add('still works')
        self.assertEqual(['still works'], list(db))

    def test_a_full_disk_is_said_and_survived(self):
        db = self.open()
        db.add('before')
        (pages,) = db.execute('PRAGMA page_count').fetchone()
        db.execute(f'PRAGMA max_page_count = {pages}')
        with self.assertRaises(sqlite3.OperationalError) as caught:
            db.add('small', 'large' * 10_000)
        self.assertEqual(f'database or disk is full: {db!r}', str(caught.exception))
        db.execute('PRAGMA max_page_count = 1000000')
        db.add('after')
        self.assertEqual(['before', 'after'], list(db))

    def test_an_error_of_a_listing_names_the_database(self):
        db = self.open()
        db.execute('DROP TABLE note')
        with self.assertRaises(sqlite3.OperationalError) as caught:
            list(db)
        self.assertEqual(f'no such table: note: {db!r}', str(caught.exception))

    def test_listing_takes_no_more_memory_for_more_notes(self):
        db = self.open()
        peaks = []
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for more in 100, 0, 10_000:
            db.add(*['a note'] * more)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in db:
                pass
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        self.assertLess(peaks[2], peaks[1] + 1000)

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
    name = 'TestDatabase'

    def test_repr_opens_such_a_database(self):
        self.assertEqual('TestDatabase()', repr(self.open()))

    def test_it_is_private_to_its_connection(self):
        self.open().add('mine')
        self.assertEqual([], list(self.open()))

    def test_it_has_no_file_and_looks_for_none(self):
        with mock.patch.object(db_connection, 'os', None):
            db = self.open()
        db.add('a note')
        self.assertEqual(('memory',), db.execute('PRAGMA journal_mode').fetchone())
        self.assertEqual([], os.listdir(self.folder))


class FileDatabaseTests(DatabaseTests):
    """What production's two databases have in common."""

    def bare(self, **options):
        """Open the file as another program might: without settings or patience."""
        connection = sqlite3.connect(self.path, timeout=0, **options)
        self.addCleanup(connection.close)
        return connection

    def make_bare(self, pages=1):
        """Make a file with a table that fills some pages, in SQLite's own mode."""
        os.makedirs(os.path.dirname(self.path))
        connection = self.bare()
        connection.execute(db_connection.CREATE)
        with connection:
            connection.executemany(db_connection.INSERT, [('x' * 3000,)] * pages)
        connection.close()
        return self.read()

    def write(self, content):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, 'wb') as file:
            file.write(content)

    def read(self):
        with open(self.path, 'rb') as file:
            return file.read()

    def journal_mode(self):
        with closing(self.bare()) as connection:
            return connection.execute('PRAGMA journal_mode').fetchone()[0]

    def test_its_data_home_is_the_variable_or_the_default(self):
        default = os.path.join(self.folder, *self.default)
        for value, data_home in (
            (None, default),
            ('', default),
            ('relative', default),
            (os.path.join(self.folder, 'data'), os.path.join(self.folder, 'data')),
        ):
            with self.subTest(value):
                os.environ.pop(self.variable, None)
                if value is not None:
                    os.environ[self.variable] = value
                path = os.path.join(data_home, 'production-notes', 'notes.db')
                self.assertFalse(os.path.exists(path))
                self.assertEqual(f'{self.name}({path!r})', repr(self.open()))
                self.assertTrue(os.path.isfile(path))
                os.unlink(path)

    def test_a_path_takes_the_place_of_its_own(self):
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        path = os.path.join(os.getcwd(), 'elsewhere', 'my.db')
        db = self.open(os.path.join('elsewhere', 'my.db'))
        os.chdir(here)
        db.add('a note')
        self.assertEqual(f'{self.name}({path!r})', repr(db))
        self.assertEqual(['a note'], list(self.open(path)))
        self.assertEqual(['elsewhere'], os.listdir(self.folder))

    def test_repr_opens_the_same_database(self):
        db = self.open()
        db.add('kept')
        again = eval(repr(db), vars(db_connection))
        self.addCleanup(again.close)
        self.assertIs(type(db), type(again))
        self.assertEqual(['kept'], list(again))

    @POSIX
    def test_only_the_owner_reaches_what_it_makes(self):
        for umask in 0o000, 0o022, 0o777:
            with self.subTest(oct(umask)), tempfile.TemporaryDirectory() as folder:
                before = os.umask(umask)
                self.addCleanup(os.umask, before)
                db = self.open(os.path.join(folder, 'a', 'b', 'notes.db'))
                self.assertEqual(umask, os.umask(before))
                db.add('a note')
                modes = {
                    name: stat.S_IMODE(os.stat(os.path.join(parent, name)).st_mode)
                    for parent, folders, files in os.walk(folder)
                    for name in folders + files
                }
                folders = dict.fromkeys(('a', 'b'), 0o700)
                files = ('notes.db', 'notes.db-shm', 'notes.db-wal')
                self.assertEqual(folders | dict.fromkeys(files, 0o600), modes)

    @POSIX
    def test_what_is_there_keeps_its_mode(self):
        self.write(b'')
        os.chmod(self.path, 0o640)
        os.chmod(os.path.dirname(self.path), 0o750)
        with mock.patch.object(os, 'umask', self.fail):
            self.open()
        for path, mode in (self.path, 0o640), (os.path.dirname(self.path), 0o750):
            self.assertEqual(mode, stat.S_IMODE(os.stat(path).st_mode))

    def test_a_wrong_file_is_refused_and_left_as_it_is(self):
        healthy = self.make_bare(pages=9)
        for content, cause in (
            (b'a text file\n', 'file is not a database'),
            (b'SQLite format 3\0' + b'garbage' * 1000, 'file is not a database'),
            (healthy[:9000], 'database disk image is malformed'),
            (healthy.replace(b'CREATE', b'DAMAGE'), 'malformed database schema'),
            (healthy[:4096].ljust(len(healthy)), 'database disk image is malformed'),
        ):
            self.write(content)
            with self.subTest(cause):
                with self.assertRaises(sqlite3.DatabaseError) as caught:
                    self.open()
                self.assertRegex(str(caught.exception), f'^{cause}')
                self.assertIn(f': {self.name}({self.path!r})', str(caught.exception))
                self.assertEqual(content, self.read())

    def test_a_folder_where_the_file_should_be_is_refused(self):
        os.makedirs(self.path)
        with self.assertRaises(sqlite3.OperationalError) as caught:
            self.open()
        self.assertEqual(
            f'unable to open database file: {self.name}({self.path!r})',
            str(caught.exception),
        )

    def test_a_file_where_the_folder_should_be_is_refused(self):
        folder = os.path.dirname(self.path)
        with open(folder, 'w'):
            pass
        with self.assertRaises(OSError) as caught:
            self.open()
        self.assertIn(repr(folder), str(caught.exception))
        self.assertNotIn(self.name, repr(caught.exception.args))
        self.assertTrue(os.path.isfile(folder))

    def test_a_file_is_in_wal_mode_once_opened(self):
        self.open().close()
        self.assertEqual('wal', self.journal_mode())

    def test_a_mode_that_another_process_keeps_from_changing_is_left_for_later(self):
        self.make_bare()
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

    def test_a_writer_does_not_wait_for_a_listing(self):
        db = self.open()
        db.add(*['a note'] * 1000)
        listing = iter(db)
        next(listing)
        with closing(self.bare()) as other, other:
            other.execute(db_connection.INSERT, ['another'])
        self.assertEqual(999, len(list(listing)))


class PosixDatabaseTestCase(FileDatabaseTests, FolderTestCase):
    name = 'PosixDatabase'
    variable = 'XDG_DATA_HOME'
    default = '.local', 'share'


class Win32DatabaseTestCase(FileDatabaseTests, FolderTestCase):
    name = 'Win32Database'
    variable = 'LOCALAPPDATA'
    default = 'AppData', 'Local'


class ProgramTestCase(FolderTestCase):
    """The program, in this process, where standard output need not be a file."""

    def setUp(self):
        super().setUp()
        self.db = db_connection.TestDatabase()
        self.addCleanup(self.db.close)

    def main(self, *arguments):
        with mock.patch.object(sys, 'argv', ['a_main.py', *arguments]):
            utils.main(self.db)

    def test_it_stores_all_notes_of_a_call_or_none(self):
        self.db.execute('CREATE UNIQUE INDEX once ON note (text)')
        self.assertRaises(sqlite3.IntegrityError, self.main, 'a', 'b', 'a')
        self.assertEqual([], list(self.db))

    def test_it_prints_the_database_and_its_notes(self):
        with redirect_stdout(io.StringIO()) as stdout:
            self.main('b', 'a')
        self.assertEqual('TestDatabase()\nb\na\n', stdout.getvalue())

    def test_it_runs_without_a_standard_output(self):
        with redirect_stdout(None):
            self.main('a note')


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
TESTING = False
import db_connection
db = db_connection.Database()
db.add('kept')
db.execute(db_connection.INSERT, ['a part'])
print('ready', flush=True)
input()
"""
# A main file's own work in worker processes, in place of the last line of dev_main.py.
WORKERS = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(1, context) as pool:
            print(pool.submit(work, method).result(timeout=60), flush=True)
    print(*db)
"""
WORK = """
def work(text):
    own = db_connection.Database()
    own.add(text)
    own.close()
    return repr(own)


"""


class MainsTestCase(FolderTestCase):
    """The two main files, as they're run."""

    def setUp(self):
        super().setUp()
        self.real = f'{db_connection.RealDatabase.__name__}({self.path!r})'

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)
        return path

    def test_development_forgets(self):
        self.assert_prints(['TestDatabase()', 'try this'], 'dev_main.py', 'try this')
        self.assert_prints(['TestDatabase()'], 'dev_main.py')
        self.assertEqual([], os.listdir(self.folder))

    def test_production_keeps(self):
        self.assert_prints([self.real, 'keep this'], 'prod_main.py', 'keep this')
        self.assert_prints([self.real, 'keep this', 'b', 'a'], 'prod_main.py', 'b', 'a')
        self.assert_prints([self.real, 'keep this', 'b', 'a'], 'prod_main.py')

    def test_they_run_from_anywhere_and_optimised(self):
        os.environ['PYTHONPATH'] = HERE
        for name, line in ('dev_main', 'TestDatabase()'), ('prod_main', self.real):
            path = os.path.join(HERE, f'{name}.py')
            for arguments in [path], ['-O', path], ['-m', name]:
                with self.subTest(arguments):
                    self.assert_prints([line], *arguments, cwd=self.folder)

    def test_they_differ_in_docstring_and_testing_alone(self):
        dev, prod = (project_file(f'{name}_main.py').splitlines() for name in MAINS)
        self.assertEqual(len(dev), len(prod))
        docstring, *others = [pair for pair in zip(dev, prod) if len(set(pair)) == 2]
        self.assertEqual((dev[0], prod[0]), docstring)
        self.assertEqual([('TESTING = True', 'TESTING = False')], others)

    def test_another_program_that_imports_one_is_refused(self):
        os.environ['PYTHONPATH'] = HERE
        for name in MAINS:
            with self.subTest(name):
                program = self.write('other.py', f'import {name}_main')
                _, stderr, status = self.run_python(program)
                last = stderr.splitlines()[-1]
                self.assertIn(f'RuntimeError: {program} must set TESTING to', last)
                self.assertEqual(1, status)
        self.assertEqual(['other.py'], os.listdir(self.folder))

    def test_a_worker_process_chooses_what_its_parent_chose(self):
        os.environ['PYTHONPATH'] = HERE
        methods = multiprocessing.get_all_start_methods()
        for name, line, kept in (
            ('dev', 'TestDatabase()', []),
            ('prod', self.real, methods),
        ):
            with self.subTest(name):
                text = project_file(f'{name}_main.py')
                text = text.replace('if __name__', WORK + 'if __name__')
                text = text.replace('    utils.main(db)\n', WORKERS)
                program = self.write('program.py', text)
                self.assert_prints([line] * len(methods) + [' '.join(kept)], program)

    def test_an_interactive_session_finds_its_database_open(self):
        stdout, stderr, status = self.run_python(
            *('-i', 'dev_main.py', 'a note'), stdin='print(list(db))\n'
        )
        self.assertEqual("TestDatabase()\na note\n['a note']\n", stdout)
        self.assertEqual('', stderr.strip('>. \n'))
        self.assertEqual(0, status)

    def test_help_explains_the_usage(self):
        stdout, stderr, status = self.run_python('dev_main.py', '--help')
        self.assertRegex(stdout, r'^usage: dev_main.py \[-h\] \[NOTE \.\.\.\]\n\nKeep ')
        self.assertRegex(stdout, r'\n  NOTE +a note to store\n')
        self.assertEqual(('', 0), (stderr, status))

    def test_two_dashes_end_the_options(self):
        lines = ['TestDatabase()', '--not-an-option', '-h']
        self.assert_prints(lines, 'dev_main.py', '--', *lines[1:])

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

    @POSIX
    def test_an_argument_is_utf_8_whatever_the_locale(self):
        os.environ.update(PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', LC_ALL='C')
        os.environ['PYTHONIOENCODING'] = 'utf-8'
        lines = ['TestDatabase()', 'caf\xe9']
        self.assert_prints(lines, 'dev_main.py', b'caf\xc3\xa9')

    def test_output_that_cannot_be_encoded_is_escaped(self):
        os.environ['PYTHONIOENCODING'] = 'ascii'
        note = 'caf\xe9 \u2026'.encode() if os.name == 'posix' else 'caf\xe9 \u2026'
        lines = ['TestDatabase()', r'caf\xe9 \u2026']
        self.assert_prints(lines, 'dev_main.py', note)

    @POSIX
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

    def test_a_wrong_file_ends_a_start_with_its_name(self):
        os.mkdir(os.path.dirname(self.path))
        self.write(self.path, 'a text file')
        stdout, stderr, status = self.run_python('prod_main.py', 'a note')
        self.assertEqual(('', 1), (stdout, status))
        last = f'sqlite3.DatabaseError: file is not a database: {self.real}'
        self.assertEqual(last, stderr.splitlines()[-1])
        self.assertNotIn('ResourceWarning', stderr)

    def test_a_listing_does_not_wait_for_a_writer(self):
        with closing(db_connection.RealDatabase()) as db:
            db.add('committed')
            db.execute(db_connection.INSERT, ['not yet committed'])
            self.assert_prints([self.real, 'committed'], 'prod_main.py')

    def test_processes_may_open_a_new_database_at_the_same_instant(self):
        program = self.write('program.py', FIRST_OPEN)
        os.environ['PYTHONPATH'] = HERE
        processes = [self.start(program, str(n)) for n in range(6)]
        for process in processes:
            self.assertEqual('ready\n', process.stdout.readline())
        for process in processes:
            process.stdin.write('go\n')
            process.stdin.flush()
        for process in processes:
            self.assertEqual(('', ''), process.communicate(timeout=60))
        with closing(db_connection.RealDatabase()) as db:
            self.assertEqual([*'012345'], sorted(db))
            self.assertEqual(('wal',), db.execute('PRAGMA journal_mode').fetchone())

    def test_a_killed_process_loses_no_note_and_leaves_no_part(self):
        program = self.write('program.py', KILLED)
        os.environ['PYTHONPATH'] = HERE
        process = self.start(program)
        self.assertEqual('ready\n', process.stdout.readline())
        process.kill()
        process.wait()
        self.assert_prints([self.real, 'kept'], 'prod_main.py')

    def test_a_start_imports_only_what_is_used(self):
        os.environ['PYTHONPATH'] = HERE
        modules = []
        for code in (
            'import argparse, atexit, sqlite3; argparse.ArgumentParser().parse_args()',
            'TESTING = True; import dev_main; dev_main.utils.main(dev_main.db)',
        ):
            code += '\nimport sys; print(*sys.modules)'
            stdout, stderr, _ = self.run_python('-c', code)
            self.assertEqual('', stderr)
            modules.append(set(stdout.splitlines()[-1].split()))
        self.assertEqual(
            {'dev_main', 'db_connection', 'utils'}, modules[1] - modules[0]
        )


PROMPT = r'(?:\(Pdb\)|>>>) '


@POSIX
class ReadmeTestCase(FolderTestCase):
    """What README.md shows is what happens."""

    def setUp(self):
        super().setUp()
        del os.environ['XDG_DATA_HOME']
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
        stdout = stdout.replace(HERE, '/home/you/production')
        return stdout.replace(self.folder, '/home/you')

    def test_commands_print_what_is_shown(self):
        for block in self.blocks('console'):
            for command, shown in re.findall(r'(?m)^\$ (.*)\n((?:[^$].*\n)*)', block):
                with self.subTest(command):
                    typed = ''.join(re.findall(f'(?m)^{PROMPT}(.*\n)', shown))
                    shown = re.sub(f'(?m)^{PROMPT}.*\n', '', shown)
                    printed = re.sub(PROMPT, '', self.printed(command, typed))
                    shown, printed = (
                        re.sub(r'\d+\.\d{3}(?!\d)', '0.000', text).strip('\n')
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
