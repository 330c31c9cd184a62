"""Production: the notes are kept in the data folder of whoever runs it."""
# ruff: noqa: E402, RUF100 - db_connection reads TESTING, so it is imported below.
TESTING = False

import atexit

import db_connection
import utils

db = db_connection.Database()
atexit.register(db.close)  # At exit, because python -i uses db after the program.

if __name__ == '__main__':
    utils.main(db)
