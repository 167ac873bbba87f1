"""The schema: good records in every form TAPE has, and refusals that name place, key, found and accepted."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.records import RESIDUE_LETTERS, check_record

Q3 = build_task("secondary_structure_q3").records
Q8 = build_task("secondary_structure_q8").records
WHERE = "ss.jsonl line 7"


def record(**changes: object) -> dict[str, object]:
    values = {"id": "1abc-A", "primary": "MKTX", "protein_length": 4, "ss3": [2, 0, -1, 1], "valid_mask": [1, 1, 0, 1]}
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def test_a_good_record_becomes_a_row():
    row = check_record(Q3, record(), WHERE)
    assert (row["id"], row["sequence"], row["length"]) == ("1abc-A", "MKTX", 4)
    assert row["ss3"].tolist() == [2, 0, -1, 1]
    assert row["valid_mask"].tolist() == [True, True, False, True]
    table = pa.table({name: [row[name]] for name in Q3.arrow_schema().names}, schema=Q3.arrow_schema())
    assert table.schema.field("ss3").type == pa.list_(pa.int8())


def test_the_forms_of_tapes_lmdb_are_the_same_row():
    lmdb = record(
        id=b"1abc-A",
        protein_length=np.int64(4),
        ss3=np.array([2, 0, -1, 1], np.int32),
        valid_mask=np.array([1, 1, 0, 1], np.float32),
    )
    one, other = check_record(Q3, lmdb, WHERE), check_record(Q3, record(), WHERE)
    assert all(np.array_equal(one[key], other[key]) for key in other)


def test_sequence_is_accepted_for_primary_and_an_id_may_be_missing():
    row = check_record(Q3, record(primary=None, sequence="MKTX", id=None), WHERE)
    assert (row["sequence"], row["id"]) == ("MKTX", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ss3": None}, r"key 'ss3' is missing \(found 'id', .*needs one integer for each residue, 0 to 2 or -1"),
        ({"valid_mask": None}, "key 'valid_mask' is missing"),
        ({"primary": None}, r"key 'primary' \(or 'sequence'\) is missing"),
        ({"primary": ""}, "key 'primary' is an empty sequence"),
        ({"primary": ["M", "K"]}, r"key 'primary' has \['M', 'K'\] \(list\); accepted: a string of the letters"),
        ({"primary": "MkTX"}, "key 'primary' has 'k' at residue 2; accepted: a string of the letters ABCDEFGHIKLMNOP"),
        ({"primary": "MK*X"}, r"has '\*' at residue 3"),
        ({"protein_length": 5}, "key 'protein_length' has 5; accepted: 4"),
        ({"protein_length": True}, "key 'protein_length' has True"),
        ({"id": 1.5}, r"key 'id' has 1.5 \(float\)"),
        ({"ss3": [0, 1, 2, 3]}, "key 'ss3' has 3 at residue 4; accepted: one integer for each residue, 0 to 2 or -1"),
        ({"ss3": [0, -2, 2, 1]}, "has -2 at residue 2"),
        ({"ss3": [0, 1, 2]}, "has 3 values for a sequence of 4 residues"),
        ({"ss3": [0.0, 1.5, 2, 1]}, "has values of type float64"),
        ({"ss3": [True, False, True, True]}, "has values of type bool"),
        ({"ss3": [0, None, 1, 1]}, "has values of type object"),
        ({"ss3": "HECC"}, r"has 'HECC' \(str\)"),
        ({"ss3": [[0], [1], [2], [0]]}, "a 2-dimensional array"),
        ({"ss3": [[0], [1, 2], 1, 1]}, "nested lists of unequal lengths"),
        ({"ss3": [10**30, 0, 0, 0]}, "key 'ss3' has "),
        ({"valid_mask": [1, 2, 0, 1]}, "key 'valid_mask' has 2 at residue 2; accepted: one 0 or 1 for each residue"),
        ({"valid_mask": [1, float("nan"), 0, 1]}, "has nan at residue 2"),
        ({"valid_mask": ["1", "0", "1", "1"]}, "has values of type <U1"),
    ],
)
def test_a_wrong_record_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"^{WHERE}: .*{message}"):
        check_record(Q3, record(**changes), WHERE)


def test_eight_classes_accept_seven():
    assert check_record(Q8, record(ss8=[7, 0, -1, 5]), WHERE)["ss8"].tolist() == [7, 0, -1, 5]
    with pytest.raises(ValueError, match="0 to 7 or -1"):
        check_record(Q8, record(ss8=[8, 0, 0, 0]), WHERE)


def test_labels_inside_the_mask_are_counted():
    assert Q3.count_labels(check_record(Q3, record(), WHERE)) == 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["id", "primary", "protein_length", "ss3", "valid_mask"]), VALUES))
def test_any_record_is_a_row_or_a_named_refusal(values):
    try:
        row = check_record(Q3, values, WHERE)
    except ValueError as error:
        message = str(error)
    else:
        message = f"{WHERE}: key none"
        assert len(row["ss3"]) == len(row["valid_mask"]) == row["length"] == len(row["sequence"])
    assert message.startswith(f"{WHERE}: key ")


@given(st.text(alphabet=sorted(RESIDUE_LETTERS), min_size=1), st.data())
def test_every_well_formed_record_is_accepted(sequence, data):
    size = {"min_size": len(sequence), "max_size": len(sequence)}
    labels = data.draw(st.lists(st.integers(-1, 2), **size))
    mask = data.draw(st.lists(st.sampled_from([0, 1, 0.0, 1.0, True, False]), **size))
    row = check_record(Q3, {"primary": sequence, "ss3": labels, "valid_mask": mask}, WHERE)
    assert row["ss3"].tolist() == labels
    assert row["valid_mask"].tolist() == [bool(value) for value in mask]
