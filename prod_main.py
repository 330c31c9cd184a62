"""Production: the notes are kept in the data folder of whoever runs it."""
TESTING = False  # First, because db_connection reads it when it is imported.
import db_connection
import utils
db = db_connection.Database()
if __name__ == '__main__':
    utils.main(db)
