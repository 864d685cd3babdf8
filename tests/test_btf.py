"""The kernel's own types: each kind of them, and what is damaged."""

from __future__ import annotations

import pytest
from drgn import Architecture, Platform, Program, Qualifiers, TypeKind
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.collect.btf_records import BtfError
from estimator.kernel.btf import Btf
from tests.small_btf import (
    ARRAY,
    BOOL,
    CONST,
    DATASEC,
    ENUM64,
    FLOAT,
    FWD,
    PTR,
    SIGNED,
    TYPE_TAG,
    TYPEDEF,
    UNION,
    VAR,
    VOLATILE,
    SmallBtf,
)

STRUCTS = {TypeKind.STRUCT}


def read(btf: SmallBtf) -> Btf:
    return Btf(Program(Platform(Architecture.X86_64)), btf.bytes())


@pytest.fixture
def small() -> SmallBtf:
    """An int, and a list of them."""
    btf = SmallBtf()
    number = btf.integer("int", 4, SIGNED)
    btf.add(PTR, "", 3)
    btf.struct("list", 16, [("next", 2, 0), ("value", number, 64)])
    return btf


def test_a_struct_refers_to_itself_through_a_pointer(small: SmallBtf) -> None:
    type_ = read(small).find(STRUCTS, "list")
    assert type_ is not None
    assert (type_.tag, type_.size) == ("list", 16)
    following, value = type_.members or (None, None)
    assert following is not None
    assert value is not None
    assert (value.name, value.bit_offset, value.type.type_name()) == ("value", 64, "int")
    assert value.type.is_signed
    assert following.type.type.member("next").type.type_name() == "struct list *"


def test_names_are_of_one_kind(small: SmallBtf) -> None:
    small.add(TYPEDEF, "list", 3)
    btf = read(small)
    alias = btf.find({TypeKind.TYPEDEF}, "list")
    assert alias is not None
    assert alias.kind == TypeKind.TYPEDEF
    assert btf.find({TypeKind.UNION}, "list") is None
    assert btf.find(STRUCTS, "lis") is None
    assert btf.find({TypeKind.INT}, "int") is not None
    assert btf.find({TypeKind.BOOL}, "int") is None


def test_a_whole_struct_goes_before_one_declared() -> None:
    small = SmallBtf()
    small.add(FWD, "page")
    small.struct("page", 64, [])
    small.add(FWD, "opaque", flag=True)
    btf = read(small)
    page = btf.find(STRUCTS, "page")
    assert page is not None
    assert page.size == 64
    assert btf.find(STRUCTS, "opaque") is None
    opaque = btf.find({TypeKind.UNION}, "opaque")
    assert opaque is not None
    assert not opaque.is_complete()


def test_qualifiers_arrays_unions_floats() -> None:
    small = SmallBtf()
    byte = small.integer("unsigned char", 1)
    constant = small.add(CONST, "", small.add(VOLATILE, "", byte))
    array = small.add(ARRAY, "", 0, small.add(TYPE_TAG, "rcu", constant), byte, 5)
    real = small.add(FLOAT, "double", 8)
    truth = small.integer("_Bool", 1, BOOL)
    small.struct("all", 8, [("array", array, 0), ("real", real, 0), ("b", truth, 0)], kind=UNION)
    type_ = read(small).find({TypeKind.UNION}, "all")
    assert type_ is not None
    array_type = type_.member("array").type
    assert array_type.length == 5
    assert array_type.type.qualifiers == Qualifiers.CONST | Qualifiers.VOLATILE
    assert type_.member("real").type.kind == TypeKind.FLOAT
    assert type_.member("b").type.kind == TypeKind.BOOL


def test_bit_fields() -> None:
    small = SmallBtf()
    number = small.integer("unsigned int", 4)
    members = [("low", number, 3 << 24), ("high", number, 5 << 24 | 3), ("whole", number, 32)]
    small.struct("bits", 8, members, bit_fields=True)
    type_ = read(small).find(STRUCTS, "bits")
    assert type_ is not None
    found = [(m.name, m.bit_offset, m.bit_field_size) for m in type_.members or ()]
    assert found == [("low", 0, 3), ("high", 3, 5), ("whole", 32, None)]


