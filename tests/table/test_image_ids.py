from hypothesis import given
from hypothesis import strategies as st

from spermseg.table.image_ids import ImageIds

NO_IDS = ["", "1", "AB" * 16, "ab " * 16, "ab" * 15, "ab" * 17, "zz" * 16, "é" * 32]
ids = st.binary(min_size=16, max_size=16).map(bytes.hex) | st.sampled_from(["00" * 16, "ab" * 15 + "00", "ff" * 16])


@given(st.lists(st.lists(ids | st.sampled_from(NO_IDS))), st.lists(ids))
def test_a_set_of_ids_holds_those_that_it_was_made_of_and_nothing_else(batches, others):
    held = {image_id for batch in batches for image_id in batch if image_id not in NO_IDS}
    made = ImageIds(batches)
    assert len(made) == len(held)
    for image_id in (*held, *others, *NO_IDS):
        assert (image_id in made) == (image_id in held)
