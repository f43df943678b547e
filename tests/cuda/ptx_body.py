"""The body of a kernel or function in C++: one statement for each instruction of PTX."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ptx_text import (
    BITS,
    FLOATS,
    HINTS,
    INTEGERS,
    ROUNDINGS,
    SIGNED,
    SPACES,
    TYPES,
    UNSIGNED,
    WHOLE_ROUNDINGS,
    Declaration,
    Function,
    Instruction,
    RefusedError,
    Register,
    Variable,
    bits_type,
    declaration,
    integer,
    literal,
    offsets,
    plain,
    size_of,
    split,
    variable_type,
)  # fmt: skip

if TYPE_CHECKING:
    from ptx_on_host import Module

COMPARISONS = {
    "eq": "{0} == {1}", "lt": "{0} < {1}", "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}",
    "equ": "!({0} < {1} || {0} > {1})", "neu": "{0} != {1}", "ltu": "!({0} >= {1})", "leu": "!({0} > {1})",
    "gtu": "!({0} <= {1})", "geu": "!({0} < {1})", "num": "({0} == {0} && {1} == {1})",
    "nan": "({0} != {0} || {1} != {1})",
}  # fmt: skip
INTEGER_COMPARISONS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
}  # fmt: skip
UNSIGNED_ONLY = ("lo", "ls", "hi", "hs")
SPECIAL = {
    "%tid.x": "(u32)T->thread", "%ntid.x": "(u32)T->threads", "%ctaid.x": "(u32)T->block", "%nctaid.x": "(u32)T->blocks",
    "%tid.y": "0u", "%tid.z": "0u", "%ntid.y": "1u", "%ntid.z": "1u", "%ctaid.y": "0u", "%ctaid.z": "0u",
    "%nctaid.y": "1u", "%nctaid.z": "1u", "%laneid": "(u32)(T->thread % 32)", "%total_smem_size": "(u32)T->shared_bytes",
}  # fmt: skip


class Body:
    """Translates the body of a kernel or function, statement by statement."""

    def __init__(self, module: Module, of: Function) -> None:
        self.module, self.of = module, of
        self.scopes: list[dict[str, Register | Variable]] = [{}]
        self.ranges: list[dict[str, tuple[int, str]]] = [{}]  # of registers: %r<100>
        self.registers: dict[str, list[str]] = {}  # by type
        self.head: list[str] = []
        self.lines: list[str] = []
        self.blocks = [0]
        self.n_blocks = self.n_names = 0
        self.labels: dict[tuple[int, str], str] = {}
        self.targets: dict[tuple[int, str], list[str]] = {}
        self.uses_carry = False

    # names

    def new_name(self, of: str) -> str:
        """A name that no other has."""
        self.n_names += 1
        return f"x{self.n_names}_{plain(of)}"

    def register(self, name: str) -> Register | None:
        """The register of a name, declared on first use."""
        for scope, ranges in zip(reversed(self.scopes), reversed(self.ranges), strict=True):
            found = scope.get(name)
            if found is not None:
                return found if isinstance(found, Register) else None
            match = re.fullmatch(r"(.*?)(0|[1-9]\d*)", name)
            if match is not None and match[1] in ranges and int(match[2]) < ranges[match[1]][0]:
                type_ = ranges[match[1]][1]
                short = re.fullmatch(r"%(p|rs|r|rd|f|fd)\d+", name) and scope is self.scopes[0]
                made_name = re.sub(r"^f(?=\d)", "fs", name[1:]) if short else self.new_name(name)  # f32 is a type
                scope[name] = made = self.new_register(made_name, type_)
                return made
        return None

    def new_register(self, name: str, type_: str) -> Register:
        """Declares a variable for a register."""
        made = Register(name, variable_type(type_))
        self.registers.setdefault(made.type, []).append(name)
        return made

    def variable(self, name: str) -> Variable | None:
        """The variable of a name: of this body, or of the module."""
        for scope in reversed(self.scopes):
            found = scope.get(name)
            if found is not None:
                return found if isinstance(found, Variable) else None
        return self.module.variables.get(name)

    def label(self, name: str) -> str:
        """The label of a name that is nearest around."""
        for block in reversed(self.blocks):
            if (block, name) in self.labels:
                return self.labels[block, name]
        raise RefusedError(f"no label {name}")

    # values

    def bits_as(self, register: Register, type_: str) -> str:
        """A register as a number of a type that is not wider."""
        if (register.type == "bool") != (type_ == "pred"):
            raise RefusedError("a predicate and a number")
        if type_ == "pred":
            return register.name
        have, want = size_of(register.type), size_of(type_)
        if want > have:
            raise RefusedError(f"an operand that is narrower than .{type_}")
        name = register.name
        if register.type in FLOATS:
            if register.type == type_:
                return name
            name = f"as_{bits_type(have)}({name})"
            return (
                name if want == have and type_[0] != "s" else f"(({'s' if type_[0] == 's' else 'u'}{8 * want}){name})"
            )
        if type_ in FLOATS:
            return f"as_{type_}({name if want == have else f'({bits_type(want)}){name}'})"
        if want == have and type_[0] != "s":
            return name
        return f"({'s' if type_[0] == 's' else 'u'}{8 * want}){name}"

    def read(self, text: str, type_: str) -> str:
        """An operand as a number of a type."""
        if text.startswith("!") and type_ == "pred":
            return "!" + self.read(text[1:].strip(), "pred")
        register = self.register(text)
        if register is not None:
            return self.bits_as(register, type_)
        if text in SPECIAL:
            return f"({bits_type(size_of(type_))}){SPECIAL[text]}"
        value = literal(text, type_)
        if value is not None:
            return value
        match = re.fullmatch(r"([\w$%]+)\s*(?:\+\s*(\d+))?", text)
        if match is not None and type_ in BITS | UNSIGNED and size_of(type_) >= 4:
            address = self.module.functions_by_name.get(match[1])
            if address is not None:
                return self.module.address_of(match[1])
            variable = self.variable(match[1])
            if variable is not None:
                if size_of(type_) == 4 and not variable.space.startswith("shared"):
                    raise RefusedError(f"the address {match[1]} in 32 bits")
                return f"({bits_type(size_of(type_))})({variable.address} + {match[2] or 0})"
        raise RefusedError(f"{text} is not known")

    def destination(self, text: str) -> Register | None:
        """The register that a result goes to; None for ``_``."""
        if text == "_":
            return None
        register = self.register(text)
        if register is None:
            raise RefusedError(f"{text} is no register")
        return register

    def write(self, text: str, type_: str, value: str) -> str:
        """The statement that puts a value, of the C++ type for ``type_``, into a register."""
        register = self.destination(text)
        if register is None:
            return f"(void)({value});"
        if (register.type == "bool") != (type_ == "pred"):
            raise RefusedError("a predicate and a number")
        if type_ == "pred":
            return f"{register.name} = {value};"
        have, want = size_of(register.type), size_of(type_)
        if want > have:
            raise RefusedError(f"a result that is narrower than .{type_}")
        if register.type == type_:
            return f"{register.name} = {value};"
        if register.type in FLOATS or type_ in FLOATS:
            if have != want:
                raise RefusedError(f"a result that is wider than .{type_}")
            return f"{register.name} = as_{register.type}(({type_.replace('b', 'u')})({value}));"
        if have == want:
            return f"{register.name} = {value};"
        return f"{register.name} = ({type_.replace('b', 'u')})({value});"  # extends by the sign of the type

    def address(self, text: str, space: str) -> str:
        """``[base+offset]`` as an address of the host."""
        match = re.fullmatch(r"\[\s*([\w$%.]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
        if match is None:
            raise RefusedError(f"{text} is no address")
        offset = integer(match[2] or "0")
        if offset is None:
            raise RefusedError(f"{text} is no address")
        shared = space.startswith("shared")
        register = self.register(match[1])
        if register is not None:
            if register.type not in ("u64", "u32") or (register.type == "u32" and not shared):
                raise RefusedError(f"{text}: an address of {register.type}")
            sum_ = register.name + (f" {'-' if offset < 0 else '+'} {abs(offset)}u" if offset else "")
            if not shared:
                return sum_
            return f"S + (u32)({sum_})" if register.type == "u64" else f"S + ({sum_})" if offset else f"S + {sum_}"
        variable = self.variable(match[1])
        if variable is not None:
            in_shared = variable.space.startswith("shared")
            if space and (in_shared != shared or (space != variable.space and not shared)):
                raise RefusedError(f"{match[1]} is not in .{space}")
            return ("S + " if in_shared else "") + f"{variable.address} + {offset}"
        raise RefusedError(f"{text}: not known")

    # statements

    def translate(self) -> list[str]:
        """The whole function in C++."""
        self.find_labels()
        self.parameters()
        for statement in self.of.body or ():
            try:
                self.statement(statement.text)
            except RefusedError as why:
                self.module.refuse(statement, str(why))
        declared = []
        for type_, names in self.registers.items():
            groups = (names[i : i + 16] for i in range(0, len(names), 16))
            declared += [f"{type_} " + ", ".join(group) + ";" for group in groups]
        if self.uses_carry:
            declared.append("u32 CF{};")
        begin = "const penstock::simt::Thread *const T = penstock::simt::current; const u64 S = (u64)T->shared;"
        return [self.module.head(self.of) + " {", begin, *self.head, *declared, *self.lines, "}"]

    def find_labels(self) -> None:
        """Labels are known in all of their block, before they come, too."""
        blocks, n, name = [0], 0, ""
        for statement in self.of.body or ():
            if statement.text == "{":
                n += 1
                blocks.append(n)
            elif statement.text == "}":
                blocks.pop()
            elif statement.text.endswith(":"):
                name = statement.text[:-1]
                short = re.fullmatch(r"\$L__BB(\d+_\d+)", name)
                self.labels[blocks[-1], name] = f"L{short[1]}" if short else f"L{len(self.labels)}_{plain(name)}"
            elif match := re.fullmatch(r"\.branchtargets\s+(.*)", statement.text):
                self.targets[blocks[-1], name] = split(match[1])
                del self.labels[blocks[-1], name]

    def parameters(self) -> None:
        """Where parameters and results lie: those of a kernel in one piece of memory, others where their address says."""
        scope = self.scopes[0]
        if self.of.is_entry:
            self.head.append("const u64 P = (u64)parameters;")
            for declared, offset in zip(self.of.parameters, offsets(self.of.parameters)[0], strict=True):
                scope[declared.name] = Variable("param", f"P + {offset}")
        else:
            for i, declared in enumerate(self.of.results + self.of.parameters):
                scope[declared.name] = Variable("param", f"a{i}")

    def statement(self, text: str) -> None:
        """Translates one."""
        if text == "{":
            self.n_blocks += 1
            self.blocks.append(self.n_blocks)
            self.scopes.append({})
            self.ranges.append({})
            self.lines.append("{")
        elif text == "}":
            self.blocks.pop()
            self.scopes.pop()
            self.ranges.pop()
            self.lines.append("}")
        elif text.endswith(":"):
            if (self.blocks[-1], text[:-1]) in self.labels:
                self.lines.append(self.label(text[:-1]) + ":;")
        elif text.startswith((".pragma", ".branchtargets", ".callprototype", ".calltargets")):
            pass
        elif text.startswith(".reg"):
            self.declare_registers(text)
        elif text.startswith("."):
            self.declare_variable(declaration(text))
        else:
            self.instruction(text)

    def declare_registers(self, text: str) -> None:
        """``.reg .b32 %r<100>, x;``."""
        match = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text)
        if match is None or match[1] not in TYPES:
            raise RefusedError("registers of a type that is not known here")
        for name in split(match[2]):
            if several := re.fullmatch(r"([\w$%]+)<(\d+)>", name):
                self.ranges[-1][several[1]] = (int(several[2]), match[1])
            elif name in ("%SP", "%SPL") and len(self.scopes) == 1:
                self.scopes[-1][name] = self.new_register(name[1:], match[1])
            else:
                self.scopes[-1][name] = self.new_register(self.new_name(name), match[1])

    def declare_variable(self, declared: Declaration) -> None:
        """Local arrays, parameters of a call, and the kernel's own shared arrays."""
        name = self.new_name(declared.name)
        array = f"alignas({max(declared.align, 8)}) char {name}[{max(declared.bytes, 1)}];"
        if declared.init is not None:
            raise RefusedError("an initial value within a function")
        if declared.space == "local":
            self.head += [array, f"__builtin_memset({name}, 0xFF, {declared.bytes});"]
            self.scopes[-1][declared.name] = Variable("local", f"(u64){name}")
        elif declared.space == "param":
            self.lines.append(array)
            self.scopes[-1][declared.name] = Variable("param", f"(u64){name}")
        elif declared.space == "shared":
            self.scopes[-1][declared.name] = self.module.own_shared[self.of.name, declared.name]
        else:
            raise RefusedError(f"a .{declared.space} variable within a function")

    def instruction(self, text: str) -> None:
        """Translates one, with its predicate."""
        guard = ""
        if match := re.fullmatch(r"@(!?)\s*([\w$%]+)\s+(.*)", text):
            guard = f"if ({self.read(match[1] + match[2], 'pred')}) "
            text = match[3]
        parsed = Instruction(text)
        translate: Callable[[Instruction], str] | None = getattr(self, f"op_{parsed.name}", None)
        if translate is None:
            raise RefusedError(f"the instruction {parsed.name} is not known")
        done = translate(parsed)
        if done:
            self.lines.append(guard + done)

    # arithmetic

    def add_or_sub(self, i: Instruction, carry: bool) -> str:
        """``add``, ``sub``, and with a carry ``addc``, ``subc``."""
        sign = "+" if i.name.startswith("add") else "-"
        type_ = i.type(INTEGERS - BITS, FLOATS)
        if type_ in FLOATS and not carry:
            i.rounds_to_nearest()
            saturated = i.pop("sat")
            d, a, b = i.done(3)
            sum_ = f"{self.read(a, type_)} {sign} {self.read(b, type_)}"
            return self.write(d, type_, f"saturated<{type_}>({sum_})" if saturated else sum_)
        if type_ in FLOATS:
            raise RefusedError("a carry of floats")
        out, saturated = i.pop("cc"), i.pop("sat")
        d, a, b = i.done(3)
        if saturated:
            if type_ != "s32" or out or carry:
                raise RefusedError(f".sat is not known for .{type_}")
            return self.write(d, type_, f"clamped<s32>((s64){self.read(a, type_)} {sign} {self.read(b, type_)})")
        unsigned = bits_type(size_of(type_))
        x, y = self.read(a, unsigned), self.read(b, unsigned)
        if not out and not carry:
            return self.write(d, unsigned, f"{x} {sign} {y}")
        if unsigned == "u16":
            raise RefusedError("a carry of .16")
        self.uses_carry = True
        if not out:
            return self.write(d, unsigned, f"{x} {sign} {y} {sign} CF")
        name = "add_carry" if sign == "+" else "sub_borrow"
        return self.write(d, unsigned, f"{name}<{unsigned}>({x}, {y}, {'CF' if carry else 0}, CF)")

    def op_add(self, i: Instruction) -> str:
        return self.add_or_sub(i, False)

    def op_sub(self, i: Instruction) -> str:
        return self.add_or_sub(i, False)

    def op_addc(self, i: Instruction) -> str:
        return self.add_or_sub(i, True)

    def op_subc(self, i: Instruction) -> str:
        return self.add_or_sub(i, True)

    def product(self, a: str, b: str, type_: str, part: str | None) -> tuple[str, str]:
        """A product of integers, and its type."""
        size = size_of(type_)
        if part == "lo":
            unsigned = bits_type(size)
            product = f"{self.read(a, unsigned)} * {self.read(b, unsigned)}"
            return (f"(u16)((u32){product})" if size == 2 else product), unsigned
        if part == "hi":
            return f"mul_hi<{type_}>({self.read(a, type_)}, {self.read(b, type_)})", bits_type(size)
        if part == "wide" and size < 8:
            wide = type_[0] + str(16 * size)
            return f"(({bits_type(2 * size)})(({wide}){self.read(a, type_)} * {self.read(b, type_)}))", bits_type(
                2 * size
            )
        raise RefusedError("neither .lo nor .hi nor .wide")

    def op_mul(self, i: Instruction) -> str:
        type_ = i.type(INTEGERS - BITS, FLOATS)
        if type_ in FLOATS:
            i.rounds_to_nearest()
            saturated = i.pop("sat")
            d, a, b = i.done(3)
            product = f"{self.read(a, type_)} * {self.read(b, type_)}"
            return self.write(d, type_, f"saturated<{type_}>({product})" if saturated else product)
        part = i.pop("lo", "hi", "wide")
        d, a, b = i.done(3)
        product, of = self.product(a, b, type_, part)
        return self.write(d, of, product)

    def mad(self, i: Instruction, carry: bool) -> str:
        """``mad`` and ``madc``."""
        type_ = i.type(INTEGERS - BITS, FLOATS)
        if type_ in FLOATS:
            return self.fused(i, type_)
        part, out = i.pop("lo", "hi", "wide"), i.pop("cc")
        d, a, b, c = i.done(4)
        product, of = self.product(a, b, type_, part)
        added = self.read(c, of)
        if not out and not carry:
            return self.write(d, of, f"{product} + {added}")
        self.uses_carry = True
        return self.write(
            d, of, f"add_carry<{of}>({product}, {added}, {'CF' if carry else 0}, {'CF' if out else 'NF'})"
        )

    def op_mad(self, i: Instruction) -> str:
        return self.mad(i, False)

    def op_madc(self, i: Instruction) -> str:
        if "cc" in i.modifiers:
            return self.mad(i, True)
        return f"{{ u32 NF; {self.mad(i, True)} }}"

    def fused(self, i: Instruction, type_: str) -> str:
        """a b + c with one rounding."""
        i.rounds_to_nearest()
        saturated = i.pop("sat")
        d, a, b, c = i.done(4)
        name = "__builtin_fmaf" if type_ == "f32" else "__builtin_fma"
        value = f"{name}({self.read(a, type_)}, {self.read(b, type_)}, {self.read(c, type_)})"
        return self.write(d, type_, f"saturated<{type_}>({value})" if saturated else value)

    def op_fma(self, i: Instruction) -> str:
        return self.fused(i, i.type(FLOATS))

    def op_mul24(self, i: Instruction) -> str:
        type_, part = i.type({"u32", "s32"}), i.pop("lo", "hi")
        d, a, b = i.done(3)
        high = "true" if part == "hi" else "false"
        return self.write(d, "u32", f"mul24<{type_}, {high}>({self.read(a, type_)}, {self.read(b, type_)})")

    def op_mad24(self, i: Instruction) -> str:
        type_, part = i.type({"u32", "s32"}), i.pop("lo", "hi")
        d, a, b, c = i.done(4)
        high = "true" if part == "hi" else "false"
        product = f"mul24<{type_}, {high}>({self.read(a, type_)}, {self.read(b, type_)})"
        return self.write(d, "u32", f"{product} + {self.read(c, 'u32')}")

    def op_div(self, i: Instruction) -> str:
        type_ = i.type(INTEGERS - BITS, FLOATS)
        if type_ in FLOATS:
            i.rounds_to_nearest()
        d, a, b = i.done(3)
        x, y = self.read(a, type_), self.read(b, type_)
        return self.write(d, type_, f"{x} / {y}" if type_ in FLOATS else f"divide<{type_}>({x}, {y})")

    def op_rem(self, i: Instruction) -> str:
        type_ = i.type(INTEGERS - BITS)
        d, a, b = i.done(3)
        return self.write(d, type_, f"remainder<{type_}>({self.read(a, type_)}, {self.read(b, type_)})")

    def op_rcp(self, i: Instruction) -> str:
        type_ = i.type(FLOATS)
        i.rounds_to_nearest()
        d, a = i.done(2)
        return self.write(d, type_, f"1 / {self.read(a, type_)}")

    def op_sqrt(self, i: Instruction) -> str:
        type_ = i.type(FLOATS)
        i.rounds_to_nearest()
        d, a = i.done(2)
        return self.write(d, type_, f"root({self.read(a, type_)})")

    def op_neg(self, i: Instruction) -> str:
        type_ = i.type(SIGNED, FLOATS)
        d, a = i.done(2)
        return self.write(d, type_, f"-({self.read(a, type_ if type_ in FLOATS else bits_type(size_of(type_)))})")

    def op_abs(self, i: Instruction) -> str:
        type_ = i.type(SIGNED, FLOATS)
        d, a = i.done(2)
        if type_ in FLOATS:
            name = "__builtin_fabsf" if type_ == "f32" else "__builtin_fabs"
            return self.write(d, type_, f"{name}({self.read(a, type_)})")
        unsigned = bits_type(size_of(type_))
        x = self.read(a, unsigned)
        return self.write(d, unsigned, f"{self.read(a, type_)} < 0 ? ({unsigned})-{x} : {x}")

    def least_or_most(self, i: Instruction, name: str) -> str:
        """``min`` and ``max``."""
        type_ = i.type(INTEGERS - BITS, FLOATS)
        nan = type_ in FLOATS and i.pop("NaN")
        d, a, b = i.done(3)
        x, y = self.read(a, type_), self.read(b, type_)
        value = f"{name}<{type_}>({x}, {y})"
        return self.write(d, type_, f"or_nan<{type_}>({x}, {y}, {value})" if nan else value)

    def op_min(self, i: Instruction) -> str:
        return self.least_or_most(i, "lesser")

    def op_max(self, i: Instruction) -> str:
        return self.least_or_most(i, "greater")

    def op_sad(self, i: Instruction) -> str:
        type_ = i.type(INTEGERS - BITS)
        d, a, b, c = i.done(4)
        x, y, unsigned = self.read(a, type_), self.read(b, type_), bits_type(size_of(type_))
        difference = f"({x} < {y} ? ({unsigned}){y} - ({unsigned}){x} : ({unsigned}){x} - ({unsigned}){y})"
        return self.write(d, unsigned, f"{difference} + {self.read(c, unsigned)}")

    def op_copysign(self, i: Instruction) -> str:
        type_ = i.type(FLOATS)
        d, a, b = i.done(3)
        name = "__builtin_copysignf" if type_ == "f32" else "__builtin_copysign"
        return self.write(d, type_, f"{name}({self.read(b, type_)}, {self.read(a, type_)})")

    def op_testp(self, i: Instruction) -> str:
        type_ = i.type(FLOATS)
        test = i.pop("finite", "infinite", "number", "notanumber", "normal", "subnormal")
        d, a = i.done(2)
        x = self.read(a, type_)
        tests = {
            "finite": f"__builtin_isfinite({x})",
            "infinite": f"__builtin_isinf({x}) != 0",
            "number": f"{x} == {x}",
            "notanumber": f"{x} != {x}",
            "normal": f"is_normal({x})",
            "subnormal": f"is_subnormal({x})",
        }
        if test is None:
            raise RefusedError("no test")
        return self.write(d, "pred", tests[test])

    # bits

    def logical(self, i: Instruction, sign: str) -> str:
        """``and``, ``or``, ``xor``."""
        type_ = i.type(BITS, {"pred"})
        d, a, b = i.done(3)
        return self.write(d, type_, f"{self.read(a, type_)} {sign} {self.read(b, type_)}")

    def op_and(self, i: Instruction) -> str:
        return self.logical(i, "&")

    def op_or(self, i: Instruction) -> str:
        return self.logical(i, "|")

    def op_xor(self, i: Instruction) -> str:
        return self.logical(i, "^")

    def op_not(self, i: Instruction) -> str:
        type_ = i.type(BITS, {"pred"})
        d, a = i.done(2)
        return self.write(d, type_, f"{'!' if type_ == 'pred' else '~'}({self.read(a, type_)})")

    def op_cnot(self, i: Instruction) -> str:
        type_ = i.type(BITS)
        d, a = i.done(2)
        return self.write(d, type_, f"{self.read(a, type_)} == 0 ? 1u : 0u")

    def op_lop3(self, i: Instruction) -> str:
        type_ = i.type({"b32"})
        d, a, b, c, table = i.done(5)
        value = integer(table)
        if value is None or not 0 <= value < 256:
            raise RefusedError("no table of truth")
        operands = ", ".join(self.read(x, type_) for x in (a, b, c))
        return self.write(d, type_, f"logic<{value}>({operands})")

    def op_shl(self, i: Instruction) -> str:
        type_ = i.type(BITS)
        d, a, b = i.done(3)
        return self.write(d, type_, self.shifted("<<", "shift_left", self.read(a, type_), b, bits_type(size_of(type_))))

    def op_shr(self, i: Instruction) -> str:
        type_ = i.type(INTEGERS)
        d, a, b = i.done(3)
        kind = type_ if type_[0] == "s" else bits_type(size_of(type_))
        return self.write(d, type_, self.shifted(">>", "shift_right", self.read(a, type_), b, kind))

    def shifted(self, sign: str, name: str, value: str, by: str, type_: str) -> str:
        """A shift, which a constant amount makes simple."""
        amount = integer(by)
        if amount is not None and 0 <= amount < 8 * size_of(type_):
            return f"{value} {sign} {amount}"
        return f"{name}<{type_}>({value}, {self.read(by, 'u32')})"

    def op_shf(self, i: Instruction) -> str:
        i.type({"b32"})
        way, mode = i.pop("l", "r"), i.pop("clamp", "wrap")
        d, a, b, c = i.done(4)
        if way is None or mode is None:
            raise RefusedError("no direction or no mode")
        name = "funnel_left" if way == "l" else "funnel_right"
        operands = ", ".join(self.read(x, "u32") for x in (a, b, c))
        return self.write(d, "u32", f"{name}<{'true' if mode == 'wrap' else 'false'}>({operands})")

    def op_popc(self, i: Instruction) -> str:
        type_ = i.type({"b32", "b64"})
        d, a = i.done(2)
        name = "__builtin_popcountll" if type_ == "b64" else "__builtin_popcount"
        return self.write(d, "u32", f"{name}({self.read(a, type_)})")

    def op_clz(self, i: Instruction) -> str:
        type_ = i.type({"b32", "b64"})
        d, a = i.done(2)
        return self.write(d, "u32", f"count_zeros({self.read(a, type_)})")

    def op_bfind(self, i: Instruction) -> str:
        type_ = i.type({"u32", "s32", "u64", "s64"})
        shift = "true" if i.pop("shiftamt") else "false"
        d, a = i.done(2)
        return self.write(d, "u32", f"find_bit<{type_}, {shift}>({self.read(a, type_)})")

    def op_brev(self, i: Instruction) -> str:
        type_ = i.type({"b32", "b64"})
        d, a = i.done(2)
        return self.write(d, type_, f"reverse({self.read(a, type_)})")

    def op_bfe(self, i: Instruction) -> str:
        type_ = i.type({"u32", "s32", "u64", "s64"})
        d, a, b, c = i.done(4)
        operands = f"{self.read(a, type_)}, {self.read(b, 'u32')}, {self.read(c, 'u32')}"
        return self.write(d, bits_type(size_of(type_)), f"extract<{type_}>({operands})")

    def op_bfi(self, i: Instruction) -> str:
        type_ = i.type({"b32", "b64"})
        d, a, b, c, n = i.done(5)
        operands = f"{self.read(a, type_)}, {self.read(b, type_)}, {self.read(c, 'u32')}, {self.read(n, 'u32')}"
        return self.write(d, type_, f"insert<{bits_type(size_of(type_))}>({operands})")

    def op_prmt(self, i: Instruction) -> str:
        mode = i.pop("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
        i.type({"b32"})
        d, a, b, c = i.done(4)
        selector = self.read(c, "u32")
        if mode:
            selector = f"selector_{mode}({selector})"
        return self.write(d, "u32", f"permute({self.read(a, 'u32')}, {self.read(b, 'u32')}, {selector})")

    # comparisons and choices

    def compared(self, i: Instruction, type_: str, a: str, b: str) -> str:
        """The comparison that the first modifier names."""
        word = i.modifiers.pop(0) if i.modifiers else ""
        x, y = self.read(a, type_), self.read(b, type_)
        if type_ in FLOATS:
            if word == "ne":
                return f"({x} < {y} || {x} > {y})"
            if word in COMPARISONS:
                return COMPARISONS[word].format(x, y)
        elif word in INTEGER_COMPARISONS:
            if (type_ in BITS and word not in ("eq", "ne")) or (type_ in SIGNED and word in UNSIGNED_ONLY):
                raise RefusedError(f".{word} of .{type_}")
            return f"{x} {INTEGER_COMPARISONS[word]} {y}"
        raise RefusedError(f"no comparison .{word} of .{type_}")

    def combined(self, i: Instruction, value: str, operands: list[str]) -> str:
        """A comparison, and what ``.and``, ``.or`` or ``.xor`` makes of it with a predicate."""
        word = i.pop("and", "or", "xor")
        if word is None:
            return value
        sign = {"and": "&", "or": "|", "xor": "^"}[word]
        return f"({value}) {sign} {self.read(operands.pop(), 'pred')}"

    def op_setp(self, i: Instruction) -> str:
        type_ = i.type(INTEGERS - {"b8", "s8", "u8"}, FLOATS)
        operands = i.operands
        d, a, b = operands[:3]
        value = self.compared(i, type_, a, b)
        word = next((word for word in i.modifiers if word in ("and", "or", "xor")), None)
        both = [
            self.combined(Instruction(f"set.{word}" if word else "set"), v, operands[:]) for v in (value, f"!({value})")
        ]
        i.pop("and", "or", "xor")
        i.done(4 if word else 3)
        names = [name.strip() for name in d.split("|")]
        done = [self.write(name, "pred", v) for name, v in zip(names, both, strict=False)]
        if len(names) == 1:
            return done[0]
        # the second one reads what the first one may write over
        return f"{{ const bool Q = {both[1]}; {done[0]} {self.write(names[1], 'pred', 'Q')} }}"

    def op_set(self, i: Instruction) -> str:
        type_ = i.type(INTEGERS - {"b8", "s8", "u8"}, FLOATS)
        to = i.type({"u32", "s32", "f32"})
        operands = i.operands[:]
        d, a, b = operands[:3]
        value = self.compared(i, type_, a, b)
        value = self.combined(i, value, operands)
        i.operands = operands
        i.done(3)
        yes, no = ("1.0f", "0.0f") if to == "f32" else ("~0u", "0u")
        return self.write(d, "f32" if to == "f32" else "u32", f"({value}) ? {yes} : {no}")

    def op_selp(self, i: Instruction) -> str:
        type_ = i.type(INTEGERS, FLOATS)
        d, a, b, p = i.done(4)
        plain_type = type_ if type_ in FLOATS else bits_type(size_of(type_))
        yes, no = self.read(a, plain_type), self.read(b, plain_type)
        return self.write(d, plain_type, f"{self.read(p, 'pred')} ? {yes} : {no}")

    def op_slct(self, i: Instruction) -> str:
        by = i.type({"s32", "f32"})
        type_ = i.type(INTEGERS, FLOATS)
        d, a, b, c = i.done(4)
        plain_type = type_ if type_ in FLOATS else bits_type(size_of(type_))
        return self.write(
            d, plain_type, f"{self.read(c, by)} >= 0 ? {self.read(a, plain_type)} : {self.read(b, plain_type)}"
        )

    # moves and conversions

    def op_mov(self, i: Instruction) -> str:
        type_ = i.type()
        d, a = i.done(2)
        if d.startswith("{"):
            return self.unpack(split(d[1:-1]), a, type_)
        if a.startswith("{"):
            parts = split(a[1:-1])
            size = size_of(type_) // len(parts)
            whole, part = bits_type(size_of(type_)), bits_type(size)
            value = " | ".join(
                f"({whole}){self.read(x, part)}" + (f" << {8 * size * n}" if n else "") for n, x in enumerate(parts)
            )
            return self.write(d, whole, value)
        if type_ == "pred" or type_ in FLOATS:
            return self.write(d, type_, self.read(a, type_))
        unsigned = bits_type(size_of(type_))
        to, of = self.register(d), self.register(a)
        same_float = a[:2].lower() in ("0f", "0d") if of is None else to is not None and of.type == to.type
        if same_float and to is not None and to.type in FLOATS and size_of(to.type) == size_of(type_):
            return self.write(d, to.type, self.read(a, to.type))
        return self.write(d, unsigned, self.read(a, unsigned))

    def unpack(self, parts: list[str], a: str, type_: str) -> str:
        """``mov.b64 {x, y}, z``."""
        size = size_of(type_) // len(parts)
        part, done = bits_type(size), []
        for n, name in enumerate(parts):
            if name != "_":
                done.append(self.write(name, part, f"({part})(W >> {8 * size * n})"))
        whole = bits_type(size_of(type_))
        return f"{{ const {whole} W = {self.read(a, whole)}; {' '.join(done)} }}"

    def op_cvt(self, i: Instruction) -> str:
        source, to = i.type(INTEGERS, FLOATS), i.type(INTEGERS, FLOATS)
        rounding, saturated = i.pop(*ROUNDINGS, *WHOLE_ROUNDINGS), i.pop("sat")
        d, a = i.done(2)
        x = self.read(a, source)
        cast = to.replace("b", "u")
        if source in INTEGERS and to in INTEGERS:
            if rounding:
                raise RefusedError("a rounding of integers")
            return self.write(d, cast, f"clamped<{cast}>({x})" if saturated else f"({cast}){x}")
        if source in INTEGERS:
            if rounding not in ROUNDINGS:
                raise RefusedError("no rounding of a number")
            value = f"({to}){x}" if rounding == "rn" else f"from_integer<{to}, {ROUNDINGS[rounding]}>({x})"
        elif to in INTEGERS:
            if rounding not in WHOLE_ROUNDINGS:
                raise RefusedError("no rounding to an integer")
            return self.write(d, cast, f"to_integer<{cast}, {WHOLE_ROUNDINGS[rounding]}>({x})")
        elif source == to:
            if rounding in ROUNDINGS:
                raise RefusedError("a rounding of what is not narrowed")
            value = f"to_whole<{WHOLE_ROUNDINGS[rounding]}>({x})" if rounding else x
        elif to == "f64":
            if rounding:
                raise RefusedError("a rounding of what is not narrowed")
            value = f"(f64){x}"
        else:
            if rounding not in ROUNDINGS:
                raise RefusedError("no rounding of a number")
            value = f"(f32){x}" if rounding == "rn" else f"narrowed<f32, {ROUNDINGS[rounding]}>({x})"
        return self.write(d, to, f"saturated<{to}>({value})" if saturated else value)

    def op_cvta(self, i: Instruction) -> str:
        type_ = i.type({"u64"})
        to, space = i.pop("to"), i.pop(*SPACES)
        d, a = i.done(2)
        if space is None:
            raise RefusedError("no space")
        value = self.read(a, type_)
        if space.startswith("shared"):
            value = f"{value} - S" if to else f"S + (u32)({value})"
        return self.write(d, type_, value)

    def op_isspacep(self, i: Instruction) -> str:
        space = i.pop(*SPACES)
        d, a = i.done(2)
        if space != "shared" and space != "shared::cta":
            raise RefusedError(f"not known of .{space}")
        return self.write(d, "pred", f"is_shared({self.read(a, 'u64')})")

    # memory

    def memory(self, i: Instruction) -> tuple[str, str, int]:
        """Type, space and length of the vector of a load or store."""
        type_ = i.type(INTEGERS, FLOATS)
        vector = i.pop("v2", "v4", "v8")
        space = i.pop(*SPACES) or ""
        i.modifiers = [word for word in i.modifiers if not HINTS.fullmatch(word)]
        return type_, space, int(vector[1]) if vector else 1

    def load(self, i: Instruction) -> str:
        """``ld`` and ``ldu``."""
        type_, space, n = self.memory(i)
        d, a = i.done(2)
        address = self.address(a, space)
        names = split(d[1:-1]) if d.startswith("{") else [d]
        if len(names) != n:
            raise RefusedError("another number of registers")
        if n == 1:
            return self.loaded(d, type_, "at", address)
        size = size_of(type_)
        done = [self.loaded(name, type_, "raw", f"A + {k * size}" if k else "A") for k, name in enumerate(names)]
        return f"{{ const u64 A = aligned{n * size}({address}); {' '.join(done)} }}"

    def loaded(self, name: str, type_: str, how: str, address: str) -> str:
        """The statement that loads one register."""
        if name == "_":
            return ""
        register = self.destination(name)
        assert register is not None
        if register.type != "bool" and size_of(register.type) == size_of(type_):
            return f"{register.name} = {how}_{register.type}({address});"
        return self.write(name, type_, f"{how}_{type_.replace('b', 'u')}({address})")

    def op_ld(self, i: Instruction) -> str:
        return self.load(i)

    def op_ldu(self, i: Instruction) -> str:
        return self.load(i)

    def op_st(self, i: Instruction) -> str:
        type_, space, n = self.memory(i)
        a, value = i.done(2)
        address = self.address(a, space)
        parts = split(value[1:-1]) if value.startswith("{") else [value]
        if len(parts) != n:
            raise RefusedError("another number of registers")
        size = size_of(type_)
        done = []
        for k, part in enumerate(parts):
            register = self.register(part)
            same = register is not None and register.type != "bool" and size_of(register.type) == size
            as_type = register.type if register is not None and same else type_ if type_ in FLOATS else bits_type(size)
            where = f"at_{as_type}({address})" if n == 1 else f"raw_{as_type}(A{f' + {k * size}' if k else ''})"
            done.append(f"{where} = {self.read(part, as_type)};")
        if n == 1:
            return done[0]
        return f"{{ const u64 A = aligned{n * size}({address}); {' '.join(done)} }}"

    def op_cp(self, i: Instruction) -> str:
        if i.pop("async") is None:
            raise RefusedError("not known without .async")
        if i.pop("commit_group"):
            i.done(0)
            return "penstock::simt::commit();"
        if i.pop("wait_all"):
            i.done(0)
            return "{ penstock::simt::commit(); penstock::simt::wait(0); }"
        if i.pop("wait_group"):
            (n,) = i.done(1)
            value = integer(n)
            if value is None or value < 0:
                raise RefusedError("no number of groups")
            return f"penstock::simt::wait({value});"
        cached, spaces = i.pop("ca", "cg"), (i.pop("shared", "shared::cta"), i.pop("global"))
        i.modifiers = [word for word in i.modifiers if not re.fullmatch(r"L2::\w+", word)]
        to, source, size = i.done(3)
        bytes_ = integer(size)
        if cached is None or None in spaces or bytes_ not in ((4, 8, 16) if cached == "ca" else (16,)):
            raise RefusedError("no copy of 4, 8 or 16 bytes from .global to .shared")
        return f"copy_async({self.address(to, 'shared')}, {self.address(source, 'global')}, {bytes_});"

    def nothing(self, i: Instruction) -> str:
        """What only orders or prefetches."""
        return ""

    op_membar = op_fence = op_prefetch = op_prefetchu = nothing

    # control

    def op_bar(self, i: Instruction) -> str:
        i.pop("cta")
        i.pop("aligned")
        if i.pop("sync") is None or i.done(1) != ["0"]:
            raise RefusedError("no barrier of the whole block")
        return "penstock::simt::sync();"

    op_barrier = op_bar

    def op_bra(self, i: Instruction) -> str:
        i.pop("uni")
        (label,) = i.done(1)
        return f"goto {self.label(label)};"

    def op_brx(self, i: Instruction) -> str:
        i.pop("uni")
        if i.pop("idx") is None:
            raise RefusedError("not known without .idx")
        index, name = i.done(2)
        targets = next(
            (self.targets[block, name] for block in reversed(self.blocks) if (block, name) in self.targets), None
        )
        if targets is None:
            raise RefusedError(f"no targets {name}")
        cases = " ".join(f"case {n}: goto {self.label(target)};" for n, target in enumerate(targets))
        value = self.read(index, "u32")
        return f'switch ({value}) {{ {cases} default: fail("a branch to none of its targets", {value}); }}'

    def op_call(self, i: Instruction) -> str:
        i.pop("uni")
        i.done()
        match = re.fullmatch(
            r"(?:\((?P<results>[^)]*)\)\s*,\s*)?(?P<name>[\w$%]+)\s*(?:,\s*\((?P<arguments>[^)]*)\)\s*)?"
            r"(?:,\s*(?P<prototype>[\w$]+)\s*)?",
            i.rest,
        )
        if match is None:
            raise RefusedError("no call that is known here")
        values = []
        for name in split(match["results"] or "") + split(match["arguments"] or ""):
            variable = self.variable(name)
            if variable is None or variable.space != "param":
                raise RefusedError(f"{name} is no parameter")
            values.append(variable.address)
        given = ", ".join(values)
        pointer = self.register(match["name"])
        if pointer is not None:
            if match["prototype"] is None or pointer.type != "u64":
                raise RefusedError("a call without a prototype")
            return f"((void (*)({', '.join(['u64'] * len(values))})){pointer.name})({given});"
        called = self.module.functions_by_name.get(match["name"])
        if called is None or called.body is None:
            raise RefusedError(f"{match['name']} is not defined here")
        if len(values) != len(called.results) + len(called.parameters):
            raise RefusedError("another number of parameters")
        return f"{self.module.function_name(called.name)}({given});"

    def op_ret(self, i: Instruction) -> str:
        i.pop("uni")
        i.done(0)
        return "return;"

    def op_exit(self, i: Instruction) -> str:
        i.done(0)
        if not self.of.is_entry:
            raise RefusedError("the end of a thread within a function")
        return "return;"

    def op_trap(self, i: Instruction) -> str:
        i.done(0)
        return 'fail("trap", 0);'
