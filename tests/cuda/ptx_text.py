"""The text of PTX: statements, declarations, numbers, and an instruction with its modifiers."""

from __future__ import annotations

import dataclasses
import math
import re
import struct
from collections.abc import Iterator

# Types of PTX as types of the header. Variables are unsigned, and a signed operand is a cast.
SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
SIGNED, UNSIGNED, BITS = ({letter + size for size in SIZES} for letter in "sub")
INTEGERS, FLOATS = SIGNED | UNSIGNED | BITS, {"f32", "f64"}
TYPES = INTEGERS | FLOATS | {"pred"}
ROUNDINGS = {"rn": "nearest", "rz": "towards_zero", "rm": "down", "rp": "up"}
WHOLE_ROUNDINGS = {f"{name}i": rounding for name, rounding in ROUNDINGS.items()}
SPACES = {"const", "global", "local", "param", "shared", "shared::cta"}
# How memory is cached and ordered: the threads of a block take turns here.
HINTS = re.compile(
    r"volatile|weak|relaxed|acquire|release|cta|cluster|gpu|sys|ca|cg|cs|cv|lu|wb|wt|nc|unified|L[12]::\w+"
)


class RefusedError(Exception):
    """Why a statement has no translation."""


def size_of(type_: str) -> int:
    """Bytes of a number."""
    return SIZES[type_[1:]]


def bits_type(size: int) -> str:
    """The unsigned type of so many bytes."""
    return f"u{8 * size}"


def variable_type(type_: str) -> str:
    """What holds a register, in C++."""
    if type_ == "pred":
        return "bool"
    return type_ if type_ in FLOATS else bits_type(max(size_of(type_), 2))


# -- the text ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Statement:
    """A statement without its semicolon; or a brace of a block; or a label with its colon."""

    text: str
    line: int


