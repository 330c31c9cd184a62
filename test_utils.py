"""The suite: unit tests in this process, integration tests that run the main files."""

import contextlib
import multiprocessing
import os
import pickle
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from unittest import TestCase, main, mock, skipUnless

import __main__
import utils
from utils import to_str

with mock.patch.object(__main__, 'TESTING', True, create=True):
    import db_connection

HERE = os.path.dirname(os.path.realpath(__file__))
Process = os.name == 'posix' and multiprocessing.get_context('fork').Process
POSIX = skipUnless(os.name == 'posix', 'Windows has no such thing')


class UtilsTestCase(TestCase):
    """to_str: first the documents' own three tests."""

    def test_to_str_bytes(self):
        self.assertEqual('hello', to_str(b'hello'))

    def test_to_str_str(self):
        self.assertEqual('hello', to_str('hello'))

    def test_to_str_bad(self):
        self.assertRaises(TypeError, to_str, object())

    def test_to_str_bad_names_the_value(self):
        with self.assertRaisesRegex(TypeError, r'str or bytes, found: \(1, 2\)$'):
            to_str((1, 2))


class FolderTestCase(TestCase):
    """A temporary folder, where the program finds its home and its data."""
    database_class = db_connection.RealDatabase

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        unset = 'PYTHON', 'FORCE_COLOR', 'COLUMNS'
        env = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
        homes = 'HOME', 'USERPROFILE', 'XDG_DATA_HOME', 'LOCALAPPDATA'
        env.update(dict.fromkeys(homes, self.folder), PYTHONPATH=HERE, PYTHONUTF8='1')
        patch = mock.patch.dict(os.environ, env, clear=True)
        patch.start()
        self.addCleanup(patch.stop)
        self.db = self.database_class()
        self.addCleanup(self.db.close)

    def run_python(self, *arguments, **streams):
        """Return what was printed to each stream, and the exit status."""
        streams = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **streams}
        options = {'stdin': subprocess.DEVNULL, 'encoding': 'utf-8', 'cwd': HERE}
        python = [sys.executable, '-W', 'error', '-X', 'dev', *arguments]
        run = subprocess.run(python, check=False, timeout=30, **streams, **options)
        return run.stdout, run.stderr, run.returncode

    def assert_prints(self, lines, *arguments, **options):
        stdout, stderr, status = self.run_python(*arguments, **options)
        self.assertEqual(('', lines, 0), (stderr, stdout.splitlines(), status))

    def start(self, function, *arguments, kind=threading.Thread):
        worker = kind(target=function, args=arguments, daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Since 3.12, of a fork beside threads.
            worker.start()
        return worker

    def join(self, *workers):
        for worker in workers:
            worker.join(10)
            self.assertFalse(worker.is_alive(), 'It hangs.')
            self.assertEqual(0, getattr(worker, 'exitcode', 0))

    def assert_names_it(self, message, function, *arguments):
        message = re.escape(f'{message}: {self.db!r}')
        with self.assertRaisesRegex(sqlite3.Error, f'^{message}$'):
            function(*arguments)


class ChoiceTestCase(FolderTestCase):
    """Which database __main__.TESTING and sys.platform choose, and what is refused."""

    def test_testing_and_the_platform_choose_the_database(self):
        show = 'import db_connection; print(db_connection.Database.__name__)'
        stale = "sys.modules['__mp_main__'] = types.SimpleNamespace(TESTING=True)"
        for settings, name in (
            ('TESTING = True', 'TestDatabase'),
            ("TESTING = False; sys.platform = 'win32'", 'Win32Database'),
            (f"TESTING = False; sys.platform = 'linux'; {stale}", 'PosixDatabase'),
        ):
            self.assert_prints([name], '-c', f'import sys, types; {settings}; {show}')

    def test_anything_but_true_and_false_is_refused(self):
        for setting in '', "TESTING = 'False'; ", 'TESTING = None; ', 'TESTING = 1; ':
            error = self.run_python('-c', f'{setting}import db_connection')[1]
            self.assertRegex(error, 'main.*must first set TESTING to True or False\n$')


class DatabaseTests:
    """What all databases have in common: its subclasses run it."""

    def query(self, sql, *parameters):
        return self.db._run(lambda c: c.execute(sql, parameters).fetchall())

    def test_it_opens_when_it_is_needed_and_a_close_waits_for_a_call(self):
        def work(connection):
            closing = self.start(self.db.close)
            closing.join(0.2)
            connection.execute(db_connection.INSERT, ['a note'])
            return closing

        self.assertEqual([], os.listdir(self.folder))
        self.join(self.db._run(work))
        self.db.close()
        self.assertEqual(self.files, os.listdir(self.folder))
        self.assertEqual(self.kept, list(self.db))

    def test_a_listing_reads_page_by_page_up_to_the_newest_at_its_start(self):
        self.db.add(*[b'caf\xc3\xa9', 'b', 'a'] * 300)
        listing = iter(self.db)
        self.assertEqual('caf\xe9', next(listing))
        self.query('DELETE FROM note WHERE id BETWEEN 301 AND 600')
        self.db.add('a later one')
        self.assertEqual(['b', 'a', *['caf\xe9', 'b', 'a'] * 199], list(listing))

    def test_an_add_that_fails_stores_nothing(self):
        for bad in object(), None, b'caf\xe9', 'caf\udce9':
            self.assertRaises((TypeError, UnicodeError), self.db.add, 'a', bad)
        self.query('PRAGMA max_page_count = 1')  # As many as there are.
        self.assert_names_it('database or disk is full', self.db.add, 'a', 'x' * 9000)
        self.db.add('still works')
        self.assertEqual(['still works'], list(self.db))

    def test_a_query_of_ones_own_that_fails_or_closes_it_stores_nothing(self):
        def work(connection):
            connection.execute(db_connection.INSERT, ['mine'])
            end()

        for end, error in (self.fail, AssertionError), (self.db.close, sqlite3.Error):
            self.assertRaises(error, self.db._run, work)
            self.assertEqual([], list(self.db))

    def test_databases_of_one_path_are_one(self):
        again = eval(repr(self.db), vars(db_connection))
        for db in again, self.database_class(), pickle.loads(pickle.dumps(self.db)):
            self.assertEqual(repr(self.db), repr(db))
            db.add('a note')
        self.assertEqual(['a note'] * 3, list(self.db))

    def test_a_call_inside_a_call_is_refused_and_does_not_touch_it(self):
        def work(connection):
            connection.execute(db_connection.INSERT, ['mine'])
            refusal = 'a call inside another is refused'
            self.assert_names_it(refusal, self.db.add, 'inside')
            self.assert_names_it(refusal, self.database_class().add, 'inside')
            self.assert_names_it(refusal, list, self.db)

        self.db._run(work)
        self.assertEqual(['mine'], list(self.db))

    def test_an_interrupt_at_any_line_of_an_add_leaves_all_of_it_or_nothing(self):
        def trace(frame, event, _):
            nonlocal lines
            if frame.f_code.co_filename == db_connection.__file__:
                lines -= event == 'line'
                if lines == 0:
                    lines = -1
                    raise KeyboardInterrupt
                return trace

        self.db.add('as before')
        for lines in range(1, 100):
            sys.settrace(trace)
            with contextlib.suppress(KeyboardInterrupt):
                self.db.add('a', 'b')
            sys.settrace(None)
            self.join(self.start(self.db.add, 'still works'))
            notes = list(self.db)
            self.assertEqual(notes.count('a'), notes.count('b'))
        self.assertTrue(50 < notes.count('a') < 99)  # Some came before its end.


class TestDatabaseTestCase(DatabaseTests, FolderTestCase):
    """Development's database: in memory, and nowhere else."""
    database_class = db_connection.TestDatabase
    files, kept = [], []


class FileDatabaseTestCase(DatabaseTests, FolderTestCase):
    """Production's database: the place, and the file."""
    files, kept = ['production-notes'], ['a note']

    def test_its_place_is_the_data_home_unless_it_is_given(self):
        for name, variable, *default in (
            ('PosixDatabase', 'XDG_DATA_HOME', '.local', 'share'),
            ('Win32Database', 'LOCALAPPDATA', 'AppData', 'Local'),
        ):
            default = os.path.join(self.folder, *default)
            for value, home in ('', default), ('relative', default), (HERE, HERE):
                os.environ[variable] = value
                path = os.path.join(home, 'production-notes', 'notes.db')
                self.assertEqual(path, getattr(db_connection, name)().path)
            del os.environ[variable]
            homeless = mock.patch('os.path.expanduser', lambda path: path)
            message = f'^no home folder: set {variable} to a full path$'
            with homeless, self.assertRaisesRegex(OSError, message):
                getattr(db_connection, name)()
        self.assertEqual(os.path.abspath('a'), self.database_class(Path('a')).path)

    @POSIX
    def test_only_the_owner_reaches_what_it_makes(self):
        self.addCleanup(os.umask, os.umask(0))
        self.db.add('a note')
        modes = [p.stat().st_mode & 0o777 for p in Path(self.folder).rglob('*')]
        self.assertEqual([0o600, 0o600, 0o600, 0o700], sorted(modes))

    def test_what_is_stored_is_on_disk(self):
        for key, value in ('journal_mode', 'wal'), ('synchronous', 2), ('fullfsync', 1):
            self.assertEqual([(value,)], self.query(f'PRAGMA {key}'))

    def test_a_wrong_file_is_refused_closed_and_left_as_it_is(self):
        def connect(*arguments, **options):
            made.append(sqlite3.Connection(*arguments, **options))
            return made[-1]

        made = []
        self.db = self.database_class(Path(self.folder, 'notes.db'))
        foreign = Path(self.folder, 'foreign.db')
        with contextlib.closing(sqlite3.connect(foreign)) as connection:
            connection.execute('CREATE TABLE note (number)')
        self.db.add(*['x' * 3000] * 9)
        self.db.close()
        healthy = Path(self.db.path).read_bytes()
        for content, cause in (
            (b'a text file\n', 'file is not a database'),
            (healthy[:9000], 'database disk image is malformed'),
            (foreign.read_bytes(), 'no such column: id'),
        ):
            Path(self.db.path).write_bytes(content)
            with mock.patch('sqlite3.connect', connect):
                self.assert_names_it(cause, self.db.add, 'a note')
            self.assertRaises(sqlite3.ProgrammingError, made[-1].execute, 'SELECT 1')
            self.assertEqual(content, Path(self.db.path).read_bytes())


class OtherProgramTestCase(FolderTestCase):
    """Another program uses the file."""

    def setUp(self):
        super().setUp()
        self.db.add('a note')
        self.other = sqlite3.connect(self.db.path, check_same_thread=False)
        self.addCleanup(self.other.close)

    def test_a_writer_waits_for_it_and_then_runs_once(self):
        def work(connection):
            runs.append(self.other.in_transaction)
            return connection.execute(db_connection.INSERT, ['mine'])

        runs, start = [], time.process_time()
        for call in lambda: self.db.add('mine'), lambda: self.db._run(work):
            self.other.execute('BEGIN IMMEDIATE')
            threading.Timer(0.2, self.other.execute, ['COMMIT']).start()
            call()
        self.assertLess(time.process_time() - start, 0.3)
        self.assertEqual([False], runs)
        self.assertEqual(['a note', 'mine', 'mine'], list(self.db))

    def test_what_writes_nothing_does_not_wait(self):
        self.db.close()
        self.other.execute('BEGIN IMMEDIATE')
        with mock.patch.object(db_connection, 'TIMEOUT', 0):
            self.db.add()
            self.assertEqual(['a note'], list(self.db))

    def test_who_waits_holds_up_neither_threads_nor_a_fork_and_gives_up(self):
        def add(text):
            self.assert_names_it('database is locked', self.db.add, text)
            waits.append(time.monotonic() - start)

        self.other.execute('BEGIN IMMEDIATE')
        waits, pauses, start = [], [], time.monotonic()
        with mock.patch.object(db_connection, 'TIMEOUT', 1):
            threads = [self.start(add, text) for text in 'abcd']
            while any(thread.is_alive() for thread in threads):
                before = time.monotonic()
                self.assertEqual(['a note'], list(self.db))
                if Process:
                    self.join(self.start(str, kind=Process))
                pauses.append(time.monotonic() - before)
        self.assertLess(max(pauses), 1)
        self.assertTrue(len(waits) == 4 and min(waits) >= 1 and max(waits) < 3, waits)

    def test_ctrl_c_ends_the_wait_at_once(self):
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, handler)
        self.other.execute('BEGIN IMMEDIATE')
        threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
        start = time.monotonic()
        self.assertRaises(KeyboardInterrupt, self.db.add, 'another')
        self.assertLess(time.monotonic() - start, 2)


