"""The S3 server of tests.support.s3_server as a process that can be killed, stopped and started again.

with object_store(folder) as store:
    environment |= store.environment
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config

from tests.support.processes import free_port, stop_group, wait_for_http

ROOT = Path(__file__).parents[2]
KEY, SECRET = "emend", "a-secret-of-tests"
BUCKET = "emend"


class ObjectStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a deployment is told of it."""
        return {
            "STORAGE_URL": f"s3://{BUCKET}/test",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def process(self) -> psutil.Process:
        """Leads its own group."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "server.log"
        with log.open("ab") as output:
            folder, port = str(self.folder / "buckets"), self.url.rpartition(":")[2]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.s3_server", folder, "--port", port],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET},
                start_new_session=True,
            )
        wait_for_http(f"{self.url}/minio/health/live", self._process, log, 30)

    def stop(self) -> None:
        if self._process is not None:
            stop_group(self._process)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def names(self, prefix: str = "") -> list[str]:
        """Below STORAGE_URL."""
        pages = (
            self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"test/{prefix}")
        )
        return [each["Key"].removeprefix("test/") for page in pages for each in page.get("Contents", [])]


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(folder)
    store.start()
    try:
        yield store
    finally:
        store.stop()
