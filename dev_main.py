"""Development: the notes are in memory, and forgotten when the program ends."""
TESTING = True  # First, because db_connection reads it when it is imported.
import db_connection
import utils
db = db_connection.Database()
if __name__ == '__main__':
    utils.main(db)
