"""The suite: unit tests in this process, integration tests that start programs."""

import multiprocessing
import os
import re
import runpy
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import TestCase, main
from unittest.mock import patch

import __main__
from utils import to_str

with patch.object(__main__, 'TESTING', True, create=True):
    import db_connection

HERE = os.path.dirname(os.path.abspath(__file__))
POSIX = unittest.skipUnless(os.name == 'posix', 'Windows has no such thing')


class UtilsTestCase(TestCase):
    def test_to_str_bytes(self):
        self.assertEqual('hello', to_str(b'hello'))

    def test_to_str_str(self):
        self.assertEqual('hello', to_str('hello'))

    def test_to_str_bad(self):
        self.assertRaises(TypeError, to_str, object())

    def test_to_str_bad_shows_what_it_found(self):
        self.assertRaisesRegex(TypeError, r'found: \(1, 2\)$', to_str, (1, 2))


class ChoiceTestCase(TestCase):
    """Which Database __main__.TESTING and sys.platform choose."""

    def choose(self, main, worker_main, platform='linux'):
        modules = {
            '__main__': SimpleNamespace(**main),
            '__mp_main__': SimpleNamespace(**worker_main),
        }
        with patch.dict(sys.modules, modules), patch('sys.platform', platform):
            return runpy.run_module('db_connection')['Database'].__name__

    def test_testing_and_the_platform_choose(self):
        for testing, platform, name in (
            (True, 'linux', 'TestDatabase'),
            (True, 'win32', 'TestDatabase'),
            (False, 'linux', 'PosixDatabase'),
            (False, 'darwin', 'PosixDatabase'),
            (False, 'win32', 'Win32Database'),
        ):
            self.assertEqual(name, self.choose({'TESTING': testing}, {}, platform))

    def test_in_a_worker_process_its_main_file_chooses(self):
        self.assertEqual('TestDatabase', self.choose({}, {'TESTING': True}))

    def test_an_old_main_file_of_a_worker_does_not_choose(self):
        name = self.choose({'TESTING': False}, {'TESTING': True})
        self.assertEqual('PosixDatabase', name)

    def test_anything_but_true_and_false_is_refused(self):
        for testing in 'False', None, 0, 1:
            with self.assertRaisesRegex(RuntimeError, 'set TESTING to True or False$'):
                self.choose({'TESTING': testing}, {'TESTING': True})


