"""Production: the notes are kept in the data folder of whoever runs it."""
# db_connection reads TESTING when it is imported, so TESTING stands above it.
TESTING = False
import db_connection
db = db_connection.Database()
import utils
if __name__ == '__main__':
    utils.main(db)
