"""The suite: unit tests in this process, integration tests that start programs."""

import doctest
import inspect
import io
import os
import runpy
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import threading
import unittest
from contextlib import ExitStack, redirect_stdout
from multiprocessing import get_all_start_methods
from pathlib import Path
from types import SimpleNamespace
from unittest import TestCase, main
from unittest.mock import MagicMock, patch

import __main__
import utils
from utils import to_str

with patch.object(__main__, 'TESTING', True, create=True):  # For this import only.
    import db_connection

HERE = os.path.dirname(os.path.abspath(__file__))
POSIX = unittest.skipUnless(os.name == 'posix', 'Windows has no such thing')

# With your table, adapt REVERSE, note and store. run_main_file copies them, and many.
REVERSE = 'UPDATE note SET id = -id'  # The notes' order shows whether it was stored.


def note(name):
    return f'note {name}'


def store(db, names):  # Each character of a str is a name: 'ab' stores two notes.
    db.add(*map(note, names))


def many():
    """Return names of so many notes that they don't fit into SQLite's cache.

    So a transaction that changes them all writes to the file before it ends. Compare
    the notes by ==, because assertEqual takes minutes to show a difference.
    """
    return [f'{number:1000}' for number in range(3000)]


class UtilsTestCase(TestCase):
    def test_to_str_bytes(self):
        self.assertEqual('hello', to_str(b'hello'))

    def test_to_str_str(self):
        self.assertEqual('hello', to_str('hello'))

    def test_to_str_bad(self):
        self.assertRaises(TypeError, to_str, object())

    def test_to_str_bad_shows_what_it_found(self):
        self.assertRaisesRegex(TypeError, r'found: \(1, 2\)$', to_str, (1, 2))

    def test_to_str_bytes_that_are_not_utf_8(self):
        self.assertRaises(UnicodeDecodeError, to_str, b'caf\xe9')


class MainTestCase(TestCase):
    """utils.main, with a mock in the place of the database."""

    def run_main(self, db, *arguments):
        with (
            patch('sys.argv', ['a_main.py', *arguments]),
            redirect_stdout(io.StringIO()) as output,
        ):
            utils.main(db)
        return output.getvalue()

    def test_it_adds_its_arguments_and_shows_database_and_notes_by_their_repr(self):
        db = MagicMock()
        db.__iter__.return_value = ['a\nb', "it's"]
        output = self.run_main(db, 'c', 'd')
        db.add.assert_called_once_with(b'c', b'd')
        self.assertEqual(f"{db!r}\n'a\\nb'\n\"it's\"\n", output)

    def test_an_error_ends_it_with_a_message_that_names_the_database_once(self):
        for error, message in (
            (sqlite3.Error('locked: its name'), ': locked: its name$'),
            (OSError('no folder'), ': no folder: <MagicMock id=.*>$'),
            (UnicodeError('no UTF-8'), ': no UTF-8: <MagicMock id=.*>$'),
        ):
            db = MagicMock(**{'add.side_effect': error})
            self.assertRaisesRegex(SystemExit, message, self.run_main, db)

    def test_an_output_that_fails_is_not_blamed_on_the_database(self):
        with (
            patch('sys.argv', ['a_main.py']),
            patch('sys.stdout', **{'write.side_effect': OSError('disk full')}),
        ):
            self.assertRaisesRegex(OSError, 'disk full', utils.main, MagicMock())


class ChoiceTestCase(TestCase):
    """Which Database __main__.TESTING and sys.platform choose."""

    def choose(self, main_file, worker_file, platform='linux'):
        with (
            patch.dict(sys.modules, __main__=SimpleNamespace(**main_file)),
            patch.dict(sys.modules, __mp_main__=SimpleNamespace(**worker_file)),
            patch('sys.platform', platform),
        ):
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

    def test_a_workers_main_file_chooses_if_main_itself_has_no_testing(self):
        self.assertEqual('TestDatabase', self.choose({}, {'TESTING': True}))
        self.assertEqual(
            'PosixDatabase', self.choose({'TESTING': False}, {'TESTING': True})
        )

    def test_anything_but_true_and_false_is_refused(self):
        for testing in 'False', None, 0, 1:
            with self.assertRaisesRegex(RuntimeError, 'set TESTING to True or False$'):
                self.choose({'TESTING': testing}, {})


