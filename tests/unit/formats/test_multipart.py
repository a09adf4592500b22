"""A form is cut in the one way that every reader would cut it, or refused; and a value is replaced where it stands."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ErrorKind, GatewayError
from gateway.formats.multipart import FormPart, boundary_of, parts_of, replace

MODEL = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
FORM = (
    MODEL + b"whisper\r\n"
    b"--b\r\ncontent-type: audio/wav\r\n"
    b'CONTENT-DISPOSITION: form-data; name="file"; filename="a \\"b\\"; name=x.wav"\r\n'
    b"\r\n\r\n--\x00\r\n--c\r\n"
    b'--b\r\nContent-Disposition: form-data; name="t[]"\r\n\r\nword\r\n'
    b"--b\r\nContent-Disposition: form-data; name=t[]\r\n\r\n\r\n"
    b"--b--\r\n"
)


def contents(body: bytes) -> list[tuple[str, bool, bytes]]:
    """Cut a form into names and contents."""
    return [(part.name, part.is_file, body[part.start : part.end]) for part in parts_of(body)]


def test_parts_are_found_where_they_stand() -> None:
    """Whatever is in a file, whatever its name, in any order of headers; names in brackets may come again."""
    assert boundary_of(FORM) == b"b"
    assert contents(FORM) == [
        ("model", False, b"whisper"),
        ("file", True, b"\r\n--\x00\r\n--c"),
        ("t[]", False, b"word"),
        ("t[]", False, b""),
    ]


@pytest.mark.parametrize("value", [b"", b"x", b"a-much-longer-name/with.things:1"])
def test_one_value_is_replaced_and_nothing_else(value: bytes) -> None:
    """Every other byte stays."""
    assert replace(FORM, parts_of(FORM)[0], value) == FORM.replace(b"whisper", value, 1)


REFUSED = {
    "empty": b"",
    "json": b'{"model":"a"}',
    "preamble": b"hello\r\n" + FORM,
    "no end": MODEL + b"a\r\n",
    "breaks off": FORM[:-20],
    "no blank line": b'--b\r\nContent-Disposition: form-data; name="model"\r\n--b--\r\n',
    "epilogue": FORM + b"x",
    "two ends": FORM + FORM,
    "boundary with more": MODEL + b"a\r\n--bc\r\n--b--\r\n",
    "name twice": MODEL + b"a\r\n" + MODEL + b"b\r\n--b--\r\n",
    "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--\r\n",
    "no disposition": b"--b\r\nContent-Type: text/plain\r\n\r\na\r\n--b--\r\n",
    "two dispositions": MODEL[:-2] + b'Content-Disposition: form-data; name="x"\r\n\r\na\r\n--b--\r\n',
    "two names": b'--b\r\nContent-Disposition: form-data; name="a"; name="model"\r\n\r\na\r\n--b--\r\n',
    "odd name": b'--b\r\nContent-Disposition: form-data; name="mo\\"del"\r\n\r\na\r\n--b--\r\n',
    "a name in two ways": b"--b\r\nContent-Disposition: form-data; name=a; name*=UTF-8''model\r\n\r\na\r\n--b--\r\n",
    "no headers": b'--b\r\n\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--b--\r\n',
    "folded header": b'--b\r\nContent-Disposition: form-data; name="a"\r\n ; name="model"\r\n\r\na\r\n--b--\r\n',
    "header after a line feed": b'--b\r\nContent-Disposition: form-data; name="a"\r\nX: \n'
    + MODEL[5:]
    + b"a\r\n--b--\r\n",
    "blank before colon": MODEL.replace(b":", b" :") + b"a\r\n--b--\r\n",
    "boundary at a part's beginning": MODEL.replace(b"model", b"x") + MODEL + b"a\r\n--b--\r\n",
    "boundary after a line feed": MODEL.replace(b"model", b"x") + b"a\n" + MODEL + b"a\r\n--b--\r\n",
    "rubbish": b'--b\r\nContent-Disposition: form-data; name="a" model\r\n\r\na\r\n--b--\r\n',
    "bare line feeds": FORM.replace(b"\r\n", b"\n"),
    "too many": b"".join(MODEL.replace(b"model", b"m%d" % at) + b"a\r\n" for at in range(101)) + b"--b--\r\n",
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_ambiguous_form_is_refused(body: bytes) -> None:
    """Each is a 400, and says nothing of the content."""
    with pytest.raises(GatewayError) as caught:
        parts_of(body)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST


@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_any_form_is_cut_or_refused(noise: bytes, seed: int) -> None:
    """No other exception, wherever the noise is put."""
    at = random.Random(seed).randrange(len(FORM))
    body = FORM[:at] + noise + FORM[at + len(noise) :]
    kind = None
    try:
        assert all(isinstance(part, FormPart) and part.start <= part.end for part in parts_of(body))
    except GatewayError as error:
        kind = error.kind
    assert kind in {None, ErrorKind.INVALID_REQUEST}
