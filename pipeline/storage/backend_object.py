"""An object store (S3, Google, Azure, and what speaks like them) as the place where the bytes of a store lie.

A single put is atomic there by nature. Exclusive creation is a conditional put (``If-None-Match: *``); services that
ignore the condition exist, so :meth:`ObjectBackend.probe` tries it out before anything is written.

Credentials and endpoints come from the usual environment variables (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_REGION``, ``AWS_ENDPOINT_URL``; ``GOOGLE_SERVICE_ACCOUNT``; ``AZURE_STORAGE_ACCOUNT_NAME``, ...) or the
machine's own identity, never from the address.
"""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError as ObjectExistsError
from obstore.exceptions import (
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from pipeline.errors import (
    AlreadyExistsError,
    CredentialsError,
    ForkError,
    InvalidInputError,
    NotFoundError,
    PipelineError,
    StorageError,
    StoreNotFoundError,
    UnsafeStorageError,
)
from pipeline.storage.backend import BytesLike, Listing, Names, check_key, check_prefix

T = TypeVar("T")

MAX_RETRIES = 5
RETRY_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 10
REQUEST_TIMEOUT_S = 120
"""A whole shard may come over a slow line; the client's own limit is 30 s."""
NUM_PROBE_WRITERS = 4
MAX_DELETED_AT_ONCE = 1000
"""S3 takes no more in one request."""
WRITER_STAMP = "scale-writer"
"""User metadata on created objects: tells whether a create that seemed to lose was in fact ours (a lost answer)."""

_ENVIRONMENT = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION (AWS_ENDPOINT_URL for other services)",
    "gs": "GOOGLE_SERVICE_ACCOUNT or GOOGLE_SERVICE_ACCOUNT_KEY",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|metadata\.google\.internal|token request|Account must be specified|missing credential", re.I
)
_REFUSED = re.compile(r"status code: 40[13]|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|AccessDenied")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|container does not exist", re.I)
_WRONG_REGION = re.compile(r"status code: 30[17]|redirect|AuthorizationHeaderMalformed|PermanentRedirect", re.I)
_NO_CONDITION = re.compile(r"status code: 501|NotImplemented", re.I)

_probed: set[tuple[str, str | None]] = set()


