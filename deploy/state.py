"""What Chalice remembers of a deployment, kept where a team shares it: in a bucket of the account that it deploys to.

Without it the next deployment would make a second API. So the bucket keeps versions, and one deployment of a stage
runs at a time.
"""

from __future__ import annotations

import getpass
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from deploy.stage import CannotDeploy, Stage

GONE = {"404", "NoSuchKey", "NoSuchBucket"}


class SharedState:
    """The record of one stage in ``bucket``, which is made if it is missing."""

    def __init__(self, s3: Any, bucket: str, region: str, stage: Stage) -> None:
        self._s3 = s3
        self.bucket = bucket
        self._region = region
        self._record = f"{stage.app}/{stage.name}.json"
        self._lock = f"{stage.app}/{stage.name}.lock"

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}/{self._record}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the stage. Raises :class:`CannotDeploy` while somebody else does."""
        self._make_bucket()
        who = f"{getpass.getuser()} on {platform.node()}"
        try:
            self._s3.put_object(Bucket=self.bucket, Key=self._lock, Body=who.encode(), IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            holder = self._s3.get_object(Bucket=self.bucket, Key=self._lock)["Body"].read().decode()
            raise CannotDeploy(
                f"{holder} is deploying this stage. If that was cut off: aws s3 rm s3://{self.bucket}/{self._lock}"
            ) from None
        try:
            yield
        finally:
            self._s3.delete_object(Bucket=self.bucket, Key=self._lock)

    def fetch(self, file: Path) -> bool:
        """Put the record where Chalice looks for it; False if there is none."""
        try:
            record = self._s3.get_object(Bucket=self.bucket, Key=self._record)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                return False
            raise
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(record)
        return True

    def save(self, file: Path) -> None:
        if file.exists():
            self._s3.put_object(Bucket=self.bucket, Key=self._record, Body=file.read_bytes())

    def forget(self) -> None:
        """Delete the record with all its versions, and the bucket with the last stage's."""
        listed = self._s3.list_object_versions(Bucket=self.bucket)
        versions = [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]
        for version in versions:
            if version["Key"] in (self._record, self._lock):
                self._s3.delete_object(Bucket=self.bucket, Key=version["Key"], VersionId=version["VersionId"])
        if all(version["Key"] in (self._record, self._lock) for version in versions):
            self._s3.delete_bucket(Bucket=self.bucket)

    def _make_bucket(self) -> None:
        try:
            self._s3.head_bucket(Bucket=self.bucket)
            return
        except ClientError as error:
            if error.response["Error"]["Code"] not in GONE:
                raise
        where = {} if self._region == "us-east-1" else {"LocationConstraint": self._region}
        self._s3.create_bucket(Bucket=self.bucket, **({"CreateBucketConfiguration": where} if where else {}))
        self._s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})
        self._s3.put_public_access_block(
            Bucket=self.bucket,
            PublicAccessBlockConfiguration=dict.fromkeys(
                ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
            ),
        )
