"""An S3 server that keeps its objects as files, so that it can be killed and started again.

    python tests/file_s3.py FOLDER PORT [unconditional]

Path-style addresses, no authentication; what s3fs asks for: head, ranged get, put (with If-None-Match: * and If-Match,
or like a server that knows neither), list (v2), delete, delete many, multipart upload. Not for anything but tests.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import s3fs


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    conditional = True
    putting = threading.Lock()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, length: int = -1) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str = "NoSuchKey") -> None:
        self._answer(404, f"<Error><Code>{code}</Code><Message>not there</Message></Error>".encode())

    def _parse(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return bucket, key, query

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        plain = b""
        while data:
            head, _, data = data.partition(b"\r\n")
            size = int(head.split(b";")[0], 16)
            if size == 0:
                break
            plain, data = plain + data[:size], data[size + 2 :]
        return plain

    def _file(self, bucket: str, key: str) -> Path:
        return self.root / bucket / quote(key, safe="")

    @staticmethod
    def _facts(path: Path) -> dict[str, str]:
        status = path.stat()
        tag = hashlib.md5(f"{path.name}{status.st_size}{status.st_mtime_ns}".encode()).hexdigest()
        modified = formatdate(status.st_mtime, usegmt=True)
        return {"ETag": f'"{tag}"', "Last-Modified": modified, "Content-Type": "application/octet-stream"}

    def do_HEAD(self) -> None:
        bucket, key, _ = self._parse()
        path = self._file(bucket, key) if key else self.root / bucket
        if not path.exists():
            self._answer(404)
        elif not key:
            self._answer(200)
        else:
            self._answer(200, headers={**self._facts(path), "Accept-Ranges": "bytes"}, length=path.stat().st_size)

    def do_GET(self) -> None:
        bucket, key, query = self._parse()
        if not (self.root / bucket).exists():
            self._missing("NoSuchBucket")
        elif not key:
            self._list(bucket, query)
        elif not (path := self._file(bucket, key)).exists():
            self._missing()
        else:
            data, facts = path.read_bytes(), self._facts(path)
            if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
                first = int(asked[1]) if asked[1] else len(data) - int(asked[2])
                last = min(int(asked[2]), len(data) - 1) if asked[1] and asked[2] else len(data) - 1
                facts["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                self._answer(206, data[first : last + 1], facts)
            else:
                self._answer(200, data, facts)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        files, folders = [], set()
        for path in sorted((self.root / bucket).iterdir()):
            key = unquote(path.name)
            if key.startswith(".") or not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                files.append((key, path))
        modified = "2026-01-01T00:00:00.000Z"
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>{escape(self._facts(path)['ETag'])}</ETag><Size>{path.stat().st_size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key, path in files
        )
        entries += "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        content = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(files) + len(folders)}</KeyCount>"
            f"<MaxKeys>100000</MaxKeys><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        )
        self._answer(200, content.encode(), {"Content-Type": "application/xml"})

    def do_PUT(self) -> None:
        bucket, key, query = self._parse()
        data = self._body()
        if not key:
            (self.root / bucket).mkdir(parents=True, exist_ok=True)
            self._answer(200)
            return
        name = f".part-{query['uploadId']}-{int(query['partNumber']):05d}" if "partNumber" in query else ""
        path = self.root / bucket / name if name else self._file(bucket, key)
        with self.putting:
            if not self._expected(path):
                self._answer(412, b"<Error><Code>PreconditionFailed</Code><Message>it is another</Message></Error>")
                return
            self._put(path, data)
            facts = self._facts(path)
        self._answer(200, headers={"ETag": facts["ETag"]})

    def _expected(self, path: Path) -> bool:
        """Whether the object is in the state that the request asks for, if it asks."""
        wanted, fresh = self.headers.get("If-Match"), self.headers.get("If-None-Match") == "*"
        if not self.conditional:
            return True
        if fresh:
            return not path.exists()
        return wanted is None or (path.exists() and self._facts(path)["ETag"].strip('"') == wanted.strip('"'))

    @staticmethod
    def _put(path: Path, data: bytes) -> None:
        """In one piece, as S3 promises."""
        temporary = path.with_name(f".tmp-{threading.get_ident()}-{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(path)

    def do_POST(self) -> None:
        bucket, key, query = self._parse()
        data = self._body()
        if "delete" in query:
            keys = [unquote(e.text or "") for e in ElementTree.fromstring(data).iter() if e.tag.endswith("Key")]
            for name in keys:
                self._file(bucket, name).unlink(missing_ok=True)
            deleted = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in keys)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        elif "uploads" in query:
            upload = hashlib.md5(os.urandom(8)).hexdigest()
            content = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            body = f"<InitiateMultipartUploadResult>{content}</InitiateMultipartUploadResult>"
            self._answer(200, body.encode())
        else:
            parts = sorted((self.root / bucket).glob(f".part-{query['uploadId']}-*"))
            path = self._file(bucket, key)
            self._put(path, b"".join(part.read_bytes() for part in parts))
            for part in parts:
                part.unlink()
            tag = escape(self._facts(path)["ETag"])
            content = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><ETag>{tag}</ETag>"
            self._answer(200, f"<CompleteMultipartUploadResult>{content}</CompleteMultipartUploadResult>".encode())

    def do_DELETE(self) -> None:
        bucket, key, _ = self._parse()
        if key:
            self._file(bucket, key).unlink(missing_ok=True)
        else:
            shutil.rmtree(self.root / bucket, ignore_errors=True)
        self._answer(204)


class Server:
    """The server as a process, which can be killed and comes back with what it held."""

    def __init__(self, folder: Path, *words: str):
        self.folder, self._words = folder, words
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "2",  # ours come on top
        }

    def start(self) -> None:
        s3fs.S3FileSystem.clear_instance_cache()  # it remembers the address of the server of the test before
        (self.folder / "bucket").mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen([sys.executable, __file__, str(self.folder), str(self.port), *self._words])
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    Handler.root = Path(sys.argv[1])
    Handler.conditional = "unconditional" not in sys.argv[3:]
    Handler.root.mkdir(parents=True, exist_ok=True)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()


if __name__ == "__main__":
    main()