WORKERS = """
import multiprocessing
import db_connection
db = db_connection.Database()
def number_it(connection):
    ((count,),) = connection.execute('SELECT count(*) FROM note').fetchall()
    return connection.execute(db_connection.INSERT, [str(count)])
def work(pickled):
    for each in [db, pickled] * 10:
        each._run(number_it)
if __name__ == '__main__':
    for method in multiprocessing.get_all_start_methods():
        process = multiprocessing.get_context(method).Process
        workers = [process(target=work, args=[db]) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(method, len(list(db)), list(db) == [str(n) for n in range(len(list(db)))])
"""


class ProcessTestCase(FolderTestCase):
    """Processes share the file: forked ones, workers, and those that are killed."""

    def add_in_a_thread(self):
        self.join(self.start(self.db.add, 'of a process'))

    @POSIX
    def test_no_note_is_lost_when_a_process_forks_beside_threads_that_add(self):
        def add(name):
            while not ended.is_set():
                self.db.add(name)
                added.append(name)

        added, ended = [], threading.Event()
        threads = [self.start(add, name) for name in 'abc']
        for _ in range(20):
            self.join(self.start(self.add_in_a_thread, kind=Process))
            added.append('of a process')
        ended.set()
        self.join(*threads)
        self.assertEqual(sorted(added), sorted(self.db))

    @POSIX
    def test_a_child_outlives_a_close_and_has_a_copy_of_what_is_in_memory(self):
        def work():
            closed.wait(10)
            self.db.add('of the child')
            memory.add('of the child')
            self.assertEqual(['as it was', 'of the child'], list(memory))

        memory = db_connection.TestDatabase()
        self.addCleanup(memory.close)
        memory.add('as it was')
        self.db.add('of the parent')
        closed = multiprocessing.get_context('fork').Event()
        child = self.start(work, kind=Process)
        self.db.close()  # This deletes the WAL.
        closed.set()
        self.join(child)
        self.assertEqual(['of the parent', 'of the child'], list(self.db))
        self.assertEqual(['as it was'], list(memory))

    @POSIX
    def test_an_interrupt_of_a_fork_that_waits_for_a_thread_does_no_harm(self):
        def work(connection):
            held.set()
            interrupted.wait(10)
            time.sleep(0.2)  # Meanwhile, the fork must go on waiting.

        def interrupt(*_):
            interrupted.set()
            raise KeyboardInterrupt

        held, interrupted = threading.Event(), threading.Event()
        thread = self.start(self.db._run, work)
        held.wait(10)
        handler = signal.signal(signal.SIGALRM, interrupt)
        self.addCleanup(signal.signal, signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with mock.patch('sys.unraisablehook') as print_interrupt:
            self.join(self.start(self.add_in_a_thread, kind=Process))
        print_interrupt.assert_called_once()
        self.join(thread)
        self.add_in_a_thread()

    def test_workers_share_a_file_and_make_it_at_once(self):
        path = Path(self.folder, 'a_main.py')
        methods = multiprocessing.get_all_start_methods()
        for testing, notes in (True, 0), (False, 80):
            path.write_text(f'TESTING = {testing}{WORKERS}', encoding='utf-8')
            lines = [f'{name} {notes * n} True' for n, name in enumerate(methods, 1)]
            self.assert_prints(lines, path)

    def test_a_killed_process_loses_no_note_and_leaves_no_part(self):
        work = 'lambda c: [c.execute(INSERT, ["a part"]), os._exit(1)]'
        code = f'db = Database(); db.add("kept"); db._run({work})'
        self.run_python('-c', f'TESTING = False\nfrom db_connection import *\n{code}')
        self.assertEqual(['kept'], list(self.db))


class MainsTestCase(FolderTestCase):
    """The two main files, and what README.md shows, as they're run."""

    def test_development_forgets_and_production_keeps(self):
        self.assert_prints(['TestDatabase()', 'a'], 'dev_main.py', 'a')
        self.assert_prints(['TestDatabase()'], 'dev_main.py')
        self.assert_prints([repr(self.db), 'a'], 'prod_main.py', 'a')
        self.assert_prints([repr(self.db), 'a', 'c', 'b'], 'prod_main.py', 'c', 'b')
        self.assertEqual(['notes.db'], os.listdir(os.path.dirname(self.db.path)))

    def test_help_and_a_usage_error_make_nothing(self):
        stdout, stderr, status = self.run_python('prod_main.py', '--help')
        self.assertRegex(stdout, r'^usage: prod_main.py \[-h\] \[NOTE ...\]\n\nStore ')
        self.assertEqual(('', 0), (stderr, status))
        invalid = b'caf\xe9' if os.name == 'posix' else 'caf\udce9'
        stdout, stderr, status = self.run_python('prod_main.py', 'a', invalid)
        self.assertRegex(stderr, r"argument NOTE: invalid note value: 'caf\\udce9'\n$")
        self.assertEqual(('', 2), (stdout, status))
        self.assertEqual([], os.listdir(self.folder))

    def test_arguments_are_utf_8_and_what_output_cannot_encode_is_escaped(self):
        os.environ.update(PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', LC_ALL='C')
        note = 'caf\xe9 \u2026'
        argument = note.encode() if os.name == 'posix' else note
        for encoding, line in ('utf-8', note), ('ascii', r'caf\xe9 \u2026'):
            os.environ['PYTHONIOENCODING'] = encoding
            self.assert_prints(['TestDatabase()', line], 'dev_main.py', argument)

    @POSIX  # Windows' error is another one.
    def test_a_reader_that_stops_early_is_no_error(self):
        reading, writing = os.pipe()
        os.close(reading)
        for notes in ['few'], ['many' * 10_000] * 3:
            result = self.run_python('dev_main.py', *notes, stdout=writing)
            self.assertEqual((None, '', 0), result)
        os.close(writing)

    def test_it_needs_no_standard_output(self):
        with mock.patch('sys.argv', ['', 'a note']), contextlib.redirect_stdout(None):
            utils.main(self.db)
        self.assertEqual(['a note'], list(self.db))

    @skipUnless(Process and sys.implementation.name == 'cpython', 'Others differ')
    def test_the_commands_of_the_readme_print_what_it_shows(self):
        del os.environ['XDG_DATA_HOME'], os.environ['PYTHONPATH']
        text = Path(HERE, 'README.md').read_text(encoding='utf-8')
        commands = r'(?m)^\$ python (?!-m unittest)(.*)\n((?:[^$`].*\n)*)'
        for command, shown in re.findall(commands, text):
            output = self.run_python(*shlex.split(command), stderr=subprocess.STDOUT)[0]
            for path, name in (HERE, '/home/you/code'), (self.folder, '/home/you'):
                output = output.replace(repr(path)[1:-1], name).replace(path, name)
            shown = re.escape(shown).replace('…\\\n', '(?s:.*)').replace('…', '.*')
            self.assertRegex(output, f'^{shown}$', command)


if __name__ == '__main__':
    main()
