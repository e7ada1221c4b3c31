"""A small S3 server for tests, in the place of MinIO: real HTTP, real signatures, objects in a folder.

    python -m tests.support.s3_server FOLDER --port 9000          keys: MINIO_ROOT_USER, MINIO_ROOT_PASSWORD

Speaks what boto3, s3fs and MLflow use of S3, path style: buckets, objects with ranges and metadata, listings, uploads
in parts, deletion of many, presigned links. Signatures (version 4), their age and the checksums of bodies are verified,
so a wrong key, a tampered link or a body cut short is refused as S3 refuses it. An object is whole or absent. Not
here: versions, policies, encryption, virtual hosts.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
HEALTH = ("/minio/health/live", "/minio/health/ready")
CLOCK_SKEW = timedelta(minutes=15)
CHUNK_BYTES = 1 << 20
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    given = parser.parse_args()
    keys = {os.environ["MINIO_ROOT_USER"]: os.environ["MINIO_ROOT_PASSWORD"]}
    server(given.folder, keys, given.host, given.port).serve_forever()


def server(
    folder: Path, keys: Mapping[str, str], host: str = "127.0.0.1", port: int = 0
) -> ThreadingHTTPServer:
    """keys: secrets by access key."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = type("Handler", (Handler,), {"folder": folder, "keys": dict(keys)})
    made = ThreadingHTTPServer((host, port), handler)
    made.daemon_threads = True
    return made


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path
    keys: dict[str, str]

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.raw_query, self.raw_path = parts.query, parts.path
        bucket, _, self.key = unquote(parts.path).lstrip("/").partition("/")
        self.bucket = bucket
        self.body_read = False
        try:
            if parts.path in HEALTH:
                self._send(200)
                return
            self._check_signature()
            if bucket and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,62}", bucket):
                raise Refused(400, "InvalidBucketName", "no name for a bucket")
            self._dispatch()
        except Refused as refused:
            if not self.body_read:
                self.close_connection = True
            self._xml(
                refused.status,
                f"<Error><Code>{refused.code}</Code><Message>{escape(refused.message)}</Message></Error>",
            )
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _dispatch(self) -> None:
        method, query = self.command, self.query
        if not self.bucket:
            self._list_buckets()
        elif not self.key:
            if method == "PUT":
                self._read_body()
                self._folder_of_bucket().mkdir(parents=True, exist_ok=True)
                self._send(200)
                return
            self._need_bucket()
            if method == "HEAD":
                self._send(200)
            elif method == "POST" and "delete" in query:
                self._delete_many()
            elif method == "GET" and "uploads" in query:
                self._list_uploads()
            elif method == "GET" and "location" in query:
                self._xml(200, f"<LocationConstraint {NAMESPACE}/>")
            elif method == "GET":
                self._list()
            elif method == "DELETE":
                if any(self._objects()):
                    raise Refused(409, "BucketNotEmpty", "the bucket is not empty")
                shutil.rmtree(self._folder_of_bucket())
                self._send(204)
            else:
                raise Refused(501, "NotImplemented", "not here")
        else:
            self._need_bucket()
            self._object()

    def _object(self) -> None:
        method, query = self.command, self.query
        if method == "PUT" and "uploadId" in query:
            part = self._upload() / f"{int(query['partNumber']):06d}"
            self._store(part, {})
        elif method == "PUT" and "x-amz-copy-source" in self.headers:
            self._copy()
        elif method == "PUT":
            metadata = {k: v for k, v in self.headers.items() if k.lower().startswith("x-amz-meta-")}
            self._store(self._path(), metadata)
        elif method == "POST" and "uploads" in query:
            self._begin_upload()
        elif method == "POST" and "uploadId" in query:
            self._complete_upload()
        elif method == "DELETE" and "uploadId" in query:
            shutil.rmtree(self._upload())
            self._send(204)
        elif method == "DELETE":
            self._remove(self._path())
            self._send(204)
        elif method in ("GET", "HEAD"):
            self._get()
        else:
            raise Refused(501, "NotImplemented", "not here")

    # Signatures: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html

    def _check_signature(self) -> None:
        header = self.headers.get("Authorization")
        if header is not None:
            found = re.fullmatch(
                r"AWS4-HMAC-SHA256 Credential=([^,]+),\s*SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})",
                header,
            )
            if found is None:
                raise Refused(400, "AuthorizationHeaderMalformed", "no signature of version 4")
            credential, signed, signature = found.groups()
            moment = self.headers.get("x-amz-date", "")
            payload = self.headers.get("x-amz-content-sha256", "")
            self._check_age(moment, CLOCK_SKEW)
        elif "X-Amz-Signature" in self.query:
            credential, signed = self.query["X-Amz-Credential"], self.query["X-Amz-SignedHeaders"]
            signature, moment = self.query["X-Amz-Signature"], self.query["X-Amz-Date"]
            payload = "UNSIGNED-PAYLOAD"
            self._check_age(moment, timedelta(seconds=int(self.query["X-Amz-Expires"])))
        else:
            raise Refused(403, "AccessDenied", "no signature")
        key, day, region, service, _ = credential.rsplit("/", 4)
        if key not in self.keys:
            raise Refused(403, "InvalidAccessKeyId", "the access key is not known")
        secret = f"AWS4{self.keys[key]}".encode()
        for part in (day, region, service, "aws4_request"):
            secret = hmac.digest(secret, part.encode(), "sha256")
        request = "\n".join(
            [
                self.command,
                quote(unquote(self.raw_path), safe="/-_.~"),
                self._canonical_query(),
                *(f"{name}:{' '.join((self.headers.get(name) or '').split())}" for name in signed.split(";")),
                "",
                signed,
                payload,
            ]
        )
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{moment}\n{day}/{region}/{service}/aws4_request\n{hashed}"
        if not hmac.compare_digest(hmac.digest(secret, text.encode(), "sha256").hex(), signature):
            raise Refused(403, "SignatureDoesNotMatch", "the signature does not match")
        self.payload = payload

    def _canonical_query(self) -> str:
        pairs = parse_qsl(self.raw_query, keep_blank_values=True)
        encoded = [(quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in pairs if k != "X-Amz-Signature"]
        return "&".join(f"{k}={v}" for k, v in sorted(encoded))

    def _check_age(self, moment: str, most: timedelta) -> None:
        try:
            signed_at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise Refused(403, "AccessDenied", "no date") from None
        now = datetime.now(UTC)
        if "X-Amz-Signature" in self.query and now > signed_at + most:
            raise Refused(403, "AccessDenied", "Request has expired")
        if abs(now - signed_at) > max(most, CLOCK_SKEW):
            raise Refused(403, "RequestTimeTooSkewed", "the clocks differ by more than 15 minutes")

    # Bodies

    def _chunks(self) -> Iterator[bytes]:
        """The body as it comes, `aws-chunked` taken apart; raises Refused when it is cut short."""
        self.body_read = True
        self.trailers: dict[str, str] = {}
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            yield from self._aws_chunks()
            return
        if "Content-Length" not in self.headers and self.command == "PUT":
            raise Refused(411, "MissingContentLength", "no Content-Length")
        left = int(self.headers.get("Content-Length", 0))
        while left:
            data = self.rfile.read(min(left, CHUNK_BYTES))
            if not data:
                self.close_connection = True
                raise Refused(400, "IncompleteBody", "the body was cut short")
            left -= len(data)
            yield data

    def _aws_chunks(self) -> Iterator[bytes]:
        while True:
            line = self.rfile.readline()
            if not line.strip():
                self.close_connection = True
                raise Refused(400, "IncompleteBody", "the body was cut short")
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            data = self.rfile.read(size)
            if len(data) < size:
                self.close_connection = True
                raise Refused(400, "IncompleteBody", "the body was cut short")
            self.rfile.readline()
            yield data
        while line := self.rfile.readline().strip():
            name, _, value = line.decode().partition(":")
            self.trailers[name.lower()] = value

    def _read_body(self) -> bytes:
        data = b"".join(self._chunks())
        if re.fullmatch(r"[0-9a-f]{64}", self.payload) and hashlib.sha256(data).hexdigest() != self.payload:
            raise Refused(400, "XAmzContentSHA256Mismatch", "the body is not the one that was signed")
        return data

    def _store(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Whole, or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._folder_of_bucket() / f".{uuid.uuid4().hex}.tmp"
        md5, sha256, crc32 = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
        try:
            with temporary.open("wb") as file:
                for data in self._chunks():
                    md5.update(data)
                    sha256.update(data)
                    crc32 = zlib.crc32(data, crc32)
                    file.write(data)
            checked = {
                "x-amz-checksum-sha256": base64.b64encode(sha256.digest()).decode(),
                "x-amz-checksum-crc32": base64.b64encode(crc32.to_bytes(4, "big")).decode(),
                "content-md5": base64.b64encode(md5.digest()).decode(),
            }
            given = {name: self.headers.get(name) or self.trailers.get(name) for name in checked}
            if any(value not in (None, checked[name]) for name, value in given.items()):
                raise Refused(400, "BadDigest", "the checksum does not match the body")
            if re.fullmatch(r"[0-9a-f]{64}", self.payload) and sha256.hexdigest() != self.payload:
                raise Refused(400, "XAmzContentSHA256Mismatch", "the body is not the one that was signed")
            kept = {name: value for name, value in given.items() if value and name != "content-md5"}
            self._describe(path, {"etag": md5.hexdigest(), "metadata": dict(metadata), "checksums": kept})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._send(200, {"ETag": f'"{md5.hexdigest()}"', **kept})

    # Objects

    def _folder_of_bucket(self) -> Path:
        return self.folder / self.bucket

    def _need_bucket(self) -> None:
        if not self._folder_of_bucket().is_dir():
            raise Refused(404, "NoSuchBucket", "the bucket does not exist")

    def _path(self, key: str | None = None) -> Path:
        """One file an object: its key, quoted, cut to folder and name lengths that a file system takes."""
        quoted = quote(self.key if key is None else key, safe="")
        return (
            self._folder_of_bucket()
            / "objects"
            / "/".join(quoted[start : start + 200] for start in range(0, len(quoted), 200))
            / "_"
        )

    def _objects(self) -> Iterator[tuple[str, Path]]:
        root = self._folder_of_bucket() / "objects"
        found = ((unquote("".join(p.relative_to(root).parts[:-1])), p) for p in root.rglob("_"))
        yield from sorted(found, key=lambda entry: entry[0].encode())

    def _describe(self, path: Path, about: Mapping[str, Any]) -> None:
        temporary = path.with_name(f".{uuid.uuid4().hex}.json")
        temporary.write_text(json.dumps(about))
        temporary.replace(path.with_name(f"{path.name}.json"))

    def _about(self, path: Path) -> dict[str, Any]:
        about: dict[str, Any] = json.loads(path.with_name(f"{path.name}.json").read_text())
        return about

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.json").unlink(missing_ok=True)

    def _get(self) -> None:
        path = self._path()
        try:
            file = path.open("rb")
            about = self._about(path)
        except OSError:
            raise Refused(404, "NoSuchKey", "there is no such object") from None
        with file:
            state = os.fstat(file.fileno())
            headers = {
                "ETag": f'"{about["etag"]}"',
                "Last-Modified": _http_date(state.st_mtime),
                "Accept-Ranges": "bytes",
                "Content-Type": "application/octet-stream",
                **about["metadata"],
            }
            if self.headers.get("x-amz-checksum-mode") == "ENABLED" and "Range" not in self.headers:
                headers |= about["checksums"]
            if "response-content-disposition" in self.query:
                headers["Content-Disposition"] = self.query["response-content-disposition"]
            first, last, status = 0, state.st_size - 1, 200
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if asked and any(asked.groups()):
                if asked[1]:
                    first, last = int(asked[1]), min(int(asked[2] or last), last)
                else:
                    first = max(0, state.st_size - int(asked[2]))
                if first > last:
                    raise Refused(416, "InvalidRange", "the range cannot be satisfied")
                status = 206
                headers["Content-Range"] = f"bytes {first}-{last}/{state.st_size}"
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(last - first + 1)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                file.seek(first)
                left = last - first + 1
                while left and (data := file.read(min(left, CHUNK_BYTES))):
                    self.wfile.write(data)
                    left -= len(data)

    def _copy(self) -> None:
        self._read_body()
        bucket, _, key = unquote(self.headers["x-amz-copy-source"]).lstrip("/").partition("/")
        if bucket != self.bucket:
            raise Refused(501, "NotImplemented", "copies stay in their bucket here")
        source, target = self._path(key), self._path()
        if not source.exists():
            raise Refused(404, "NoSuchKey", "there is no such object")
        target.parent.mkdir(parents=True, exist_ok=True)
        about = self._about(source)
        self._describe(target, about)
        temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)
        self._xml(200, f"<CopyObjectResult><ETag>&quot;{about['etag']}&quot;</ETag></CopyObjectResult>")

    def _delete_many(self) -> None:
        root = ElementTree.fromstring(self._read_body())
        keys = [element.text or "" for element in root.iter() if element.tag.endswith("Key")]
        for key in keys:
            self._remove(self._path(key))
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._xml(200, f"<DeleteResult {NAMESPACE}>{deleted}</DeleteResult>")

    def _list_buckets(self) -> None:
        names = "".join(
            f"<Bucket><Name>{path.name}</Name></Bucket>"
            for path in sorted(self.folder.iterdir())
            if path.is_dir()
        )
        self._xml(
            200, f"<ListAllMyBucketsResult {NAMESPACE}><Buckets>{names}</Buckets></ListAllMyBucketsResult>"
        )

    def _list(self) -> None:
        """ListObjectsV2."""
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        most = min(int(self.query.get("max-keys", 1000)), 1000)
        after = self.query.get("continuation-token") or self.query.get("start-after", "")
        entries: dict[str, Path | None] = {}
        for key, path in self._objects():
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            name = prefix + head + found if found else key
            if name > after:
                entries.setdefault(name, None if found else path)
        page = list(entries.items())[:most]
        told = []
        for name, listed in page:
            if listed is None:
                told.append(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>")
                continue
            state, about = listed.stat(), self._about(listed)
            told.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{state.st_size}</Size>"
                f"<ETag>&quot;{about['etag']}&quot;</ETag><StorageClass>STANDARD</StorageClass>"
                f"<LastModified>{_iso(state.st_mtime)}</LastModified></Contents>"
            )
        more = len(entries) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if more else ""
        self._xml(
            200,
            f"<ListBucketResult {NAMESPACE}><Name>{self.bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(told)}</ListBucketResult>",
        )

    # Uploads in parts

    def _uploads(self) -> Path:
        return self._folder_of_bucket() / "uploads"

    def _upload(self) -> Path:
        path = self._uploads() / re.sub(r"\W", "", self.query["uploadId"])
        if not path.is_dir():
            raise Refused(404, "NoSuchUpload", "there is no such upload")
        return path

    def _begin_upload(self) -> None:
        self._read_body()
        name = uuid.uuid4().hex
        folder = self._uploads() / name
        folder.mkdir(parents=True)
        metadata = {k: v for k, v in self.headers.items() if k.lower().startswith("x-amz-meta-")}
        (folder / "upload.json").write_text(json.dumps({"key": self.key, "metadata": metadata}))
        self._xml(
            200,
            f"<InitiateMultipartUploadResult {NAMESPACE}><Bucket>{self.bucket}</Bucket>"
            f"<Key>{escape(self.key)}</Key><UploadId>{name}</UploadId></InitiateMultipartUploadResult>",
        )

    def _complete_upload(self) -> None:
        folder = self._upload()
        root = ElementTree.fromstring(self._read_body())
        numbers = [int(element.text or 0) for element in root.iter() if element.tag.endswith("PartNumber")]
        parts = [folder / f"{number:06d}" for number in numbers]
        if not parts or not all(part.exists() for part in parts):
            raise Refused(400, "InvalidPart", "a part is missing")
        target = self._path()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
        digests = hashlib.md5(usedforsecurity=False)
        with temporary.open("wb") as file:
            for part in parts:
                digests.update(bytes.fromhex(self._about(part)["etag"]))
                file.write(part.read_bytes())
        etag = f"{digests.hexdigest()}-{len(parts)}"
        begun = json.loads((folder / "upload.json").read_text())
        self._describe(target, {"etag": etag, "metadata": begun["metadata"], "checksums": {}})
        temporary.replace(target)
        shutil.rmtree(folder)
        self._xml(
            200,
            f"<CompleteMultipartUploadResult {NAMESPACE}><Bucket>{self.bucket}</Bucket>"
            f"<Key>{escape(self.key)}</Key><ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>",
        )

    def _list_uploads(self) -> None:
        told = ""
        for path in sorted(self._uploads().glob("*/upload.json")):
            begun = json.loads(path.read_text())
            if begun["key"].startswith(self.query.get("prefix", "")):
                told += (
                    f"<Upload><Key>{escape(begun['key'])}</Key><UploadId>{path.parent.name}</UploadId>"
                    f"<Initiated>{_iso(path.stat().st_mtime)}</Initiated></Upload>"
                )
        self._xml(
            200,
            f"<ListMultipartUploadsResult {NAMESPACE}><Bucket>{self.bucket}</Bucket>"
            f"<IsTruncated>false</IsTruncated>{told}</ListMultipartUploadsResult>",
        )

    # Answers

    def _xml(self, status: int, text: str) -> None:
        data = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        if not self.body_read and int(self.headers.get("Content-Length") or 0):
            self.close_connection = True
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", "0")
        self.end_headers()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _http_date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


if __name__ == "__main__":
    main()
