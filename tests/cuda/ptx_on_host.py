"""Kernels in PTX, as nvcc wrote them, to C++ that runs on the emulated device of ``cpp/cuda/simt.hpp``.

``ptx_on_host.py kernels.ptx --output kernels_ptx.cpp`` makes ``extern "C" void ptx_NAME(const void *parameters)``
of every entry NAME: a kernel for ``simt::launch``, whose argument is the kernel's parameters as CUDA lays them out. An
instruction becomes a statement with the bits that a device gives. Compile with ``-std=c++20 -O1 -mfma -ffp-contract=off``, with
this folder and ``cpp`` where headers are looked for. A block's memory holds the kernel's own arrays first: a launch adds
``ptx_NAME_shared_bytes`` to what the kernel gets at run time. With ``--own-names`` kernels keep their names, for
a host that declares them in C++, and must have no arrays of their own in a block's memory.

Also a gate on that text: what a device may compute with other bits is an error (approximations, flushed denormals, sums and
products without ``.rn``, which may be contracted), and so is what is not known here. Not known are the instructions of warps
(shuffles, votes), atomics, halves, textures and matrices.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ptx_body import Body
from ptx_text import (
    FLOATS,
    Declaration,
    Function,
    RefusedError,
    Statement,
    Variable,
    bits_type,
    declaration,
    function,
    literal,
    offsets,
    plain,
    size_of,
    split,
    statements,
)  # fmt: skip


class Module:
    """A whole file of PTX."""

    def __init__(self, text: str, prefix: str = "ptx_") -> None:
        self.prefix = prefix  # of names of kernels
        self.errors: list[str] = []
        self.variables: dict[str, Variable] = {}
        self.functions: list[Function] = []
        self.functions_by_name: dict[str, Function] = {}
        self.defined: list[tuple[Declaration, Statement]] = []  # .const and .global
        self.shared: list[Declaration] = []
        self.own_shared: dict[tuple[str, str], Variable] = {}  # by function and name
        self.dynamic_begin = 0
        self.read(list(statements(text)))
        self.place_shared()

    def refuse(self, statement: Statement, why: str) -> None:
        """Notes an error."""
        self.errors.append(f"line {statement.line}: {statement.text[:200]};  {why}")

    def read(self, all_: list[Statement]) -> None:
        """Finds functions and variables."""
        at = 0
        while at < len(all_):
            statement = all_[at]
            at += 1
            try:
                if re.search(r"\.(entry|func)\b", statement.text):
                    made = function(statement.text, statement.line)
                    if at < len(all_) and all_[at].text == "{":
                        first, depth = at + 1, 0
                        while True:
                            depth += (all_[at].text == "{") - (all_[at].text == "}")
                            at += 1
                            if depth == 0:
                                break
                        made.body = all_[first : at - 1]
                        self.functions.append(made)
                        self.functions_by_name[made.name] = made
                    else:
                        self.functions_by_name.setdefault(made.name, made)
                elif statement.text.startswith((".pragma", ".alias")) or statement.text in "{}":
                    raise RefusedError("not known at this place")
                else:
                    self.declare(statement)
            except RefusedError as why:
                self.refuse(statement, str(why))

    def declare(self, statement: Statement) -> None:
        """A variable of the module."""
        words = statement.text.split()
        declared = declaration(
            " ".join(word for word in words if word not in (".visible", ".weak", ".extern", ".common"))
        )
        if declared.space == "shared":
            self.shared.append(declared)
        elif declared.space in ("global", "const"):
            if ".extern" in words:
                raise RefusedError("a variable that is defined elsewhere")
            self.variables[declared.name] = Variable(declared.space, f"(u64)v_{plain(declared.name)}")
            self.defined.append((declared, statement))
        else:
            raise RefusedError(f"a .{declared.space} variable outside functions")

    # shared memory: arrays of the module and of functions, then those of each kernel, then what the launch gives

    def place_shared(self) -> None:
        """Finds a place for all of it. Kernels do not run together, so that their own arrays share theirs."""

        def end_of(begin: int, declared: Declaration, key: tuple[str, str]) -> int:
            begin = -(-begin // declared.align) * declared.align
            self.own_shared[key] = Variable("shared", f"{begin}u")
            return begin + declared.bytes

        end = 0
        for declared in self.shared:
            if declared.sized:
                end = end_of(end, declared, ("", declared.name))
                self.variables[declared.name] = self.own_shared["", declared.name]
        most = end
        for of in sorted(self.functions, key=lambda of: of.is_entry):
            own = end
            for statement in of.body or ():
                if statement.text.startswith(".shared"):
                    declared = declaration(statement.text)
                    own = end_of(own, declared, (of.name, declared.name))
            end = end if of.is_entry else own
            most = max(most, own)
        self.dynamic_begin = -(-most // 128) * 128
        for declared in self.shared:
            if not declared.sized:
                self.variables[declared.name] = Variable("shared", f"{self.dynamic_begin}u")

    # names

    def function_name(self, name: str) -> str:
        """A function, or kernel, in C++."""
        return (self.prefix if self.functions_by_name[name].is_entry else "f_") + plain(name)

    def address_of(self, name: str) -> str:
        """The address of a function."""
        of = self.functions_by_name[name]
        if of.body is None:
            raise RefusedError(f"{name} is not defined here")
        return f"(u64)&{self.function_name(name)}"

    def head(self, of: Function) -> str:
        """How a function begins."""
        name = self.function_name(of.name)
        if of.is_entry:
            return f'extern "C" void {name}([[maybe_unused]] const void *parameters)'
        given = ", ".join(f"[[maybe_unused]] u64 a{i}" for i in range(len(of.results) + len(of.parameters)))
        return f"static void {name}({given})"

    # initial values

    def value(self, text: str, type_: str) -> str:
        """One number of an initial value, or an address."""
        number = literal(text, type_)
        if number is not None:
            return number
        match = re.fullmatch(r"(?:(0[xX][0-9a-fA-F]+)\()?(?:generic\(([\w$]+)\)|([\w$]+))(?:\s*\+\s*(\d+))?\)?", text)
        if match is None:
            raise RefusedError(f"{text} is no initial value")
        name = match[2] or match[3]
        if name in self.functions_by_name:
            address = self.address_of(name)
        elif name in self.variables and self.variables[name].space in ("global", "const"):
            address = self.variables[name].address
        else:
            raise RefusedError(f"{text} is no initial value")
        address = f"({address} + {match[4] or 0})"
        if match[1]:
            mask = int(match[1], 16)
            shift = (mask & -mask).bit_length() - 1
            return f"(u8)({address} >> {shift})"
        if size_of(type_) != 8:
            raise RefusedError(f"{text} in {8 * size_of(type_)} bits")
        return address

    def defined_variable(self, declared: Declaration) -> str:
        """A variable with its initial value."""
        type_ = declared.type if declared.type in FLOATS else bits_type(size_of(declared.type))
        values: list[str] = []
        if declared.init is not None:
            numbers = split(re.sub(r"[{}]", " ", declared.init))
            values = [self.value(text, type_) for text in numbers]
        out = f"{self.declared_variable(declared)} = {{"
        lines, line = [], ""
        for value in values:
            if len(line) > 110:
                lines.append(line)
                line = ""
            line += value + ", "
        return out + "\n".join([*lines, line]).rstrip(" ,") + "};"

    def declared_variable(self, declared: Declaration, kind: str = "") -> str:
        """Its declaration."""
        type_ = declared.type if declared.type in FLOATS else bits_type(size_of(declared.type))
        return f"alignas({declared.align}) {kind}{type_} v_{plain(declared.name)}[{max(declared.count, 1)}]"

    def translate(self, name: str) -> str:
        """The file in C++."""
        out = [f"// Made of {name} by ptx_on_host.py.", '#include "ptx_on_host.hpp"', ""]
        warnings = (
            "pragmas", "unknown-warning-option", "unused-variable", "unused-label", "unused-but-set-variable",
            "unused-function", "parentheses", "uninitialized", "maybe-uninitialized",
        )  # fmt: skip
        out += [f'#pragma GCC diagnostic ignored "-W{warning}"' for warning in warnings]
        out += ["", "namespace ptx::kernels {", "namespace {"]
        out += [self.declared_variable(declared, "extern ") + ";" for declared, _ in self.defined]
        out.append("}")
        out += [self.head(of) + ";" for of in self.functions]
        out.append("namespace {")
        for declared, statement in self.defined:
            try:
                out.append(self.defined_variable(declared))
            except RefusedError as why:
                self.refuse(statement, str(why))
        out.append("}")
        for of in sorted(self.functions, key=lambda of: of.is_entry):
            out += ["", *Body(self, of).translate()]
        out.append("")
        for of in self.functions:
            if of.is_entry and self.prefix:
                for what, number in (("shared", self.dynamic_begin), ("parameter", offsets(of.parameters)[1])):
                    declared_name = f"{self.function_name(of.name)}_{what}_bytes"
                    out.append(
                        f'extern "C" {{ extern const int64_t {declared_name}; const int64_t {declared_name} = {number}; }}'
                    )
        return "\n".join([*out, "", "}  // namespace ptx::kernels", ""])


def main() -> int:
    """Translates a file, or says what stands in the way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("ptx", type=Path)
    parser.add_argument("--output", type=Path, help="the C++ file; without it the text is only checked")
    parser.add_argument("--own-names", action="store_true", help="without the prefix ptx_")
    given = parser.parse_args()
    module = Module(given.ptx.read_text(), "" if given.own_names else "ptx_")
    if given.own_names and module.dynamic_begin > 0:
        module.errors.append(f"{module.dynamic_begin} bytes of a block's memory that no launch asks for")
    text = module.translate(given.ptx.name)
    if module.errors:
        print(f"{given.ptx}: {len(module.errors)} statements are refused", file=sys.stderr)
        for error in module.errors[:50]:
            print("  " + error, file=sys.stderr)
        return 1
    if given.output is not None:
        given.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
