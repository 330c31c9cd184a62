"""Production: the notes are kept in the data folder of the user who runs it."""

TESTING = False  # Set before the import, which reads it.
import db_connection
db = db_connection.Database()

if __name__ == '__main__':
    import utils

    utils.main(db)