def statements(text: str) -> Iterator[Statement]:
    """Cuts PTX into statements. Braces within one, of vectors and initial values, are part of it."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S)
    text = re.sub(r"^[ \t]*\.(version|target|address_size|file|loc)\b[^\n]*", blank, text, flags=re.M)
    text = re.sub(r"\.section\s+\.debug\w*\s*\{[^}]*\}", blank, text)
    line, begun, depth = 1, 1, 0
    kept = ""
    for match in re.finditer(r"[^;{}:\n]+|[;{}:\n]", text):
        piece = match[0]
        if not kept.strip():
            begun = line
        so_far = " ".join(kept.split())
        if piece == "\n":
            line += 1
            kept += " "
        elif piece == "{" and depth == 0 and (so_far == "" or (so_far[0] == "." and "=" not in so_far)):
            if so_far:
                yield Statement(so_far, begun)
            yield Statement("{", line)
            kept = ""
        elif piece == "}" and depth == 0:
            if so_far:
                raise SystemExit(f"line {begun}: {so_far}: a statement that does not end")
            yield Statement("}", line)
        elif piece == ";" and depth == 0:
            if so_far:
                yield Statement(so_far, begun)
            kept = ""
        elif piece == ":" and re.fullmatch(r"[\w$%]+", so_far):
            yield Statement(so_far + ":", begun)
            kept = ""
        else:
            depth += (piece == "{") - (piece == "}")
            kept += piece
    if kept.strip():
        raise SystemExit(f"line {begun}: {' '.join(kept.split())[:80]}: a statement that does not end")


def split(text: str) -> list[str]:
    """Cuts at the commas that no bracket holds."""
    parts, depth, part = [], 0, ""
    for c in text:
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += c
    return [*parts, part.strip()] if part.strip() else parts


def plain(name: str) -> str:
    """A name of PTX as one of C++."""
    return re.sub(r"\W", "_", name)


def integer(text: str) -> int | None:
    """The number that a literal stands for, or None."""
    match = re.fullmatch(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9]\d*)U?", text)
    if match is None:
        return None
    digits = match[2]
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    return (-1 if match[1] else 1) * int(digits, 8 if octal else 0)


def literal(text: str, type_: str) -> str | None:
    """A number of PTX in C++, or None if it is none."""
    if match := re.fullmatch(r"(-?)0([fF]([0-9a-fA-F]{8})|[dD]([0-9a-fA-F]{16}))", text):
        bits = int(match[3] or match[4], 16)
        wide = match[4] is not None
        if match[1]:
            bits ^= 1 << (63 if wide else 31)
        if (size_of(type_) == 8) != wide:
            raise RefusedError(f"{text} is no {type_}")
        if type_ not in FLOATS:
            return f"{bits:#x}{'ull' if wide else 'u'}"
        value = (
            struct.unpack("<d", struct.pack("<Q", bits))[0] if wide else struct.unpack("<f", struct.pack("<I", bits))[0]
        )
        if not math.isfinite(value):
            return f"as_{type_}({bits:#x}{'ull' if wide else 'u'})"
        return re.sub(r"\.?0+p", "p", value.hex()) + ("" if wide else "f")
    value = integer(text)
    if value is None:
        return None
    if type_ == "pred":
        return "true" if value else "false"
    if type_ in FLOATS:
        raise RefusedError(f"{text} is no {type_}")
    bits_of = 8 * size_of(type_)
    if not -(1 << (bits_of - 1)) <= value < 1 << bits_of:
        raise RefusedError(f"{text} is no {type_}")
    value %= 1 << bits_of
    if type_[0] == "s" and value >> (bits_of - 1):
        return f"({type_}){value:#x}{'ull' if bits_of == 64 else 'u'}"
    suffix = "ull" if bits_of == 64 and type_[0] != "s" else "ll" if bits_of == 64 else "" if type_[0] == "s" else "u"
    return (str(value) if value < 100000 else f"{value:#x}") + suffix


# -- declarations --------------------------------------------------------------------------------


@dataclasses.dataclass
class Variable:
    """What has an address: which space it is in, and the address in C++ (of shared memory, where it begins in it)."""

    space: str
    address: str


@dataclasses.dataclass
class Register:
    """What has a value: its name and type in C++."""

    name: str
    type: str


@dataclasses.dataclass
class Declaration:
    """``.space .align 8 .b8 name[32]``."""

    space: str
    name: str
    type: str
    count: int
    align: int
    sized: bool
    init: str | None

    @property
    def bytes(self) -> int:
        """The whole of it."""
        return self.count * size_of(self.type)


def declaration(text: str) -> Declaration:
    """Reads the declaration of a variable, or of a parameter."""
    head, _, init = text.partition("=")
    match = re.fullmatch(r"((?:\.\w+(?:\s+\d+)?\s+)+)([\w$%]+)\s*((?:\[\d*\]\s*)*)", head.strip())
    if match is None:
        raise RefusedError("no declaration that is known here")
    words = match[1].split()
    space = next((word[1:] for word in words if word[1:] in SPACES), "")
    type_ = next((word[1:] for word in words if word[1:] in TYPES), "")
    if not space or not type_ or type_ == "pred":
        raise RefusedError("no declaration that is known here")
    count = 1
    if vector := next((word for word in words if re.fullmatch(r"\.v[248]", word)), None):
        count = int(vector[2:])
    dimensions = re.findall(r"\[(\d*)\]", match[3])
    for dimension in dimensions:
        count *= int(dimension or 0)
    align = count * size_of(type_) if vector else size_of(type_)
    if ".align" in words and ".ptr" not in words:
        align = int(words[words.index(".align") + 1])
    sized = "" not in dimensions
    return Declaration(space, match[2], type_, count, align, sized, init.strip() or None)


@dataclasses.dataclass
class Function:
    """A kernel or a function; one without a body is defined elsewhere."""

    name: str
    is_entry: bool
    results: list[Declaration]
    parameters: list[Declaration]
    body: list[Statement] | None
    line: int


HEAD = re.compile(
    r"(?:\.(?:visible|weak|extern)\s+)*\.(entry|func)\s*(?:\((?P<results>[^)]*)\))?\s*(?P<name>[\w$]+)\s*"
    r"(?:\((?P<parameters>[^)]*)\))?(?P<rest>.*)"
)


def function(text: str, line: int) -> Function:
    """Reads the head of a kernel or function."""
    match = HEAD.fullmatch(text)
    if match is None or (match[1] == "entry" and match["results"]):
        raise RefusedError("no head of a function that is known here")
    results, parameters = (
        [declaration(part) for part in split(match[name] or "")] for name in ("results", "parameters")
    )
    return Function(match["name"], match[1] == "entry", results, parameters, None, line)


def offsets(parameters: list[Declaration]) -> tuple[list[int], int]:
    """Where the parameters of a kernel begin, and how many bytes they take."""
    begin, out = 0, []
    for declared in parameters:
        begin = -(-begin // declared.align) * declared.align
        out.append(begin)
        begin += declared.bytes
    return out, begin


# -- instructions --------------------------------------------------------------------------------


class Instruction:
    """An instruction, whose modifiers are taken off one by one."""

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"([a-z]\w*)((?:\.[\w:]+)*)\s*(.*)", text)
        if match is None:
            raise RefusedError("no instruction")
        self.name, self.rest = match[1], match[3]
        self.modifiers = match[2].split(".")[1:]
        self.operands = split(self.rest)
        for word, why in {
            "approx": "an approximation, whose bits are those of one device",
            "full": "a division that does not round to nearest",
            "ftz": "flushes denormals to zero",
        }.items():
            if word in self.modifiers:
                raise RefusedError(f".{word}: {why}")

    def pop(self, *words: str) -> str | None:
        """Takes off the first of these words that is there."""
        for word in words:
            if word in self.modifiers:
                self.modifiers.remove(word)
                return word
        return None

    def type(self, *allowed: set[str]) -> str:
        """Takes off the last modifier, a type."""
        type_ = self.modifiers.pop() if self.modifiers else ""
        if type_ not in (set().union(*allowed) if allowed else TYPES):
            raise RefusedError(f"not known for .{type_}" if type_ else "no type")
        return type_

    def done(self, operands: int | None = None) -> list[str]:
        """The operands, once there is no modifier left."""
        if self.modifiers:
            raise RefusedError(f"not known with .{self.modifiers[0]}")
        if operands is not None and len(self.operands) != operands:
            raise RefusedError(f"{len(self.operands)} operands, not {operands}")
        return self.operands

    def rounds_to_nearest(self) -> None:
        """Takes off ``.rn``, which must be there."""
        rounding = self.pop(*ROUNDINGS)
        if rounding is None:
            raise RefusedError("without .rn it may be contracted")
        if rounding != "rn":
            raise RefusedError(f".{rounding}: rounds otherwise than to nearest")
