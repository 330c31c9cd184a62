"""Production: the notes are kept in the data folder of whoever runs it."""
# db_connection reads TESTING. Import it first: before a fork, its hooks must run last.
TESTING = False
import db_connection
db = db_connection.Database()
import utils
if __name__ == '__main__':
    utils.main(db)