class FolderTestCase(TestCase):
    """A temporary folder, for all data of this process and those that it starts."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        homes = 'HOME', 'USERPROFILE', 'XDG_DATA_HOME', 'LOCALAPPDATA'
        environ = dict.fromkeys((*homes, 'TEST_DATA_HOME', 'TMPDIR'), self.folder)
        environ.update(PYTHONPATH=HERE, PYTHONIOENCODING='utf-8', PYTHONUNBUFFERED='')
        patcher = patch.dict(os.environ, environ)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.db = db_connection.Database()

    def run_python(self, *arguments, cwd=HERE, stdout=subprocess.PIPE):
        """Return what a program prints to each stream, and its exit status."""
        run = subprocess.run(
            [sys.executable, '-W', 'error', '-X', 'dev', *arguments],
            check=False,
            cwd=cwd,
            encoding='utf-8',
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        return run.stdout, run.stderr, run.returncode

    def assert_prints(self, lines, *arguments, **options):
        output = ''.join(f'{line}\n' for line in lines)
        self.assertEqual((output, '', 0), self.run_python(*arguments, **options))

    def assert_main_file_prints(self, lines, testing, code):
        """Run a main file that sets TESTING, makes db, and goes on with code."""
        os.environ['TEST_DATA_HOME'] = ''
        start = 'import db_connection\ndb = db_connection.Database()\n'
        path = Path(self.folder, 'a_main.py')
        path.write_text(f'TESTING = {testing}\n{start}{code}', encoding='utf-8')
        self.assert_prints(lines, path, cwd=self.folder)


class PlaceTestCase(FolderTestCase):
    """The folder that each database is in."""

    def test_a_variable_names_it_and_must_be_absolute(self):
        for variable, database in (
            ('XDG_DATA_HOME', db_connection.PosixDatabase),
            ('LOCALAPPDATA', db_connection.Win32Database),
            ('TEST_DATA_HOME', db_connection.TestDatabase),
        ):
            path = os.path.join(HERE, 'production-notes', 'notes.db')
            os.environ[variable] = HERE
            self.assertEqual(path, database().path)
            os.environ[variable] = 'staging'
            self.assertRaisesRegex(OSError, f"{variable} .* 'staging'$", database)

    def test_without_the_variable_it_is_in_the_users_home(self):
        path = os.path.join('production-notes', 'notes.db')
        del os.environ['XDG_DATA_HOME']
        share = os.path.join(self.folder, '.local', 'share', path)
        self.assertEqual(share, db_connection.PosixDatabase().path)
        os.environ['LOCALAPPDATA'] = ''
        local = os.path.join(self.folder, 'AppData', 'Local', path)
        self.assertEqual(local, db_connection.Win32Database().path)

    def test_a_temporary_folder_that_is_gone_already_is_no_error(self):
        db_connection.delete_folder(
            os.path.join(self.folder, 'gone'), maker=os.getpid()
        )

    def test_a_given_path_is_used(self):
        for path in 'notes.db', os.path.join(self.folder, 'notes.db'), '':
            self.assertEqual(os.path.abspath(path), db_connection.Database(path).path)

    @POSIX
    def test_only_its_user_can_enter_it(self):
        self.db.add('a note')
        self.assertEqual(0o700, Path(self.db.path).parent.stat().st_mode & 0o777)


class DatabaseTestCase(FolderTestCase):
    """What all databases have in common."""

    def test_it_keeps_texts_in_their_order(self):
        self.db.add(' b\n', b'caf\xc3\xa9', '')
        with self.db.connect() as connection:
            # Without ORDER BY, SQLite would read this index, not the wider table.
            connection.execute('ALTER TABLE note ADD COLUMN done')
            connection.execute('CREATE INDEX by_text ON note (text)')
        self.assertEqual([' b\n', 'caf\xe9', ''], list(self.db))

    def test_its_repr_makes_it_again(self):
        self.assertEqual(self.db.path, eval(repr(self.db), vars(db_connection)).path)

    def test_to_make_it_and_to_add_nothing_opens_nothing(self):
        self.db.add()
        self.assertEqual([], os.listdir(self.folder))

    def test_an_add_that_fails_stores_nothing(self):
        for bad in object(), b'caf\xe9', 'caf\udce9':
            with self.assertRaises((TypeError, UnicodeError)):
                self.db.add(*['a note'] * 1000, bad)
        self.assertEqual([], list(self.db))

    def test_a_loop_may_add(self):
        self.db.add('a', 'b')
        for text in self.db:
            self.db.add(text * 2)
        self.assertEqual(['a', 'b', 'aa', 'bb'], list(self.db))

    def test_a_statement_outside_a_transaction_is_kept(self):
        with self.db.connect() as connection:
            connection.execute(db_connection.INSERT, ['a note'])
        self.assertEqual(['a note'], list(self.db))

    def test_a_connection_is_durable_and_patient_and_then_closed(self):
        values = {'synchronous': 3, 'fullfsync': 1, 'busy_timeout': 30_000}
        with self.db.connect() as connection:
            for name, value in values.items():
                rows = connection.execute(f'PRAGMA {name}').fetchall()
                self.assertEqual([(value,)], rows, name)
        self.assertRaises(sqlite3.ProgrammingError, connection.execute, 'SELECT 1')

    def test_its_file_may_be_moved_and_put_back(self):
        moved = os.path.join(self.folder, 'moved.db')
        self.db.add('moved')
        os.rename(self.db.path, moved)
        self.db.add('new')
        self.assertEqual(['new'], list(self.db))
        os.replace(moved, self.db.path)
        self.assertEqual(['moved'], list(self.db))

    def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(self):
        self.db = db_connection.Database(os.path.join(self.folder, 'a.txt'))
        Path(self.db.path).write_bytes(b'a text')
        self.assertRaisesRegex(
            sqlite3.DatabaseError, 'not a database: TestDatabase', self.db.add, 'a note'
        )
        self.assertEqual(b'a text', Path(self.db.path).read_bytes())


class OtherWriterTestCase(FolderTestCase):
    """Others write to the same file."""

    def test_nobody_else_writes_from_the_start_of_a_transaction(self):
        with patch('db_connection.TIMEOUT', 0), self.db.transaction():
            self.assertRaisesRegex(
                sqlite3.OperationalError, 'locked: TestDatabase', self.db.add, 'a note'
            )

    def test_a_writer_waits(self):
        with self.db.transaction() as connection:
            thread = threading.Thread(target=self.db.add, args=['second'])
            thread.start()
            thread.join(0.2)
            connection.execute(db_connection.INSERT, ['first'])
        thread.join()
        self.assertEqual(['first', 'second'], list(self.db))

    def test_a_reader_does_not_wait(self):
        self.db.add('a note')
        with patch('db_connection.TIMEOUT', 0), self.db.transaction() as connection:
            connection.execute(db_connection.INSERT, ['not yet'])
            self.assertEqual(['a note'], list(self.db))


WORKERS = """
import multiprocessing

def work(text):
    db.add(text)

