"""Ids exactly as the sources have them, and letters to tokens and back."""

import numpy as np
import pytest

from proteinlm.models.alphabet import ALPHABETS, STANDARD_AMINO_ACIDS, get_alphabet


def test_esm_ids_are_those_of_esm() -> None:
    alphabet = get_alphabet("esm")
    assert (alphabet.cls_id, alphabet.pad_id, alphabet.eos_id, alphabet.unknown_id) == (0, 1, 2, 3)
    assert "".join(alphabet.tokens[4:31]) == "LAGVSERTIDPKQNFYMHWCXBUZO.-"
    assert (alphabet.tokens[31], alphabet.mask_id, alphabet.size) == ("<null_1>", 32, 33)


def test_esm_ids_agree_with_transformers() -> None:
    from transformers.models.esm.configuration_esm import get_default_vocab_list

    assert get_alphabet("esm").tokens == tuple(get_default_vocab_list())


def test_tape_ids_are_those_of_tape() -> None:
    alphabet = get_alphabet("tape")
    ids = (alphabet.pad_id, alphabet.mask_id, alphabet.cls_id, alphabet.eos_id, alphabet.unknown_id)
    assert ids == (0, 1, 2, 3, 4)
    assert {letter: alphabet.tokens.index(letter) for letter in "AKLZ"} == {"A": 5, "K": 14, "L": 15, "Z": 29}
    assert "J" not in alphabet.tokens
    assert alphabet.size == 30


def test_proteinlm_ids_are_those_of_the_paper() -> None:
    alphabet = get_alphabet("proteinlm")
    ids = (alphabet.pad_id, alphabet.mask_id, alphabet.cls_id, alphabet.eos_id, alphabet.unknown_id)
    assert ids == (0, 1, 2, None, 4)
    assert {letter: alphabet.tokens.index(letter) for letter in "AKLZ"} == {"A": 6, "K": 15, "L": 16, "Z": 30}
    assert alphabet.size == 31


@pytest.mark.parametrize("name", ALPHABETS)
def test_residues_are_the_twenty_and_the_five(name: str) -> None:
    alphabet = ALPHABETS[name]
    assert "".join(alphabet.tokens[i] for i in alphabet.amino_acid_ids) == STANDARD_AMINO_ACIDS
    assert {alphabet.tokens[i] for i in alphabet.residue_ids} == set("ACDEFGHIKLMNPQRSTVWYXBUZO")
    assert {alphabet.tokens[i] for i in np.flatnonzero(alphabet.is_residue)} == set("ACDEFGHIKLMNPQRSTVWYXBUZO")


@pytest.mark.parametrize(("name", "expected"), [("esm", [0, 20, 2, 0, 15, 7, 2]), ("proteinlm", [2, 17, 2, 15, 26])])
def test_encode_puts_special_tokens_around_each_protein(name: str, expected: list[int]) -> None:
    alphabet = get_alphabet(name)
    tokens, lengths = alphabet.encode(["M", "KV"])
    assert (tokens.dtype, lengths.dtype) == (np.uint8, np.int32)
    assert tokens.tolist() == expected
    assert lengths.tolist() == [1 + alphabet.specials_per_protein, 2 + alphabet.specials_per_protein]
    assert alphabet.decode(tokens) == "MKV"


def test_joined_letters_give_the_same_as_a_list() -> None:
    alphabet = get_alphabet("tape")
    from_list = alphabet.encode(["MKV", "", "LL"])
    from_bytes = alphabet.encode(b"MKVLL", np.array([3, 0, 2]))
    from_array = alphabet.encode(np.frombuffer(b"MKVLL", dtype=np.uint8), np.array([3, 0, 2]))
    for tokens, lengths in (from_bytes, from_array):
        assert np.array_equal(tokens, from_list[0])
        assert np.array_equal(lengths, from_list[1])


def test_a_protein_without_residues_has_its_special_tokens() -> None:
    tokens, lengths = get_alphabet("esm").encode([""])
    assert (tokens.tolist(), lengths.tolist()) == ([0, 2], [2])
    assert get_alphabet("esm").encode([])[0].size == 0


@pytest.mark.parametrize("name", ALPHABETS)
def test_every_byte_is_looked_up(name: str) -> None:
    alphabet = ALPHABETS[name]
    letters = np.arange(256, dtype=np.uint8)
    tokens = alphabet.encode(letters, np.array([256]))[0][1:257]
    expected = [alphabet.tokens.index(chr(b)) if chr(b) in alphabet.tokens else alphabet.unknown_id for b in letters]
    assert tokens.tolist() == expected


def test_unknown_letters_become_unknown() -> None:
    alphabet = get_alphabet("esm")
    tokens, lengths = alphabet.encode(["Aj?é\u03b1k"])
    assert tokens[1:-1].tolist() == [alphabet.tokens.index("A"), *[alphabet.unknown_id] * 5]
    assert lengths.tolist() == [8]
    assert not alphabet.is_residue[alphabet.unknown_id]


def test_decode_spells_out_masks() -> None:
    alphabet = get_alphabet("esm")
    assert alphabet.decode([0, 20, 32, 3, 2, 1]) == "M<mask><unk>"


def test_wrong_calls_are_refused() -> None:
    alphabet = get_alphabet("esm")
    with pytest.raises(ValueError, match="need the lengths"):
        alphabet.encode(b"MK")
    with pytest.raises(ValueError, match="add up to 3, but there are 2"):
        alphabet.encode(b"MK", np.array([3]))
    with pytest.raises(ValueError, match="found one string"):
        alphabet.encode("MKV")
    with pytest.raises(ValueError, match="own lengths"):
        alphabet.encode(["MKV"], np.array([3]))


def test_unknown_alphabet_names_the_near_one() -> None:
    with pytest.raises(ValueError, match=r"unknown alphabet 'protienlm' \(did you mean 'proteinlm'\?\).*esm, tape"):
        get_alphabet("protienlm")
