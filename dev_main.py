"""Development: the notes are in memory, and forgotten when the program ends."""
# db_connection reads TESTING. It's imported first, so that a fork takes its lock last.
TESTING = True
import db_connection
db = db_connection.Database()
import utils
if __name__ == '__main__':
    utils.main(db)
