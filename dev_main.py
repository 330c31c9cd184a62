"""Development: the notes are in a temporary folder, and go when the program ends."""

TESTING = True  # Before the import, because db_connection reads it then.
import db_connection
db = db_connection.Database()

if __name__ == '__main__':
    import utils

    utils.main(db)