@pytest.mark.parametrize(
    ("values", "signed", "expected"),
    [
        ([("A", 0), ("B", 7)], False, [0, 7]),
        ([("A", 0), ("B", -2)], True, [0, -2]),
        ([("A", 0), ("B", -1)], False, [0, -1]),
    ],
)
def test_enumerators(values: list[tuple[str, int]], signed: bool, expected: list[int]) -> None:
    small = SmallBtf()
    small.integer("int", 4)
    small.enum("", values, signed=signed)
    btf = read(small)
    for (name, _), value in zip(values, expected, strict=True):
        constant = btf.constant(name)
        assert constant is not None
        assert constant.value_() == value
    assert btf.constant("int") is None
    assert btf.constant("C") is None


def test_wide_enumerators() -> None:
    small = SmallBtf()
    name = small.name("WIDE")
    small.add(ENUM64, "flags", 8, name, 1, 1 << 31, members=1)
    constant = read(small).constant("WIDE")
    assert constant is not None
    assert constant.value_() == (1 << 63) + 1


def test_functions() -> None:
    small = SmallBtf()
    number = small.integer("int", 4, SIGNED)
    small.function("two", 0, [("a", number), ("b", number)])
    small.function("print", number, [("format", number), ("", 0)])
    variable = small.add(VAR, "counter", number, 1)
    small.add(DATASEC, ".data..percpu", 8, variable, 0, 4, members=1)
    btf = read(small)
    two, printing = btf.function("two"), btf.function("print")
    assert two is not None
    assert printing is not None
    assert [p.name for p in two.parameters] == ["a", "b"]
    assert (len(printing.parameters), printing.is_variadic) == (1, True)
    assert btf.function("three") is None


def test_structs_are_told_apart_by_their_members(small: SmallBtf) -> None:
    small.struct("", 16, [("first", 1, 0), ("second", 1, 0)], kind=UNION)
    small.struct("", 4, [("first", 1, 0)])
    small.struct("", 8, [("first", 1, 0), ("second", 1, 32)])
    small.struct("list", 4, [("first", 1, 0)])
    btf = read(small)
    for name, members, size in ((None, ("first", "second"), 8), ("list", ("first",), 4)):
        type_ = btf.struct_with(name, *members)
        assert type_ is not None
        assert type_.size == size
    assert btf.struct_with(None, "value") is None


def test_cut_short_anywhere(small: SmallBtf) -> None:
    data = small.bytes()
    prog = Program(Platform(Architecture.X86_64))
    for length in range(len(data)):
        with pytest.raises(BtfError):
            Btf(prog, data[:length])
    with pytest.raises(BtfError, match="version 2"):
        Btf(prog, small.bytes(version=2))


def test_types_that_contain_themselves() -> None:
    small = SmallBtf()
    small.add(TYPEDEF, "first", 2)
    small.add(TYPEDEF, "second", 1)
    small.add(ARRAY, "", 0, 3, 3, 2)
    small.add(TYPEDEF, "third", 3)
    btf = read(small)
    for name in ("first", "third"):
        with pytest.raises(BtfError, match="refers to itself"):
            btf.find({TypeKind.TYPEDEF}, name)


def test_what_contradicts_itself() -> None:
    small = SmallBtf()
    number = small.integer("int", 4)
    small.struct("small", 4, [("outside", number, 33)])
    small.add(TYPEDEF, "nowhere", 99)
    small.add(TYPEDEF, "section", 5)
    small.add(DATASEC, "data")
    small.integer("odd", 3)
    btf = read(small)
    with pytest.raises(BtfError, match="outside of its 4 bytes"):
        btf.find(STRUCTS, "small")
    with pytest.raises(BtfError, match="refers to a type 99, but has 6"):
        btf.find({TypeKind.TYPEDEF}, "nowhere")
    with pytest.raises(BtfError, match="none of a value"):
        btf.find({TypeKind.TYPEDEF}, "section")
    with pytest.raises(BtfError, match="odd has 3 bytes"):
        btf.find({TypeKind.INT}, "odd")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_ends_in_an_answer_or_in_its_own_error(data: st.DataObject) -> None:
    small = SmallBtf()
    number = small.integer("int", 4, SIGNED)
    small.struct("list", 16, [("next", small.add(PTR, "", 3), 0), ("value", number, 64)])
    small.enum("kinds", [("A", 1), ("B", 2)])
    small.add(TYPEDEF, "alias", small.add(ARRAY, "", 0, number, number, 3))
    damaged = bytearray(small.bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        btf = Btf(Program(Platform(Architecture.X86_64)), bytes(damaged))
        for name in ("int", "list", "kinds", "alias"):
            for kind in TypeKind:
                type_ = btf.find({kind}, name)
                if type_ is not None and type_.kind in STRUCTS:
                    [member.type for member in type_.members or ()]
        btf.constant("B")
    except BtfError:
        pass