if __name__ == '__main__':
    for method in multiprocessing.get_all_start_methods():
        process = multiprocessing.get_context(method).Process
        workers = [process(target=work, args=[method]) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    print(*db)
"""
FORK = """
import contextlib, os, sys
db.add('kept')
with contextlib.suppress(ZeroDivisionError), db.connect():
    1 / 0
if os.fork() == 0:
    db.add('of the child')
    sys.exit()
os.wait()
print(*db)
"""
FORK_WHILE_OPEN = """
import os, sqlite3
with db.connect():
    list(db)
    if os.fork() == 0:
        try:
            db.add('of the child')
        except sqlite3.ProgrammingError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
db.add('of the parent')
print(*db)
"""
KILL = """
import os
db.add('kept')
with db.transaction() as connection:
    connection.execute(db_connection.INSERT, ['a part ' * 1_000_000])
    os._exit(0)
"""


class ProcessTestCase(FolderTestCase):
    """Processes that share a database."""

    def test_workers_share_their_program_s_database(self):
        methods = multiprocessing.get_all_start_methods()
        line = ' '.join(f'{method} {method}' for method in methods)
        for testing in True, False:
            self.assert_main_file_prints([line], testing, WORKERS)

    @POSIX
    def test_a_forked_child_shares_the_temporary_folder_and_does_not_delete_it(self):
        self.assert_main_file_prints(['kept of the child'], True, FORK)

    @POSIX
    def test_a_child_that_was_forked_while_the_file_was_open_is_refused(self):
        refusal = 'forked while a thread used a database'
        lines = [f'{refusal}: {db_connection.RealDatabase()!r}', 'of the parent']
        self.assert_main_file_prints(lines, False, FORK_WHILE_OPEN)

    def test_a_kill_in_a_transaction_leaves_no_part_of_it(self):
        self.assert_main_file_prints([], False, KILL)
        self.assertEqual(['kept'], list(db_connection.RealDatabase()))


class MainTestCase(FolderTestCase):
    """The two main files, as a user runs them."""

    def test_production_keeps_notes(self):
        line = repr(db_connection.RealDatabase())
        self.assert_prints([line, 'a'], 'prod_main.py', 'a')
        self.assert_prints([line, 'a', 'c', 'b'], 'prod_main.py', 'c', 'b')

    def test_development_keeps_notes_only_where_the_variable_says(self):
        self.assert_prints([repr(self.db), 'a'], 'dev_main.py', 'a')
        self.assert_prints([repr(self.db), 'a'], 'dev_main.py')

    def test_development_deletes_its_temporary_folder_at_the_end(self):
        os.environ.update(HOME=HERE, TEST_DATA_HOME='')  # The folder isn't in the home.
        output, errors, status = self.run_python('dev_main.py', 'a note')
        self.assertRegex(output, rf'{os.path.basename(self.folder)}.*\na note\n$')
        self.assertEqual(('', 0, []), (errors, status, os.listdir(self.folder)))

    def test_help_and_a_usage_error_make_nothing(self):
        output, errors, status = self.run_python('prod_main.py', '--help')
        self.assertIn('Store each NOTE', output)
        self.assertEqual(('', 0), (errors, status))
        output, errors, status = self.run_python('prod_main.py', 'caf\udce9')
        self.assertIn(r"NOTE: invalid note value: 'caf\udce9'", errors)
        self.assertEqual(('', 2), (output, status))
        self.assertEqual([], os.listdir(self.folder))

    def test_arguments_are_utf_8_and_what_the_output_cannot_encode_is_escaped(self):
        os.environ.update(
            LC_ALL='C',
            PYTHONCOERCECLOCALE='0',
            PYTHONIOENCODING='ascii',
            PYTHONUTF8='0',
        )
        self.assertIn(r'caf\xe9', self.run_python('dev_main.py', b'caf\xc3\xa9')[0])

    @POSIX
    def test_it_ends_quietly_when_nobody_reads_on(self):
        reader, writer = os.pipe()
        os.close(reader)
        result = self.run_python('dev_main.py', 'a note', stdout=writer)
        os.close(writer)
        self.assertEqual((None, '', 0), result)

    def test_a_main_file_without_testing_is_refused(self):
        output, errors, status = self.run_python('-c', 'import db_connection')
        self.assertIn('must first set TESTING to True or False', errors)
        self.assertEqual(('', 1), (output, status))


class ReadmeTestCase(FolderTestCase):
    """What README.md shows."""

    readme = Path(HERE, 'README.md').read_text(encoding='utf-8')

    @POSIX
    @unittest.skipIf(sys.implementation.name == 'pypy', 'PyPy has no tracemalloc')
    def test_its_commands_print_what_it_shows(self):
        os.environ.update(XDG_DATA_HOME='', TEST_DATA_HOME='')
        command = r'(?m)^\$ python (?!-m unittest)(.*)\n((?:[^$`].*\n)*)'
        commands = re.findall(command, self.readme)
        self.assertEqual(5, len(commands))
        for arguments, shown in commands:
            output, errors, status = self.run_python(*shlex.split(arguments))
            # Times differ, and so do the quotes of a path that has one itself.
            shown = re.sub(r'\d', r'\\d', re.escape(shown)).replace("'", '.')
            shown = shown.replace('…\\\n', '(?s:.*)').replace('…', '.*')
            self.assertRegex(output, f'^{shown}$')
            self.assertEqual(('', 0), (errors, status))

    def test_its_python_runs(self):
        blocks = re.findall('(?ms)^```python\n(.*?)^```$', self.readme)
        code = 'import sys, __main__\nfrom db_connection import *\n' + ''.join(blocks)
        self.assert_main_file_prints(['a str', 'UTF-8 bytes'], True, code)


if __name__ == '__main__':
    main()