class FolderTestCase(TestCase):
    """A temporary folder, for all data of this process and those that it starts."""

    def setUp(self):
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.folder = stack.enter_context(tempfile.TemporaryDirectory())
        environ = {
            'HOME': self.folder,
            'USERPROFILE': self.folder,
            'XDG_DATA_HOME': self.folder,
            'LOCALAPPDATA': self.folder,
            'TEST_DATA_HOME': self.folder,
            'TMPDIR': self.folder,
            'PYTHONIOENCODING': 'utf-8',
            'PYTHONUNBUFFERED': '',
            'PYPY_GC_NURSERY': '4M',  # Else PyPy may warn of the processor's cache.
        }
        stack.enter_context(patch.dict(os.environ, environ))
        self.db = db_connection.Database()

    def assert_output(self, expected, output):
        """Compare as doctest does: ... stands for any text."""
        self.assertTrue(
            doctest.OutputChecker().check_output(expected, output, doctest.ELLIPSIS),
            f'expected:\n{expected}\nfound:\n{output}',
        )

    def run_python(self, *arguments, stderr='', status=0, stdout=subprocess.PIPE):
        """Run a program, see that it ends as expected, and return what it prints."""
        run = subprocess.run(
            [sys.executable, '-W', 'error', '-X', 'dev', *arguments],
            check=False,
            cwd=HERE,
            encoding='utf-8',
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        self.assert_output(stderr, run.stderr)
        self.assertEqual(status, run.returncode)
        return run.stdout

    def run_main_file(self, testing, code, stderr=''):
        """Run a main file that sets TESTING, makes db, and goes on with code."""
        os.environ['TEST_DATA_HOME'] = ''  # Development makes a folder of its own.
        path = Path(self.folder, 'a_main.py')
        path.write_text(
            f'import sys; sys.path.append({HERE!r})\n'
            f'TESTING = {testing}; REVERSE = {REVERSE!r}\n'
            'import db_connection; db = db_connection.Database()\n'
            + '\n'.join(map(inspect.getsource, (note, store, many)))
            + code,
            encoding='utf-8',
        )
        return self.run_python(path, stderr=stderr)


class PlaceTestCase(FolderTestCase):
    """The folder that each database is in."""

    def test_a_variable_names_it_or_it_is_in_the_users_home(self):
        for variable, value, database, folder in (
            ('XDG_DATA_HOME', HERE, db_connection.PosixDatabase, HERE),
            (
                'XDG_DATA_HOME',
                '',
                db_connection.PosixDatabase,
                f'{self.folder}/.local/share',
            ),
            ('LOCALAPPDATA', HERE, db_connection.Win32Database, HERE),
            (
                'LOCALAPPDATA',
                '',
                db_connection.Win32Database,
                f'{self.folder}/AppData/Local',
            ),
            ('TEST_DATA_HOME', HERE, db_connection.TestDatabase, HERE),
        ):
            os.environ[variable] = value
            path = os.path.abspath(f'{folder}/production-notes/notes.db')
            self.assertEqual(path, database().path)

    def test_it_must_be_absolute(self):
        for database in db_connection.RealDatabase, db_connection.TestDatabase:
            os.environ[database.variable] = 'a/b'
            self.assertRaisesRegex(
                ValueError, f"^{database.variable} must be .* 'a/b'$", database
            )

    def test_a_temporary_folder_that_is_gone_already_is_no_error(self):
        db_connection.delete_folder(f'{self.folder}/gone', maker=os.getpid())

    def test_a_given_path_is_used(self):
        for path in '', 'notes.db', os.path.join(self.folder, 'notes.db'):
            self.assertEqual(os.path.abspath(path), db_connection.Database(path).path)

    def test_a_main_file_with_another_testing_gets_no_database(self):
        os.environ['TEST_DATA_HOME'] = ''
        with patch.dict(sys.modules, __main__=SimpleNamespace(TESTING=False)):
            self.assertRaisesRegex(
                RuntimeError, 'start Python anew', db_connection.Database
            )
        self.assertEqual('', os.environ['TEST_DATA_HOME'])  # No folder was made.

    @POSIX
    def test_only_its_user_can_enter_it(self):
        store(self.db, 'a')
        self.assertEqual(0o700, Path(self.db.path).parent.stat().st_mode & 0o777)


class DatabaseTestCase(FolderTestCase):
    """What SQLiteDatabase does, seen in a TestDatabase."""

    def test_it_keeps_texts_as_they_are_in_their_order(self):
        self.db.add(' b\n', b'caf\xc3\xa9', '01', '')
        with self.db.connect() as connection:
            # Without ORDER BY, SQLite would read this index: it holds all that SELECT
            # reads, and is narrower than the table.
            connection.executescript(
                'ALTER TABLE note ADD COLUMN other; CREATE INDEX texts ON note (text)'
            )
        self.assertEqual([' b\n', 'caf\xe9', '01', ''], list(self.db))

    def test_its_repr_makes_it_again(self):
        self.assertEqual(self.db.path, eval(repr(self.db), vars(db_connection)).path)

    def test_to_make_it_and_to_add_nothing_opens_nothing(self):
        self.db.add()
        self.assertEqual([], os.listdir(self.folder))

    def test_an_add_that_fails_stores_nothing(self):
        for bad in object(), b'caf\xe9', 'caf\udce9':
            self.assertRaises((TypeError, UnicodeError), self.db.add, 'a note', bad)
        self.assertEqual([], list(self.db))

    def test_a_loop_may_add(self):
        store(self.db, 'ab')
        for _ in self.db:
            store(self.db, 'c')
        self.assertEqual([*map(note, 'abcc')], list(self.db))

    def test_a_connection_is_durable_and_patient_and_then_closed(self):
        with self.db.connect() as connection:
            values = [
                connection.execute(f'PRAGMA {name}').fetchone()
                for name in ('journal_mode', 'synchronous', 'fullfsync', 'busy_timeout')
            ]
        self.assertEqual([('delete',), (3,), (1,), (30_000,)], values)  # 3 is EXTRA.
        self.assertRaises(sqlite3.ProgrammingError, connection.execute, 'SELECT 1')


class BlockTestCase(FolderTestCase):
    """A `with` block of connect() or transaction()."""

    def setUp(self):
        super().setUp()
        store(self.db, 'ab')

    def test_a_begin_by_hand_is_committed_at_the_end(self):
        with self.db.connect() as connection:
            connection.execute('BEGIN')
            connection.execute(REVERSE)
        self.assertEqual([*map(note, 'ba')], list(self.db))

    def test_if_the_block_raises_its_transaction_alone_is_undone(self):
        for block, begin, names in (
            (self.db.transaction, '', 'ab'),
            (self.db.connect, 'BEGIN', 'ab'),
            (self.db.connect, '', 'ba'),  # No transaction: each statement is stored.
        ):
            with self.assertRaisesRegex(KeyError, '^1$'), block() as connection:
                connection.execute(begin)
                connection.execute(REVERSE)
                raise KeyError(1)  # Not sqlite3's: its message stays as it is.
            self.assertEqual([*map(note, names)], list(self.db))

    def test_a_transaction_that_ended_before_its_block_is_an_error(self):
        with (
            self.assertRaisesRegex(
                sqlite3.OperationalError, 'before its block: TestDatabase'
            ),
            self.db.transaction() as connection,
        ):
            connection.executescript(REVERSE)

    def test_a_file_that_is_no_database_is_named_and_left_as_it_is(self):
        inner = db_connection.Database(f'{self.folder}/a.txt')
        Path(inner.path).write_bytes(b'a text')
        # The outer block must not add its own name.
        with self.assertRaises(sqlite3.DatabaseError) as caught, self.db.connect():
            list(inner)
        self.assertEqual(f'file is not a database: {inner!r}', str(caught.exception))
        self.assertEqual(b'a text', Path(inner.path).read_bytes())

    def test_beside_a_transaction_others_can_read_and_not_write(self):
        with patch('db_connection.TIMEOUT', 0), self.db.transaction() as connection:
            self.assertRaisesRegex(
                sqlite3.OperationalError, 'locked: TestDatabase', store, self.db, 'c'
            )
            connection.execute(REVERSE)
            self.assertEqual([*map(note, 'ab')], list(self.db))

    def test_another_writer_waits(self):
        with self.db.transaction() as connection:
            thread = threading.Thread(target=store, args=[self.db, 'c'])
            thread.start()
            thread.join(0.2)
            connection.execute(REVERSE)
        thread.join()
        self.assertEqual([*map(note, 'bac')], list(self.db))


# run_main_file runs these. It also gives them sys, db_connection, db and the helpers.
WORKERS = """
from multiprocessing import get_all_start_methods, get_context

def work(name):
    store(db, [name])

if __name__ == '__main__':
    for method in get_all_start_methods():
        process = get_context(method).Process
        workers = [process(target=work, args=[method]) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    print(list(db))
"""
FORK = """
import contextlib, os
store(db, 'a')
# A block that raised isn't open any more: the child below isn't refused.
with contextlib.suppress(ZeroDivisionError), db.connect():
    1 / 0
if os.fork() == 0:
    store(db, 'b')
    sys.exit()
os.wait()
print(list(db))
"""
FORK_WHILE_OPEN = """
import os, sqlite3
with db.connect():
    list(db)  # The outer block is still open after this.
    if os.fork() == 0:
        for any_database in db, db_connection.Database(db.path + '2'):
            try:
                store(any_database, 'a')
            except sqlite3.ProgrammingError as error:
                print(error, flush=True)
        sys.exit()
    print(os.wait()[1])
store(db, 'b')
print(list(db))
"""
FORK_IN_TRANSACTION = """
import os
store(db, many())
with db.transaction() as connection:
    connection.execute(REVERSE)
    for standard_error_is_closed in False, True:
        if os.fork() == 0:
            if standard_error_is_closed:
                os.close(2)
            sys.exit()
        print(os.WEXITSTATUS(os.wait()[1]), flush=True)
"""
KILL = """
import os
store(db, many())
with db.transaction() as connection:
    connection.execute(REVERSE)
    os._exit(0)
"""


class ProcessTestCase(FolderTestCase):
    """Processes that share a database."""

    def test_workers_share_their_program_s_database(self):
        notes = [note(name) for name in get_all_start_methods() for _ in range(2)]
        for testing in True, False:
            self.assertEqual(f'{notes}\n', self.run_main_file(testing, WORKERS))

    @POSIX
    def test_a_forked_child_shares_the_temporary_folder_and_does_not_delete_it(self):
        self.assertEqual(f'{[*map(note, "ab")]}\n', self.run_main_file(True, FORK))

    @POSIX
    def test_a_child_that_was_forked_while_a_file_was_open_is_refused_and_exits_0(self):
        refusal = 'forked while a database was open: PosixDatabase(...)\n'
        self.assert_output(
            f'{refusal}{refusal}0\n{[note("b")]}\n',
            self.run_main_file(False, FORK_WHILE_OPEN),
        )

    @POSIX
    def test_a_forked_child_that_leaves_a_transaction_ends_and_harms_nothing(self):
        output = self.run_main_file(
            testing=False,
            code=FORK_IN_TRANSACTION,
            stderr='A forked child left a transaction: the child ends.\n',
        )
        self.assertEqual('1\n1\n', output)
        notes = [*map(note, reversed(many()))]
        self.assertTrue(notes == list(db_connection.RealDatabase()))

    def test_a_kill_in_a_transaction_leaves_no_part_of_it(self):
        self.run_main_file(False, KILL)
        self.assertTrue([*map(note, many())] == list(db_connection.RealDatabase()))


class MainFileTestCase(FolderTestCase):
    """The two main files, as a user runs them."""

    def test_production_keeps_notes(self):
        shown = f"{db_connection.RealDatabase()!r}\n'a'\n"
        self.assertEqual(shown, self.run_python('prod_main.py', 'a'))
        self.assertEqual(
            f"{shown}'c'\n'b'\n", self.run_python('prod_main.py', 'c', 'b')
        )

    def test_development_keeps_notes_where_the_variable_says(self):
        shown = f"{self.db!r}\n'a'\n"
        self.assertEqual(shown, self.run_python('dev_main.py', 'a'))
        self.assertEqual(shown, self.run_python('dev_main.py'))

    def test_without_the_variable_its_folder_is_temporary_and_gone_at_the_end(self):
        # Move the home out of TMPDIR, so that the output shows which of them it used.
        os.environ.update(HOME=HERE, TEST_DATA_HOME='')
        shown = f"TestDatabase(...{os.path.basename(self.folder)}...)\n'a'\n"
        self.assert_output(shown, self.run_python('dev_main.py', 'a'))
        self.assertEqual([], os.listdir(self.folder))

    def test_a_worker_process_does_not_run_the_program_again(self):
        for path in Path(HERE, 'dev_main.py'), Path(HERE, 'prod_main.py'):
            self.assertIn('db', runpy.run_path(str(path), run_name='__mp_main__'))
        self.assertEqual([], os.listdir(self.folder))

    def test_help_tells_what_it_does(self):
        self.assertIn('Store each NOTE', self.run_python('prod_main.py', '--help'))

    def test_a_failure_is_one_line(self):
        db = db_connection.RealDatabase()
        os.makedirs(db.path)
        output = self.run_python(
            'prod_main.py',
            stderr=f'prod_main.py: unable to open database file: {db!r}\n',
            status=1,
        )
        self.assertEqual('', output)

    def test_arguments_are_utf_8_and_what_the_output_cannot_encode_is_escaped(self):
        os.environ.update(
            LC_ALL='C',
            PYTHONCOERCECLOCALE='0',
            PYTHONIOENCODING='ascii',
            PYTHONUTF8='0',
        )
        self.assertIn(r"'caf\xe9'", self.run_python('dev_main.py', b'caf\xc3\xa9'))

    @POSIX
    def test_it_ends_quietly_when_nobody_reads_on(self):
        for names in 'a', many():  # The first fails when it is flushed.
            store(self.db, names)
            reader, writer = os.pipe()
            os.close(reader)
            self.run_python('dev_main.py', stdout=writer)
            os.close(writer)

    def test_a_main_file_without_testing_is_refused(self):
        self.run_python(
            '-c',
            'import db_connection',
            stderr='...must first set TESTING to True or False...',
            status=1,
        )


class ReadmeTestCase(FolderTestCase):
    """What README.md shows."""

    readme = Path(HERE, 'README.md')

    @POSIX
    def test_its_commands_print_what_it_shows(self):
        os.environ.update(XDG_DATA_HOME='', TEST_DATA_HOME='')
        for command in self.readme.read_text(encoding='utf-8').split('$ python ')[1:]:
            arguments, _, rest = command.partition('\n')
            output = self.run_python(*shlex.split(arguments))
            self.assert_output(rest.partition('```')[0], output)

    @unittest.skipIf(sys.implementation.name == 'pypy', 'An example needs tracemalloc')
    def test_its_examples_print_what_it_shows(self):
        results = doctest.testfile(
            str(self.readme),
            module_relative=False,
            globs={'db': self.db, 'db_connection': db_connection},
            optionflags=doctest.ELLIPSIS,
            encoding='utf-8',
        )
        self.assertEqual(0, results.failed)


if __name__ == '__main__':
    main()
