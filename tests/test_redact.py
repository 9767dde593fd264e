"""Secrets in what is shown: found wherever they stand, and nothing else is taken for one."""

from __future__ import annotations

import pyarrow as pa
import pytest

from zoo_bridge.redact import redact, redact_all, redact_column

SIGNATURE = "mHrT6%2Fb8hZk%3D"


@pytest.mark.parametrize(
    "text",
    [
        f"https://store.blob.example/x.csv?sv=2024-05-04&sig={SIGNATURE}&se=2026-11-26",
        f"https://s3.example/b/k?X-Amz-Credential=AKIA&X-Amz-Signature={SIGNATURE}",
        f"<a href='https://s3.example/b/k?x=1&amp;X-Amz-Signature={SIGNATURE}'>k</a>",
        f"GET https://cutouts.example/get?ra=1&token={SIGNATURE} failed",
        f'{{"url": "https://store.example/x?SIG={SIGNATURE}"}}',
        f"postgresql+psycopg://zoo:{SIGNATURE}@db.example:5432/ledger",
        f"postgresql://zoo:p@{SIGNATURE}@db.example/ledger",
        f"https://{SIGNATURE}@example.org/path",
        f"redis://:{SIGNATURE}@cache/0",
        f"postgresql://zoo:pa/ss#?{SIGNATURE}@db/zoo",
        f"postgresql://db/zoo?sslpassword={SIGNATURE}&x=1",
    ],
)
def test_what_signs_or_opens_an_address_is_hidden(text: str) -> None:
    shown = redact(text)
    assert SIGNATURE not in shown
    assert "***" in shown
    # It is still to be recognised.
    assert shown[:5] == text[:5]
    table = pa.record_batch({"uri": [text, None, "s3://b/k"], "k": [1, 2, 3]})
    (batch,) = redact_column([table], "uri")
    assert batch.column("uri").to_pylist() == [shown, None, "s3://b/k"]


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b/c.fits?versionId=1",
        "tcp://scheduler:8786",
        "write to somebody@example.org, see https://example.org/a",
        "design = 3, k=4 & n=5",
        "tar s3://bucket/x.tar#G1@0f3a",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_what_a_web_address_asks_for_is_hidden_whole() -> None:
    # Cutout services take tokens under any name; the object's id says which one it is.
    text = "G17, https://cutouts.example/get?ra=1&ticket=abc: the server answers 500"
    shown = "G17, https://cutouts.example/get?*** the server answers 500"
    assert redact(text) == shown
    for query in ("POS=CIRCLE(10,20,0.1)&ticket=abc", "name='NGC 1'", "a=b\\c&ticket=abc"):
        assert "abc" not in redact(f"https://c.example/o'neil/cut?{query}")
    assert redact("exceeded with url: /cut?ticket=abc (Caused by x)") == (
        "exceeded with url: /cut?*** (Caused by x)"
    )


def test_our_own_secrets_are_hidden_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANOPTES_PASSWORD", "correct horse")
    value = {"a": ["it is 'correct horse'", 3, None], "correct horse": True}
    assert redact_all(value) == {"a": ["it is '***'", 3, None], "***": True}
    # One so short stands in ordinary words.
    monkeypatch.setenv("PANOPTES_PASSWORD", "the")
    assert redact("the end") == "the end"
