"""A kernel made by hand: a drgn Program whose memory, types and variables are set one by one.

As drgn tests itself: a memory segment over a sparse store of bytes, and finders. What was never
written can't be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from drgn import (
    Architecture,
    FaultError,
    FindObjectFlags,
    Object,
    Platform,
    PlatformFlags,
    Program,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
)

from estimator.kernel.memory import Memory
from tests.fake_structs import CONSTANTS, PAGE_FLAGS, SCALARS, STRUCTS, parse

DIRECT_MAP = 0xFFFF_8880_0000_0000
VMEMMAP = 0xFFFF_EA00_0000_0000
_KERNEL_HALF = 0xFFFF_8000_0000_0000
_PAGE = 4096
_HEAP = DIRECT_MAP + (1 << 36)  # structs lie behind the frames that tests use
_PRESENT, _RW = 1, 2
_WORD = (1 << 64) - 1

Value = int | bytes | Sequence[int]
Fields = Mapping[str, Value]


class FlatMemory(Memory):
    """``Memory`` whose direct map does not have to be looked up."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.direct_map = DIRECT_MAP
        self.page_shift, self.page_bytes = 12, _PAGE


class FakeKernel:
    """``prog`` and ``memory`` are what the modules of estimator/kernel take.

    ``structs``: as ``STRUCTS``. ``functions``: names that the kernel's source has.
    """

    def __init__(
        self,
        structs: Mapping[str, str] = STRUCTS,
        *,
        constants: Mapping[str, int] = CONSTANTS,
        functions: Iterable[str] = (),
        architecture: Architecture = Architecture.X86_64,
    ) -> None:
        self._members = {tag: parse(text, structs) for tag, text in structs.items()}
        self._types: dict[str, Type] = {}
        self._constants, self._functions = dict(constants), set(functions)
        self._variables: dict[str, tuple[str, int]] = {}
        self._pages: dict[int, bytearray] = {}
        self._errors: dict[int, Exception] = {}
        self._free, self._next_table = _HEAP, 0x10_0000
        self.prog = Program(
            Platform(architecture, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)
        )
        self.prog.add_memory_segment(_KERNEL_HALF, 1 << 47, self._read_virtual)
        self.prog.add_memory_segment(0, 1 << 52, self._read_physical, True)
        self.prog.register_type_finder("fake", self._find_type, enable_index=0)
        self.prog.register_object_finder("fake", self._find_object, enable_index=0)
        self.memory = FlatMemory(self.prog)
        self.integer("vmemmap", VMEMMAP)
        self.integer("zero_pfn", 1)
        self.text("VMCOREINFO", b"OSRELEASE=6.12.0\n")
        self.text("UTS_RELEASE", b"6.12.0")

    # memory

    def write(self, address: int, data: bytes) -> None:
        """Put bytes at a kernel address."""
        done = 0
        while done < len(data):
            number, offset = divmod(address + done, _PAGE)
            part = data[done : done + _PAGE - offset]
            page = self._pages.setdefault(number, bytearray(_PAGE))
            page[offset : offset + len(part)] = part
            done += len(part)

    def lose(self, address: int, error: Exception | None = None) -> None:
        """Make the page around a kernel address unreadable; reading it raises ``error``."""
        self._pages.pop(address // _PAGE, None)
        if error is not None:
            self._errors[address // _PAGE] = error

    def frame(self, pfn: int, content: bytes = b"") -> None:
        """A frame with ``content`` and zeroes behind it."""
        self.write(DIRECT_MAP + pfn * _PAGE, content.ljust(_PAGE, b"\0"))

    def _read_virtual(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        found = b""
        while len(found) < count:
            at = address + len(found)
            if at // _PAGE not in self._pages:
                raise self._errors.get(at // _PAGE) or FaultError("nothing there", at)
            found += self._pages[at // _PAGE][at % _PAGE :][: count - len(found)]
        return found

    def _read_physical(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return self._read_virtual(DIRECT_MAP + address, count, offset, physical)

    # structs

    def sizeof(self, tag: str) -> int:
        """Bytes of the struct ``tag``."""
        return max(at + size * (length or 1) for _, at, size, length in self._members[tag].values())

    def offset(self, tag: str, path: str) -> int:
        """Byte offset of the member ``path`` ("a.b")."""
        return self._place(tag, path)[0]

    def new(self, tag: str, fields: Fields | None = None, *, apart: bool = False) -> int:
        """A new struct, zero but for ``fields`` (path: value); ``apart``: alone in its page."""
        alignment = _PAGE if apart or tag == "pgd" else 256
        address = -(-self._free // alignment) * alignment
        self._free = address + (_PAGE if apart else self.sizeof(tag))
        self.write(address, bytes(self.sizeof(tag)))
        self.set(tag, address, fields or {})
        return address

    def set(self, tag: str, address: int, fields: Fields) -> None:
        """Write members of the struct at ``address``."""
        for path, value in fields.items():
            at, size = self._place(tag, path)
            values = value if isinstance(value, Sequence) else [value]
            data = (
                value
                if isinstance(value, bytes)
                else b"".join(
                    (number & ((1 << 8 * size) - 1)).to_bytes(size, "little") for number in values
                )
            )
            self.write(address + at, data)

    def string(self, text: bytes) -> int:
        """The address of a C string."""
        address = self._free
        self._free += len(text) + 1
        self.write(address, text + b"\0")
        return address

    def _place(self, tag: str, path: str) -> tuple[int, int]:
        offset = 0
        for name in path.split("."):
            base, at, size, _ = self._members[tag][name]
            offset, tag = offset + at, base
        return offset, size

    # variables

    def variable(self, name: str, type_: str, address: int) -> None:
        """A variable of the C type ``type_`` at ``address``."""
        self._variables[name] = (type_, address)

    def global_(self, name: str, tag: str, fields: Fields | None = None) -> int:
        """A variable that is a struct; its address."""
        address = self.new(tag, fields)
        self.variable(name, f"struct {tag}", address)
        return address

    def integer(self, name: str, value: int) -> None:
        """A variable unsigned long."""
        self.variable(name, "unsigned long", self.string((value & _WORD).to_bytes(8, "little")))

    def array(self, name: str, values: Sequence[int]) -> int:
        """A variable unsigned long[]; its address."""
        address = self.string(b"".join(v.to_bytes(8, "little") for v in values))
        self.variable(name, f"unsigned long [{len(values)}]", address)
        return address

    def text(self, name: str, value: bytes) -> None:
        """A variable char[]."""
        self.variable(name, f"char [{len(value) + 1}]", self.string(value))

    # lists

    def empty_list(self, head: int) -> None:
        """LIST_HEAD_INIT."""
        self.set("list_head", head, {"next": head, "prev": head})

    def append(self, head: int, node: int) -> None:
        """list_add_tail()."""
        last = int.from_bytes(self.prog.read(head + 8, 8), "little")
        self.set("list_head", node, {"next": head, "prev": last})
        self.set("list_head", last, {"next": node})
        self.set("list_head", head, {"prev": node})

    # struct page

    def page(self, pfn: int, flags: Iterable[str] = (), fields: Fields | None = None) -> None:
        """struct page of a frame with no mapping but ``fields``; ``flags`` without PG_."""
        word = _flag_word(flags)
        defaults: Fields = {"flags": word, "_mapcount.counter": -1, "_refcount.counter": 1}
        self.write(page_at(pfn), bytes(64))
        self.set("page", page_at(pfn), {**defaults, **(fields or {})})

    def folio(
        self, pfn: int, order: int, flags: Iterable[str] = (), fields: Fields | None = None
    ) -> None:
        """struct page of all frames of a large folio; ``fields``: of struct folio."""
        self.page(pfn, (*flags, "head"))
        for tail in range(pfn + 1, pfn + (1 << order)):
            self.page(tail, (), {"compound_head": page_at(pfn) | 1})
        members = self._members["folio"]
        by_itself = "_folio_order" in members
        counts = {n: -1 for n in members if n.endswith("mapcount") and n != "_mapcount"}
        self.set("folio", page_at(pfn), {"_folio_order" if by_itself else "_flags_1": order})
        self.set("folio", page_at(pfn), {f"{name}.counter": n for name, n in counts.items()})
        self.set("folio", page_at(pfn), fields or {})

    # page tables

    def page_table(self) -> int:
        """A new empty table: its PFN."""
        self._next_table += 1
        self.frame(self._next_table)
        return self._next_table

    def map(self, pgd: int, address: int, entry: int, level: int = 0) -> int:
        """Put ``entry`` in the 4-level tables at the kernel address ``pgd``; its table's PFN."""
        table = (pgd - DIRECT_MAP) // _PAGE
        for depth in range(3, level - 1, -1):
            at = DIRECT_MAP + table * _PAGE + 8 * (address >> 12 + 9 * depth & 511)
            if depth == level:
                self.write(at, entry.to_bytes(8, "little"))
                break
            below = int.from_bytes(self.prog.read(at, 8), "little")
            if not below:
                below = self.page_table() << 12 | _PRESENT | _RW
                self.write(at, below.to_bytes(8, "little"))
            table = below >> 12
        return table

    # finders

    def _find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        if TypeKind.STRUCT not in kinds or name not in self._members:
            return None
        if name not in self._types:
            members = [
                TypeMember(lambda b=base, n=length: self._c_type(b, n), member, 8 * at)
                for member, (base, at, _, length) in self._members[name].items()
            ]
            self._types[name] = prog.struct_type(name, self.sizeof(name), members)
        return self._types[name]

    def _c_type(self, base: str, length: int | None) -> Type:
        if base in self._members:
            name = f"struct {base}"
        elif base == "ptr":
            name = "void *"
        elif base.startswith("*"):
            name = "char *" if base == "*char" else f"struct {base[1:]} *"
        else:
            name = SCALARS[base][0]
        type_ = self.prog.type(name)
        return type_ if length is None else self.prog.array_type(type_, length)

    def _find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        if flags & FindObjectFlags.VARIABLE and name in self._variables:
            type_, address = self._variables[name]
            return Object(prog, type_, address=address)
        if flags & FindObjectFlags.CONSTANT and name in self._constants:
            enum = prog.enum_type(
                None, prog.type("unsigned int"), [TypeEnumerator(name, self._constants[name])]
            )
            return Object(prog, enum, self._constants[name])
        if flags & FindObjectFlags.FUNCTION and name in self._functions:
            parameter = TypeParameter(prog.type("unsigned int"), "flags")
            type_ = prog.function_type(prog.void_type(), (parameter,))
            return Object(prog, type_, address=_KERNEL_HALF)
        return None


def page_at(pfn: int) -> int:
    """The address of a struct page."""
    return VMEMMAP + 64 * pfn


def _flag_word(flags: Iterable[str]) -> int:
    return sum(1 << PAGE_FLAGS[f"PG_{name}"] for name in flags)
