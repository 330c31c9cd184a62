"""Development: the notes are in a temporary folder, deleted when the program ends."""

TESTING = True  # Before the import, since db_connection reads it then.
import db_connection
db = db_connection.Database()

if __name__ == '__main__':
    import utils

    utils.main(db)
