"""Object stores that refuse, forget, ignore conditions or are not there."""

from __future__ import annotations

import os

import pytest

import pipeline.storage.backend_object as backend_object
from pipeline.errors import (
    AlreadyExistsError,
    CredentialsError,
    ForkError,
    StorageError,
    StoreNotFoundError,
    UnsafeStorageError,
)
from pipeline.storage.backend_object import ObjectBackend
from pipeline.storage.opening import open_backend
from tests.support.s3 import S3Server, stub_server


@pytest.fixture(autouse=True)
def _forget_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_object, "_probed", set())


def test_a_conforming_service_passes_the_probe_and_keeps_no_trace(s3: S3Server) -> None:
    backend = open_backend("s3://features/probed", writable=True)
    assert backend.list() == []
    assert open_backend("s3://features/probed").list() == []


def test_a_service_that_ignores_the_condition_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("ignores-condition") as (address, server):
        address.use(monkeypatch)
        with pytest.raises(UnsafeStorageError, match=r"4 racing creates .* found 4 .*ignores If-None-Match"):
            open_backend("s3://b/store", writable=True)
        assert server.objects == {}
        open_backend("s3://b/store")  # reading is harmless


def test_a_service_without_the_condition_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("no-condition") as (address, server):
        address.use(monkeypatch)
        with pytest.raises(UnsafeStorageError, match="conditional puts"):
            ObjectBackend("s3://b/store", retries=0).probe()
        assert server.objects == {}


def test_the_verdict_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("none") as (address, server):
        address.use(monkeypatch)
        open_backend("s3://b/one", writable=True)
        asked = len(server.requests)
        open_backend("s3://b/two", writable=True)
        assert len(server.requests) == asked


def test_a_create_whose_answer_was_lost_is_known_as_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("loses-answers") as (address, server):
        address.use(monkeypatch)
        backend = ObjectBackend("s3://b/store")
        backend.create("ledger/1", b"mine")
        assert backend.read("ledger/1") == b"mine"
        with pytest.raises(AlreadyExistsError):
            backend.create("ledger/1", b"mine")
        assert len(server.objects) == 1


def test_passing_failures_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("flaky") as (address, _):
        address.use(monkeypatch)
        backend = ObjectBackend("s3://b/store")
        backend.put("x", b"1")
        assert [backend.read("x") for _ in range(3)] == [b"1"] * 3


def test_a_service_that_is_down_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("down") as (address, _):
        address.use(monkeypatch)
        backend = ObjectBackend("s3://b/store", retries=1)
        for use in (lambda: backend.read("x"), lambda: backend.put("x", b""), lambda: backend.create("x", b"")):
            with pytest.raises(StorageError, match="try again"):
                use()
    with pytest.raises(StorageError, match="try again"):
        backend.read("x")


def test_no_bucket(s3: S3Server) -> None:
    backend = ObjectBackend("s3://no-such-bucket/store")
    for use in (lambda: backend.read("x"), backend.list, lambda: backend.put("x", b""), backend.probe):
        with pytest.raises(StoreNotFoundError, match=r"bucket no-such-bucket.*create it"):
            use()


def test_refused_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("refuses") as (address, _):
        address.use(monkeypatch)
        backend = ObjectBackend("s3://b/store")
        for use in (lambda: backend.read("x"), lambda: backend.put("x", b""), backend.probe):
            with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID") as caught:
                use()
            assert "test" not in str(caught.value).replace("s3://b/store", "")


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("refuses") as (address, _):  # the machine's identity service, which has none to give
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", address.endpoint)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID"):
            ObjectBackend("s3://b/store", retries=0).read("x")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(CredentialsError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        open_backend("az://container/store")


def test_use_after_fork_is_refused(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> None:
    backend = ObjectBackend("s3://features/fork")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ForkError, match="spawn"):
        backend.read("x")
