"""The stack with TLS and tokens: deploy/compose.secure.yml."""

import os
from pathlib import Path

import trustme
from report import Failed, expect, run, wait_until
from stack import GROUPCONV, Stack, expect_all_right

FILES = ("--file", "docker-compose.yml", "--file", "deploy/compose.secure.yml")


def make_secrets(folder: Path) -> None:
    """An authority, a certificate for the names in use, and a token."""
    folder.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1", "coordinator")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(folder / "server.pem"), append=True)
    token = run(GROUPCONV, "token", "new", "test", "--file", str(folder / "tokens.toml"), timeout=30)
    (folder / "client-token").write_text(token)
    for file in folder.iterdir():
        file.chmod(0o644)  # as the cluster's token: the folder above keeps them private


def tls_and_tokens(stack: Stack, folder: Path) -> None:
    """It serves who trusts it and has a token, from outside and inside, and refuses the others."""
    kept = folder / "secrets"
    make_secrets(kept)
    os.environ["GROUPCONV_SECRETS"] = str(kept)
    trusted = ("--ca", str(kept / "ca.pem"))
    known = (*trusted, "--token-file", str(kept / "client-token"))
    up = ("up", "--detach", "--wait", "--no-build", "--scale", "worker=1", "coordinator", "worker")
    stack.compose(*up, timeout=180, files=FILES)
    wait_until(lambda: "ray-" in stack.groupconv("status", *known), "no worker has joined", timeout=60)
    stack.groupconv("health", *trusted)
    expect_all_right(stack.groupconv("load", "--clients", "2", "--seconds", "2", *known))
    load = ("run", "--rm", "--no-deps", "load", "--clients", "2", "--seconds", "2")
    expect_all_right(stack.compose(*load, timeout=120, files=FILES))
    for flags, why in ((trusted, "token"), ((), "")):
        try:
            stack.groupconv("status", "--timeout", "5", *flags)
        except Failed as refused:
            expect(why in str(refused), f"refused for another reason than {why!r}: {refused}")
        else:
            raise Failed(f"status with {flags or 'nothing'} is answered")
