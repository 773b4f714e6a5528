"""A story told to a broker that wants to know who reads: `test_apache` tells it."""

import asyncio
import base64
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kafka.apache import PASSWORD, USER, Apache
from tests.kafka.certificates import KEY_PASSWORD
from tests.kafka.support import EARLIEST, cluster_of, engine_on, produce, state_of, taken
from tests.kafka.test_reading import Counter

PASSWORDS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


async def who_may_read_reads_and_no_secret_shows(broker: Apache, topic: str, folder: Path) -> None:
    """Each login, and a client's certificate; whoever has a wrong password or no certificate says so, and waits."""
    if not broker.login_address:
        return
    await asyncio.to_thread(produce, broker, topic, [(b"k", b"1")])
    (folder / "password").write_text(f"{KEY_PASSWORD}\n")
    clusters = _clusters(broker, folder / "password")
    path = folder / "durable.db"
    os.environ["KAFKA_PASSWORD"] = "s3cret and wrong"
    try:
        with _everything_logged() as log:
            async with engine_on(broker, Counter(), path=path, kafka_clusters=clusters) as engine:
                ids = {}
                for name in clusters:
                    ids[name] = (await engine.subscribe(f"kafka://{name}/{topic}", Counter.add, EARLIEST)).id
                for name in PASSWORDS:
                    assert (await state_of(engine, ids[name], "retrying", "authentication")).cause
                for name in ("no-certificate", "no-authority"):
                    await state_of(engine, ids[name], "retrying", "connection")
                assert "CERTIFICATE_VERIFY_FAILED" in (await engine.subscription(ids["no-authority"])).cause
                os.environ["KAFKA_PASSWORD"] = PASSWORD
                for name in PASSWORDS:
                    await engine.resume_subscription(ids[name])
                for name in (*PASSWORDS, "OAUTHBEARER", "certificate"):
                    await taken(engine, ids[name], 1)
                shown = repr([await engine.subscriptions(), await engine.kafka_clusters()])
    finally:
        del os.environ["KAFKA_PASSWORD"]
    assert USER in shown and "${env:KAFKA_PASSWORD}" in shown and "is running" in log.getvalue()
    token = _token(USER)[0].partition(".")[0]
    for secret in ("s3cret", token):
        assert secret not in shown
        assert secret not in log.getvalue()
        assert secret.encode() not in path.read_bytes()


def _clusters(broker: Apache, password: Path) -> dict[str, dict[str, Any]]:
    """One for each way to be let in, and two for ways not to."""
    common = {**cluster_of(broker), "ssl.ca.location": str(broker.certificates.ca)}
    login = {**common, "bootstrap.servers": broker.login_address, "security.protocol": "sasl_ssl"}
    by_password = {**login, "sasl.username": USER, "sasl.password": "${env:KAFKA_PASSWORD}"}
    by_token = {"sasl.mechanism": "OAUTHBEARER", "oauth_cb": _token, "sasl.oauthbearer.config": USER}
    stranger = {**common, "bootstrap.servers": broker.certificate_address, "security.protocol": "ssl"}
    known = {
        **stranger,
        "ssl.certificate.location": str(broker.certificates.client),
        "ssl.key.location": str(broker.certificates.client_key),
        "ssl.key.password": f"${{file:{password}}}",
    }
    return {
        **{name: {**by_password, "sasl.mechanism": name} for name in PASSWORDS},
        "OAUTHBEARER": {**login, **by_token},
        "certificate": known,
        "no-certificate": stranger,
        "no-authority": {name: value for name, value in known.items() if name != "ssl.ca.location"},
    }


def _token(config: str) -> tuple[str, float]:
    """One that says who it is for and is not signed: this broker takes it so."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": config, "iat": now, "exp": now + 60})
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return f"{text}.", now + 60


@contextmanager
def _everything_logged() -> Iterator[io.StringIO]:
    """What all loggers say meanwhile, those of the client library too."""
    log, root = io.StringIO(), logging.getLogger()
    heard, level = logging.StreamHandler(log), root.level
    root.addHandler(heard)
    root.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.removeHandler(heard)
        root.setLevel(level)
