"""Which hosts and buckets videos may be fetched from.

`SCALE_HOSTS` lists them: names (``videos.example.org``), ``*.example.org``, ``*`` for every public host, buckets
(``s3://clips``). Without it whoever types a command may fetch from every public host and from the buckets that the
credentials open; runs that a server starts may fetch from nowhere. An address that is private (loopback, a local
network, a cloud's metadata service) is refused unless its host is named without a star.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from extract.places.elsewhere import HTTP_SCHEMES, is_known_address
from pipeline.errors import InvalidInputError, VideoError
from pipeline.status import VideoStatus

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Hosts:
    """What may be fetched from."""

    named: tuple[str, ...] = ("*",)
    buckets: tuple[str, ...] | None = None
    """``s3://bucket``; None: all that the credentials open."""

    @classmethod
    def parse(cls, text: str | None) -> Hosts:
        """Read `SCALE_HOSTS`; None: every public host and bucket, empty: none."""
        if text is None:
            return cls()
        parts = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
        hosts = tuple(part.lower() for part in parts if "://" not in part)
        return cls(hosts, tuple(part for part in parts if "://" in part))

    def check(self, address: str) -> None:
        """Refuse an address that may not be fetched from.

        Raises
        ------
        InvalidInputError
            Naming the host, and where it would be allowed.
        """
        shown = address[:200]
        if not is_known_address(address):
            raise InvalidInputError(
                f"expected an address that starts with https://, http://, s3://, gs:// or az://, found {shown!r}"
            )
        try:
            parts = urlsplit(address)
            host, port = (parts.hostname or "").lower().rstrip("."), parts.port
        except ValueError:
            raise InvalidInputError(f"expected an address such as https://host/path, found {shown!r}") from None
        if not host or parts.password is not None or (parts.username is not None and parts.scheme in HTTP_SCHEMES):
            raise InvalidInputError(f"expected an address with a host and without a password, found {parts.scheme}://")
        if parts.scheme not in HTTP_SCHEMES:
            place = f"{parts.scheme}://{parts.netloc}"
            if self.buckets is not None and place not in self.buckets:
                raise self._refusal(place)
        elif not any(fnmatchcase(host, name) or name == f"{host}:{port}" for name in self.named):
            raise self._refusal(host)

    def check_ip(self, host: str, port: int | None, ip: str) -> None:
        """Refuse an address of a private network, unless its host is named without a star.

        Raises
        ------
        VideoError
            Names are looked up when a video is fetched: what they lead to then is that video's fault.
        """
        host = host.lower().rstrip(".")
        if is_public(ip) or host in self.named or f"{host}:{port}" in self.named:
            return
        raise VideoError(
            f"cannot be fetched: {host} leads to the private address {ip}; name {host} in SCALE_HOSTS if that is meant",
            VideoStatus.INTERRUPTED,
        )

    def _refusal(self, place: str) -> InvalidInputError:
        allowed = ", ".join((*self.named, *(self.buckets or ()))) or "none"
        return InvalidInputError(
            f"expected videos at a host or bucket that is allowed (SCALE_HOSTS: {allowed}), found {place}; add it "
            "there, or have whoever runs the worker add it"
        )


def is_public(ip: str) -> bool:
    """Whether an IP address is one of the open internet, whatever it is wrapped in."""
    found = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast


def connect(host: str, port: int, timeout_s: float, hosts: Hosts) -> socket.socket:
    """Open a connection to an address that was looked at first: a name that changes in between gains nothing."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"cannot be fetched: no host {host} ({reason})", VideoStatus.INTERRUPTED) from None
    for *_, address in found:
        hosts.check_ip(host, port, str(address[0]))
    failure: OSError | None = None
    for *_, address in found:
        try:
            return socket.create_connection((str(address[0]), port), timeout_s)
        except OSError as error:
            failure = error
    raise failure or OSError(f"no address of {host}")
