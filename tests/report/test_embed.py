import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neftune.report.embed import json_for_script, plain, plotly_text, script_hash

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT)
def test_json_in_a_script_cannot_leave_it_and_reads_back(text):
    embedded = json_for_script({"text": text})
    assert not set("<>&\u2028\u2029\x00") & set(embedded)
    assert json.loads(embedded) == {"text": text}
    embedded.encode("utf-8")


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "&lt;", "\ud800 alone", "\U0001f642"])
def test_the_usual_escapes(text):
    assert json.loads(json_for_script([text])) == [text]
    assert "<" not in json_for_script([text])


def test_a_missing_number_is_refused_not_written_as_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_for_script({"loss": float("nan")})


@given(ANY_TEXT)
def test_plain_text_obeys_no_control_character_and_can_be_written(text):
    shown = plain(text)
    shown.encode("utf-8")
    assert not any(ord(c) < 32 and c not in "\t\n\r" for c in shown)
    assert not set("\u202e\u202d\u2066\u2069\u200f") & set(shown)


def test_plain_text_shows_what_it_took_out():
    assert plain("a\x00b\u202ec") == "a␀b⟨U+202E⟩c"


def test_a_plotly_label_has_no_markup():
    assert plotly_text("<a href='x'>&<b>") == "&lt;a href='x'&gt;&amp;&lt;b&gt;"


def test_a_script_hash_is_the_browsers():
    # printf 'alert(1)' | openssl dgst -sha256 -binary | base64
    assert script_hash("alert(1)") == "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
