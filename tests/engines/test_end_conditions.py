"""Stop strings, read piece by piece."""

from hypothesis import given
from hypothesis import strategies as st

from stepcredit.engines.decoding import EndConditions
from stepcredit.episodes.steps import StepRule

LETTERS = st.text("ab\n", max_size=4)


@given(stop=st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=3), pieces=st.lists(LETTERS, max_size=12))
def test_a_stop_string_ends_a_response_however_it_is_split(stop, pieces):
    end, tail, text = EndConditions(None, stop, StepRule(()), frozenset()), "", ""
    for piece in pieces:
        text += piece
        found, tail = end.read_on(tail, piece)
        assert found == any(string in text for string in stop)
        assert len(tail) < max(map(len, stop), default=1)
        if found:
            break
