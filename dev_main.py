"""Development: the notes are in memory, and forgotten when the program ends."""
# db_connection reads TESTING when it is imported, so TESTING stands above it.
TESTING = True
import db_connection
db = db_connection.Database()
import utils
if __name__ == '__main__':
    utils.main(db)