class ObjectBackend:
    """A bucket, or a folder of one.

    Parameters
    ----------
    url : str
        ``s3://bucket/path``, ``gs://bucket/path`` or ``az://container/path``. Nothing is asked over the network yet.
    retries : int
        How often a request that failed for a passing reason is repeated, with growing pauses.

    Raises
    ------
    InvalidInputError
        If the address has no bucket, or has a query, a fragment or a password in it.
    CredentialsError
        If the client cannot even be set up.
    """

    is_local = False

    def __init__(self, url: str, *, retries: int = MAX_RETRIES) -> None:
        parts = urlsplit(url)
        has_user = parts.username is not None and not parts.scheme.startswith("abfs")  # abfss://container@account/...
        if not parts.hostname or parts.query or parts.fragment or has_user or parts.password:
            raise InvalidInputError(
                f"expected an address such as s3://bucket/path, found {_without_secrets(url)!r}; "
                "credentials and endpoints come from the environment"
            )
        path = check_prefix(unquote(parts.path).strip("/"))
        self._scheme = "s3" if parts.scheme.startswith("s3") else "gs" if parts.scheme == "gs" else "az"
        self._url = f"{parts.scheme}://{parts.netloc}" + (f"/{path}" if path else "")
        self._bucket = parts.netloc
        self._retries = retries
        self._pid = os.getpid()
        self._endpoint = next(
            (os.environ[n] for n in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if n in os.environ), None
        )
        options: dict[str, Any] = {
            "client_options": {
                "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
                "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
            },
            "retry_config": {"max_retries": retries, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S)},
        }
        if self._scheme == "s3" and (self._endpoint or "").startswith("http://"):
            options["client_options"]["allow_http"] = True  # who writes http:// into the endpoint means it
        self._store: Any = self._call("open", "", lambda: from_url(self._url, **options))

    @property
    def url(self) -> str:
        """Address without credentials."""
        return self._url

    def __repr__(self) -> str:
        return f"ObjectBackend({self._url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._url,)

    def read(self, key: str) -> bytes:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        check_key(key)
        return self._call("read", key, lambda: bytes(obstore.get(self._client(), key).bytes()))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See :class:`pipeline.storage.backend.StorageBackend`. Shorter at the end of the object, like a file."""
        check_key(key)
        if start >= 0 and length > 0:
            try:
                return self._call(
                    "read", key, lambda: bytes(obstore.get_range(self._client(), key, start=start, length=length))
                )
            except StorageError:  # begins behind the end, or the service said no for another reason: look at the size
                pass
        size = self.size(key)
        first = max(0, size + start) if start < 0 else min(start, size)
        stop = min(size, first + length)
        if stop == first:
            return b""
        return self._call("read", key, lambda: bytes(obstore.get_range(self._client(), key, start=first, end=stop)))

    def size(self, key: str) -> int:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        check_key(key)
        return int(self._call("read", key, lambda: obstore.head(self._client(), key)["size"]))

    def exists(self, key: str) -> bool:
        """See :class:`pipeline.storage.backend.StorageBackend`. False also where there is no bucket."""
        try:
            self.size(key)
        except NotFoundError:
            return False
        return True

    def put(self, key: str, data: BytesLike) -> None:
        """See :class:`~pipeline.storage.backend.StorageBackend`. Large data goes up in parts and appears whole."""
        check_key(key)
        self._call("write", key, lambda: obstore.put(self._client(), key, _contiguous(data)))

    def create(self, key: str, data: BytesLike) -> None:
        """See :class:`pipeline.storage.backend.StorageBackend`. The condition and the bytes travel in one request."""
        check_key(key)
        stamp = uuid.uuid4().hex
        try:
            self._call(
                "create",
                key,
                lambda: obstore.put(
                    self._client(),
                    key,
                    _contiguous(data),
                    attributes={WRITER_STAMP: stamp},
                    mode="create",
                    use_multipart=False,
                ),
            )
        except AlreadyExistsError:
            # The answer to a first try may have been lost and the retry have met our own object.
            if self._stamp(key) != stamp:
                raise

    def delete(self, key: str) -> None:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        check_key(key)
        try:
            self._call("delete", key, lambda: obstore.delete(self._client(), key))
        except StoreNotFoundError:
            raise
        except NotFoundError:
            return  # Google and Azure complain, S3 does not

    def remove_link(self, key: str) -> None:
        """See :class:`pipeline.storage.backend.StorageBackend`. There are no links."""
        check_key(key)

    def delete_all(self, keys: Sequence[str]) -> None:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        for first in range(0, len(keys), MAX_DELETED_AT_ONCE):
            some = [check_key(key) for key in keys[first : first + MAX_DELETED_AT_ONCE]]
            try:
                self._call("delete", some[0], partial(obstore.delete, self._client(), some))
            except StoreNotFoundError:
                raise
            except NotFoundError:  # of Google and Azure: one that is not there ends the request
                for key in some:
                    self.delete(key)

    def list(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        prefix = check_prefix(prefix)
        if recursive:
            stream = self._call("list", prefix, lambda: obstore.list(self._client(), prefix or None).collect())
        else:
            stream = self._call("list", prefix, lambda: obstore.list_with_delimiter(self._client(), prefix or None))[
                "objects"
            ]
        return sorted((item["path"], int(item["size"])) for item in stream)

    def folders(self, prefix: str = "") -> Names:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        prefix = check_prefix(prefix)
        found = self._call("list", prefix, lambda: obstore.list_with_delimiter(self._client(), prefix or None))
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def leftovers(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """See :class:`pipeline.storage.backend.StorageBackend`. None: an unfinished upload is no object."""
        check_prefix(prefix)
        return []

    def links(self, prefix: str = "") -> Names:
        """See :class:`pipeline.storage.backend.StorageBackend`. There are none."""
        check_prefix(prefix)
        return []

    def local_name(self, key: str) -> None:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        check_key(key)

    def local_path(self, key: str) -> None:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        check_key(key)

    def zarr_store(self, *, read_only: bool = True) -> Any:
        """See :class:`pipeline.storage.backend.StorageBackend`."""
        from pipeline.storage.backend_zarr import CheckedObjectStore

        return CheckedObjectStore(self._client(), self.reworded, read_only=read_only)

    def probe(self) -> None:
        """Try out whether the service honours exclusive creation; once per bucket and process.

        Raises
        ------
        UnsafeStorageError
            If of several racing creates not exactly one won, or a later one was let through.
        """
        place = (self._url.split("/", 3)[2], self._endpoint)
        if place in _probed:
            return
        key = f".probe/{uuid.uuid4().hex}"
        try:
            winners = self._race(key)
            held = self.read(key)
            try:
                self.create(key, b"late")
                late = True
            except AlreadyExistsError:
                late = False
        finally:
            self.delete(key)
        if len(winners) != 1 or held != winners[0] or late:
            raise UnsafeStorageError(
                f"expected one winner of {NUM_PROBE_WRITERS} racing creates in {self._url}, found {len(winners)}"
                f"{' and a later create that replaced it' if late else ''}: the service ignores If-None-Match, so two "
                "workers could lose each other's commits; use a service that honours them, or a local folder"
            )
        _probed.add(place)

    def _race(self, key: str) -> Sequence[bytes]:
        winners, errors = [], []
        start = threading.Barrier(NUM_PROBE_WRITERS)

        def contend(data: bytes) -> None:
            start.wait()
            try:
                self.create(key, data)
                winners.append(data)
            except AlreadyExistsError:
                return
            except PipelineError as err:
                errors.append(err)

        threads = [threading.Thread(target=contend, args=(str(n).encode(),)) for n in range(NUM_PROBE_WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return winners

    def _stamp(self, key: str) -> str | None:
        try:
            return self._call("read", key, lambda: obstore.get(self._client(), key).attributes.get(WRITER_STAMP))
        except NotFoundError:  # deleted meanwhile: then it was not ours to keep
            return None

    def _client(self) -> Any:
        if os.getpid() != self._pid:
            raise ForkError(
                f"expected {self._url} to be used in the process that opened it, found a forked child; "
                "start workers with the spawn method and open the store there"
            )
        return self._store

    def _call(self, what: str, key: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (BaseError, OSError, ValueError) as err:
            if isinstance(err, PipelineError):
                raise
            raise self.reworded(err, what, key) from err

    def reworded(self, err: Exception, what: str, key: str = "") -> PipelineError:
        """Turn an error of the client into one of this project's."""
        text = str(err)
        short = text.split("\n\nDebug source", 1)[0].split("<", 1)[0].strip(" :\n")
        place = f"{key} in {self._url}" if key else self._url
        variables = _ENVIRONMENT[self._scheme]
        if isinstance(err, ObjectExistsError | PreconditionError):
            return AlreadyExistsError(f"expected no {place}, found one; another writer was first")
        if _NO_BUCKET.search(text):
            return StoreNotFoundError(
                f"expected a bucket {self._bucket}, found none; create it, or check the address and the endpoint"
            )
        if isinstance(err, FileNotFoundError):
            return NotFoundError(f"expected to {what} {place}, found no such object")
        if _NO_CREDENTIALS.search(text):
            return CredentialsError(f"expected credentials for {self._url}, found none ({short}); set {variables}")
        if isinstance(err, PermissionDeniedError | UnauthenticatedError) or _REFUSED.search(text):
            return CredentialsError(f"expected leave to {what} {place}, found a refusal ({short}); check {variables}")
        if isinstance(err, NotSupportedError) or (what == "create" and _NO_CONDITION.search(text)):
            return UnsafeStorageError(
                f"expected a service with conditional puts at {self._url}, found none ({short}); use another service"
            )
        if _WRONG_REGION.search(text):
            return StorageError(f"expected {self._url} in this region, found a redirect ({short}); set AWS_REGION")
        return StorageError(
            f"expected to {what} {place}, found no usable answer after {self._retries} retries ({short}); "
            "check the endpoint and the network, then try again"
        )


def _contiguous(data: BytesLike) -> bytes | memoryview:
    """Return one flat run of bytes, which is what the client takes."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    return view.cast("B") if view.contiguous else view.tobytes()


def _without_secrets(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", url.split("?", 1)[0].split("#", 1)[0])
