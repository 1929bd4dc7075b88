"""TLS to a real server, whose certificate is checked against the name of the URL."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from ndserve.webhooks import Guard, Secret, Sender, Sent
from ndserve.webhooks.sender import MAX_ANSWER
from tests.unit.webhooks.rig import HERE, NAME, OK, SECRET, run

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


class Certificates(NamedTuple):
    """An authority's certificate, and the files that it has signed, each with its key."""

    authority: Path
    of_the_name: Path
    of_another_name: Path
    of_the_address: Path


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def new_key(subject: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={subject}"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority, authority_key = folder / "ca.pem", folder / "ca.key"
    # Python 3.13 wants an authority to say that it is one.
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    openssl("req", "-x509", *new_key("Test CA"), *usage, "-days", "2", "-keyout", authority_key, "-out", authority)

    def signed(file: str, subject: str) -> Path:
        request, key, certificate, extensions = (folder / f"{file}.{end}" for end in ("csr", "key", "crt", "ext"))
        extensions.write_text(f"subjectAltName={subject}\nauthorityKeyIdentifier=keyid\n")
        openssl("req", *new_key(file), "-keyout", key, "-out", request)
        openssl(
            *("x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-set_serial", "1"),
            *("-days", "2", "-extfile", extensions, "-out", certificate),
        )
        both = folder / f"{file}.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        return both

    return Certificates(
        authority, signed("name", f"DNS:{NAME}"), signed("other", "DNS:other.example"), signed("ip", "IP:127.0.0.1")
    )


class Secure:
    """A TLS server that gives each request the same answer, and notes for which name it was asked."""

    def __init__(self, certificate: Path, answer: bytes = OK) -> None:
        self.names: list[str | None] = []
        self.requests: list[bytes] = []
        self._answer = answer
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.sni_callback = self._note

    def _note(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self.names.append(name)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self._answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def sent(self, trusted: Path | None) -> Sent:
        """What comes of a message to it, where `trusted` is the only authority (None: those of the system)."""
        context = None if trusted is None else ssl.create_default_context(cafile=str(trusted))

        async def main() -> Sent:
            served: set[asyncio.Task[None]] = set()

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                served.add(asyncio.create_task(self._serve(reader, writer)))

            server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=self._context)
            port = server.sockets[0].getsockname()[1]
            sender = Sender(Guard([NAME]), Secret(SECRET), resolve=HERE, ssl_context=context)
            sent = await sender.send(f"https://{NAME}:{port}/", "msg_1", b"{}", 0.0)
            await sender.aclose()
            server.close()
            await asyncio.gather(*served)
            return sent

        return run(main())


def test_a_message_is_delivered_over_tls(certificates: Certificates) -> None:
    assert Secure(certificates.of_the_name).sent(certificates.authority).delivered


def test_the_server_is_asked_for_by_its_name(certificates: Certificates) -> None:
    server = Secure(certificates.of_the_name)
    server.sent(certificates.authority)
    assert server.names == [NAME]


def test_a_certificate_for_another_name_is_refused(certificates: Certificates) -> None:
    server = Secure(certificates.of_another_name)
    sent = server.sent(certificates.authority)
    assert sent.status is None
    assert "Hostname mismatch" in sent.error
    assert server.requests == []


def test_a_certificate_for_the_address_is_not_enough(certificates: Certificates) -> None:
    server = Secure(certificates.of_the_address)
    assert server.sent(certificates.authority).status is None
    assert server.requests == []


def test_a_certificate_of_an_authority_that_is_not_known_is_refused(certificates: Certificates) -> None:
    server = Secure(certificates.of_the_name)
    sent = server.sent(None)
    assert "CERTIFICATE_VERIFY_FAILED" in sent.error
    assert server.requests == []


def test_only_so_much_of_an_answer_is_read_over_tls_too(certificates: Certificates) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n" * MAX_ANSWER
    sent = Secure(certificates.of_the_name, interim + OK).sent(certificates.authority)
    assert sent == (None, f"no status within the first {MAX_ANSWER} bytes of the answer")
