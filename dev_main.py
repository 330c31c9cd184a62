"""Development: the notes are in a temporary folder, unless TEST_DATA_HOME is set."""

# db_connection reads TESTING when it is imported.
TESTING = True
import db_connection
db = db_connection.Database()

# With multiprocessing, a worker process may import this file, too.
if __name__ == '__main__':
    import utils

    utils.main(db)
