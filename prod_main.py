"""Production: the notes are kept in the data folder of the user who runs it."""

# db_connection reads TESTING when it is imported.
TESTING = False
import db_connection
db = db_connection.Database()

# With multiprocessing, a worker process may import this file, too.
if __name__ == '__main__':
    import utils

    utils.main(db)
