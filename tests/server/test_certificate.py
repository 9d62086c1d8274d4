"""HTTPS: the certificate is checked at the start, and exchanged while connections stay open."""

import logging
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from configs.errors import SettingsError
from configs.http import HTTPSettings
from server.certificate import check_certificate
from tests.server.fake_engine import FakeServer
from tests.server.running import Running

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def make_certificate(folder: Path, name: str, *options: str) -> HTTPSettings:
    """A self-signed certificate for 127.0.0.1 under the common name `name`."""
    folder.mkdir(exist_ok=True)
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", *(options or ["-nodes"])]
    subprocess.run(command, check=True, capture_output=True)
    return HTTPSettings(tls_certificate=certificate, tls_key=key)


def client_of(certificate: Path) -> httpx.Client:
    """Trusts this certificate alone, and keeps its connection."""
    return httpx.Client(verify=ssl.create_default_context(cafile=str(certificate)), timeout=10)


def test_a_new_certificate_serves_new_connections_and_old_ones_go_on(tmp_path: Path) -> None:
    http = make_certificate(tmp_path / "tls", "old")
    assert http.tls_certificate is not None
    old = shutil.copy(http.tls_certificate, tmp_path / "old.pem")
    fake = FakeServer(tmp_path, tls_certificate=http.tls_certificate, tls_key=http.tls_key)
    with Running(fake) as running, client_of(Path(old)) as early:
        assert early.get(f"{running.url}/health").status_code == 200
        make_certificate(tmp_path / "tls", "new")
        running.call(running.server.handle_hangup)
        assert early.get(f"{running.url}/health").status_code == 200
        assert running.num_connections == 1
        with client_of(http.tls_certificate) as late:
            assert late.get(f"{running.url}/health").status_code == 200
        with client_of(Path(old)) as late, pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            late.get(f"{running.url}/health")


def test_a_bad_certificate_on_reload_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    http = make_certificate(tmp_path / "tls", "old")
    assert http.tls_certificate is not None and http.tls_key is not None
    old = Path(shutil.copy(http.tls_certificate, tmp_path / "old.pem"))
    other = make_certificate(tmp_path / "other", "other")
    assert other.tls_key is not None
    fake = FakeServer(tmp_path, tls_certificate=http.tls_certificate, tls_key=http.tls_key)
    with Running(fake) as running:
        for break_it in (
            lambda: shutil.copy(other.tls_key or "", http.tls_key or ""),
            lambda: http.tls_certificate and http.tls_certificate.write_text("no certificate"),
            lambda: http.tls_certificate and http.tls_certificate.unlink(),
        ):
            break_it()
            with caplog.at_level(logging.ERROR):
                running.call(running.server.handle_hangup)
            with client_of(old) as late:
                assert late.get(f"{running.url}/health").status_code == 200
    assert caplog.text.count("the certificate stays as it was") == 3


def test_files_that_cannot_be_used_are_said_at_the_start(tmp_path: Path) -> None:
    good, locked = make_certificate(tmp_path / "a", "a"), make_certificate(tmp_path / "b", "b", "-passout", "pass:word")
    check_certificate(good)
    check_certificate(HTTPSettings())
    with pytest.raises(SettingsError, match="mismatch"):
        check_certificate(good.model_copy(update={"tls_certificate": locked.tls_certificate}))
    with pytest.raises(SettingsError, match="the key has a password"):
        check_certificate(locked)
    with pytest.raises(SettingsError, match=r"there is no file .*nothing\.pem"):
        check_certificate(good.model_copy(update={"tls_key": tmp_path / "nothing.pem"}))
    with pytest.raises(ValidationError, match="belong together"):
        HTTPSettings(tls_key=tmp_path / "key.pem")
