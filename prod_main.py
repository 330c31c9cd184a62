"""Production: the notes are kept in the data folder of whoever runs it."""
# db_connection reads TESTING. It's imported first, so that a fork takes its lock last.
TESTING = False
import db_connection
db = db_connection.Database()
import utils
if __name__ == '__main__':
    utils.main(db)
