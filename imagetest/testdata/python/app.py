"""A web application in Python's own library: notes that are kept in SQLite."""
import json
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

DATABASE = "/tmp/notes.db"


def query(sql, *args):
    connection = sqlite3.connect(DATABASE, timeout=10)
    try:
        with connection:
            return connection.execute(sql, args).fetchall()
    finally:
        connection.close()


class Notes(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        for note in parse_qs(url.query).get("add", []):
            query("INSERT INTO notes (text) VALUES (?)", note)
        body = json.dumps({"python": sys.version.split()[0], "notes": [row[0] for row in query("SELECT text FROM notes")]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())


query("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
print("serving on port 8000", flush=True)
ThreadingHTTPServer(("", 8000), Notes).serve_forever()
