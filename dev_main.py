"""Development: the notes are in a temporary folder, deleted when the program ends."""

TESTING = True  # Set before the import, which reads it.
import db_connection
db = db_connection.Database()

if __name__ == '__main__':
    import utils

    utils.main(db)
