"""The schema: good records in every form TAPE has, and refusals that name place, key, found and accepted."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.models.alphabet import RESIDUE_LETTERS
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.records import (
    LabelField,
    TaskSchema,
    check_record,
    protein_class,
    protein_count,
    protein_number,
    residue_coordinates,
)

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
        ({"primary": "MJTX"}, "key 'primary' has 'J' at residue 2; accepted: a string of the letters ABCDEFGHIKLMNOP"),
        ({"primary": "MK*X"}, r"has stop codon '\*' inside the sequence, at residue 3"),
        ({"primary": " -*"}, "is an empty sequence"),
        ({"primary": "M\ud800TX"}, r"has '\?' at residue 2"),
        ({"primary": "ACGT" * 10}, "looks like nucleotides, not a protein: 'ACGTACGTA.*'; translate them"),
        ({"primary": "HHHHHHHHHHCCCCEEEEEEECC"}, "looks like secondary structure, not a protein"),
        ({"primary": "METLYSALAALAGLYSER"}, "looks like three-letter codes"),
        ({"id": "a\ud800"}, r"key 'id' has 'a\\ud800'; accepted: text in UTF-8"),
        ({"id": "\x1b[31m", "primary": 3}, "key 'primary' has 3"),
        ({"ss3": "\x1b[31m"}, r"has '\\x1b\[31m' \(str\)"),
        ({"ss3": [1, "A" * 10_000_000]}, "has the text 'AAAAA"),
        ({"ss3": [np.zeros(3_000_000)] * 1000}, "has more than 10,000,000 values"),
        ({"ss3": [[[[[[[1]]]]]]]}, "has lists nested too deeply"),
        ({"ss3": 2**5000}, "has an integer of thousands of digits"),
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


def schema_of(*fields: LabelField) -> TaskSchema:
    return TaskSchema("made_up", "made_up", fields, lambda row: 1)


FOLD, NUMBER = schema_of(protein_class("fold_label", 1195)), schema_of(protein_number("score"))
COUNT, COORDINATES = schema_of(protein_count("mutations")), schema_of(residue_coordinates("tertiary"))
LINE = [[0.0, 3.8 * place, -1.5] for place in range(4)]


@pytest.mark.parametrize(
    ("schema", "found", "stored"),
    [
        (FOLD, 1194, 1194),
        (FOLD, np.int64(0), 0),
        (FOLD, np.array([7], np.int32), 7),
        (NUMBER, 3, 3.0),
        (NUMBER, [-1.25], -1.25),
        (NUMBER, (1e300,), 1e300),
        (NUMBER, np.array([0.5], np.float32), 0.5),
        (NUMBER, np.array(2.5), 2.5),
        (NUMBER, np.float32(0.5), 0.5),
        (COUNT, 0, 0),
        (COUNT, np.array([15]), 15),
    ],
)
def test_a_label_of_the_whole_protein_comes_alone_or_as_a_list_of_one(schema, found, stored):
    key = schema.fields[0].key
    row = check_record(schema, {"primary": "MKTX", key: found}, WHERE)
    assert row[key] == stored
    assert type(row[key]) is type(stored)
    pa.table({name: [row[name]] for name in schema.arrow_schema().names}, schema=schema.arrow_schema())


@pytest.mark.parametrize("found", [LINE, np.array(LINE), np.array(LINE, np.float32), [[1, 2, 3]] * 4])
def test_coordinates_are_stored_one_after_the_other(found):
    row = check_record(COORDINATES, {"primary": "MKTX", "tertiary": found}, WHERE)
    assert row["tertiary"].dtype == np.float32
    assert np.array_equal(row["tertiary"], np.array(found, np.float32).reshape(-1))


@pytest.mark.parametrize(
    ("schema", "found", "message"),
    [
        (FOLD, 1195, "has 1195; accepted: one integer, 0 to 1194"),
        (FOLD, -1, "has -1;"),
        (FOLD, True, r"has True \(bool\)"),
        (FOLD, [True], r"has \[True\] \(list\)"),
        (FOLD, np.array([True]), r"has array\(\[ True\]\) \(ndarray\)"),
        (FOLD, 3.0, r"has 3.0 \(float\)"),
        (FOLD, "3", r"has '3' \(str\)"),
        (FOLD, None, r"has None \(NoneType\)"),
        (FOLD, [[1], [1, 2]], r"has \[\[1\], \[1, 2\]\] \(list\)"),
        (FOLD, [], r"has \[\] \(list\)"),
        (NUMBER, float("nan"), "has nan; accepted: one finite number"),
        (NUMBER, [float("inf")], "has inf;"),
        (NUMBER, 10**400, "has an integer above 1.8e308;"),
        (NUMBER, [1.0, 2.0], r"has \[1.0, 2.0\] \(list\)"),
        (NUMBER, np.zeros(2), r"has array\(\[0., 0.\]\) \(ndarray\)"),
        (NUMBER, "1.5", r"has '1.5' \(str\)"),
        (NUMBER, {}, r"has {} \(dict\)"),
        (COUNT, -1, "has -1; accepted: one integer, 0 or more"),
        (COUNT, 2**31, "has 2147483648;"),
        (COORDINATES, LINE[:3], r"has an array of shape \[3, 3\] for a sequence of 4 residues; accepted: three finite"),
        (COORDINATES, [[0.0, 1.0]] * 4, r"has an array of shape \[4, 2\]"),
        (COORDINATES, [0.0] * 12, r"has an array of shape \[12\]"),
        (COORDINATES, [*LINE[:3], [0.0]], "has nested lists of unequal lengths"),
        (COORDINATES, [*LINE[:3], [0, float("nan"), 0]], "has nan at residue 4"),
        (COORDINATES, [[float("inf"), float("-inf"), 0], *LINE[1:]], "has inf at residue 1"),
        (COORDINATES, [LINE[0], [0, 0, 1e39], *LINE[2:]], r"has 1e\+39 at residue 2"),
        (COORDINATES, [[True] * 3] * 4, "has values of type bool"),
        (COORDINATES, [["0", "1", "2"]] * 4, "has values of type <U1"),
        (COORDINATES, "0 0 0", r"has '0 0 0' \(str\)"),
    ],
)
def test_a_wrong_label_is_refused_by_name(schema, found, message):
    key = schema.fields[0].key
    with pytest.raises(ValueError, match=f"^{WHERE}: key '{key}' {message}"):
        check_record(schema, {"primary": "MKTX", key: found}, WHERE)


def test_the_one_label_of_a_protein_may_be_called_target():
    assert check_record(NUMBER, {"sequence": "MK", "target": 1.5}, WHERE)["score"] == 1.5
    assert check_record(NUMBER, {"sequence": "MK", "target": 1.5, "score": 2}, WHERE)["score"] == 2.0
    with pytest.raises(ValueError, match=r"key 'target' has 'x' \(str\); accepted: one finite number"):
        check_record(NUMBER, {"sequence": "MK", "target": "x"}, WHERE)
    with pytest.raises(ValueError, match=r"key 'score' \(or 'target'\) is missing \(found 'sequence'\)"):
        check_record(NUMBER, {"sequence": "MK"}, WHERE)


@pytest.mark.parametrize(
    "schema", [COORDINATES, schema_of(protein_number("score"), protein_count("mutations")), Q3], ids=lambda s: s.task
)
def test_where_it_is_not_clear_which_label_the_target_is_it_is_not_taken(schema):
    assert schema.target_field is None
    with pytest.raises(ValueError, match=f"key '{schema.fields[0].key}' is missing"):
        check_record(schema, {"sequence": "MK", "target": 1}, WHERE)


@pytest.mark.parametrize("values", [{}, {"mutations": None}])
def test_a_label_that_need_not_be_there_is_stored_as_a_null(values):
    schema = schema_of(protein_number("score"), protein_count("mutations", is_required=False))
    row = check_record(schema, {"primary": "MK", "target": 1, **values}, WHERE)
    assert (row["score"], row["mutations"]) == (1.0, None)
    table = pa.table({name: [row[name]] for name in schema.arrow_schema().names}, schema=schema.arrow_schema())
    assert table["mutations"].null_count == 1
    with pytest.raises(ValueError, match="key 'mutations' has -2"):
        check_record(schema, {"primary": "MK", "target": 1, "mutations": -2}, WHERE)


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


@given(
    VALUES
    | st.lists(st.floats(), max_size=2)
    | st.lists(st.lists(st.floats() | st.integers(), max_size=4), max_size=3),
    st.sampled_from([FOLD, NUMBER, COUNT, COORDINATES]),
)
def test_any_label_is_stored_or_refused_by_name(found, schema):
    key = schema.fields[0].key
    try:
        row, message = check_record(schema, {"primary": "MK", key: found}, WHERE), ""
    except ValueError as error:
        row, message = {key: 0}, str(error)
    assert message == "" or message.startswith(f"{WHERE}: key '{key}' has ")
    assert np.isfinite(row[key]).all()


@given(st.text(alphabet=sorted(RESIDUE_LETTERS), min_size=1), st.data())
def test_every_well_formed_record_is_accepted(sequence, data):
    size = {"min_size": len(sequence), "max_size": len(sequence)}
    labels = data.draw(st.lists(st.integers(-1, 2), **size))
    mask = data.draw(st.lists(st.sampled_from([0, 1, 0.0, 1.0, True, False]), **size))
    row = check_record(Q3, {"primary": sequence, "ss3": labels, "valid_mask": mask}, WHERE)
    assert row["ss3"].tolist() == labels
    assert row["valid_mask"].tolist() == [bool(value) for value in mask]
