"""Read what :func:`torch.save` pickled without unpickling it: nothing is imported, called or built, only described.

A pickle is a program for a small machine with a stack. :class:`Machine` runs those instructions that occur in files of
tensors, and where the program asks for a function to be called, it notes what that would have made: a
:class:`StoredTensor`, or an :class:`Other`. So a file from a stranger runs no code, whatever is in it, and takes no
more memory than it is long. Instructions: ``pickletools.py`` of Python; what torch writes: ``torch/_utils.py``.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any

import torch

from .archive import Damage

MOST_INSTRUCTIONS = 1_000_000  # a checkpoint of 2,500 tensors has 110,000
LONGEST_GLOBAL = 500
MOST_PARTS = 16  # arguments of a function, dimensions of a tensor: no instruction takes long
NOT_KNOWN = "is a tensor of a kind that only its maker can read"


class ForeignObject(Exception):
    """The pickle asks for something that is no tensor, by this name."""


@dataclass(frozen=True)
class Global:
    """A function, class or constant that the pickle names."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are views of: ``key`` names its record, ``count`` is in numbers of ``dtype``."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage; offset and strides are in numbers. ``fault`` says why it is not an ordinary tensor."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    fault: str | None = None


@dataclass(frozen=True)
class Other:
    """Something harmless that is no tensor, such as a size; or a tensor without numbers, if there is a ``fault``."""

    name: str
    fault: str | None = None


STORAGES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in {
        "BFloat16": torch.bfloat16,
        "Half": torch.float16,
        "Float": torch.float32,
        "Double": torch.float64,
        "ComplexHalf": torch.complex32,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
        "Bool": torch.bool,
        "Byte": torch.uint8,
        "Char": torch.int8,
        "Short": torch.int16,
        "Int": torch.int32,
        "Long": torch.int64,
        "QInt8": torch.qint8,
        "QUInt8": torch.quint8,
        "QInt32": torch.qint32,
    }.items()
} | {"torch.storage.UntypedStorage": torch.uint8}
ORDERED_DICT = "collections.OrderedDict"
ORDINARY = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
ARGUMENTS = dict(zip((*ORDINARY, *PARAMETER), [(4,), (6, 7), (3,), (4,)], strict=True))  # how many each takes
KINDS = {  # functions that make tensors of other kinds, and what is said about those
    "torch._utils._rebuild_sparse_tensor": "is a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "is a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "is a nested tensor",
    "torch._utils._rebuild_qtensor": "is a quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "is a tensor without numbers, of the device meta",
    "torch._utils._rebuild_tensor_v3": NOT_KNOWN,
    "torch._utils._rebuild_device_tensor_from_numpy": NOT_KNOWN,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": NOT_KNOWN,
    "torch._utils._rebuild_wrapper_subclass": NOT_KNOWN,
    "torch._tensor._rebuild_from_type_v2": NOT_KNOWN,
}
BITS = {"neg": "negative", "conj": "conjugate"}
HARMLESS = {  # what else the state of a training has, which may then be named as that
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.set",
    "collections.Counter",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
}
KNOWN = {ORDERED_DICT, *STORAGES, *ORDINARY, *PARAMETER, *KINDS, *HARMLESS}


@dataclass(frozen=True)
class Pickle:
    """What a pickle describes, the storages that it refers to by their keys, and where it ends."""

    value: Any
    storages: dict[str, Storage]
    end: int


def read_pickle(data: bytes, position: int = 0) -> Pickle:
    """Return what the pickle at ``position`` describes.

    Dictionaries, lists, tuples, texts and numbers are themselves; for the rest see the module.

    Raises:
        Damage: it is no pickle of protocol 2, cut off, or too long, or what it says makes no sense.
        ForeignObject: it asks for something that has no place in a checkpoint.
    """
    machine = Machine(data, position)
    try:
        return Pickle(machine.run(), machine.storages, machine.position)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):  # for example an empty stack
        raise Damage("its pickle makes no sense") from None


class Machine:
    """Runs one pickle."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        """Return what the instructions up to the next STOP leave on the stack."""
        for _ in range(MOST_INSTRUCTIONS):
            instruction = self.data[self.position]
            self.position += 1
            if instruction == STOP:
                return self.stack.pop()
            INSTRUCTIONS[instruction](self)
        raise Damage(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions")

    def take(self, length: int) -> bytes:
        """Return the next bytes of the pickle."""
        start = self.position
        self.position += length
        if self.position > len(self.data):
            raise Damage("its pickle is cut off")
        return self.data[start : self.position]

    def check_protocol(self) -> None:
        protocol = self.number(BYTE)
        if protocol != 2:
            raise Damage(f"its pickle has protocol {protocol}, and torch.save writes 2")

    def number(self, form: Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def line(self) -> str:
        """Return the text up to the end of the line."""
        end = self.data.index(b"\n", self.position, self.position + LONGEST_GLOBAL)
        text = self.take(end - self.position).decode()
        self.position += 1
        return text

    def items(self) -> list[Any]:
        """Return what was put on the stack after the last mark, and take it away."""
        above, self.stack = self.stack, self.marks.pop()
        return above

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_tuple(self, length: int) -> None:
        start = len(self.stack) - length
        if start < 0:
            raise Damage("its pickle makes no sense")
        self.stack[start:] = [tuple(self.stack[start:])]

    def set_items(self, pairs: list[Any]) -> None:
        """Fill the dictionary on top of the stack. Keys are texts and numbers: others may be nested."""
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(pairs) % 2:
            raise Damage("its pickle makes no sense")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                raise Damage("it has names that are neither texts nor numbers")
            target[key] = value

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Damage("its pickle makes no sense")
        target.extend(items)

    def find(self) -> None:
        """Push what the pickle names, as a name."""
        name = f"{self.line()}.{self.line()}"
        if name not in KNOWN and not is_constant(name):
            raise ForeignObject(name)
        self.stack.append(Global(name))

    def call(self) -> None:
        """Replace a function and its arguments by what the function would make of them."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or len(arguments) > MOST_PARTS or type(function) is not Global:
            raise Damage("its pickle makes no sense")
        self.stack.append(result_of(function.name, arguments))

    def set_state(self) -> None:
        """Leave out attributes, such as ``_metadata`` of a ``state_dict``."""
        if type(self.stack.pop()) is not dict or type(self.stack[-1]) is not OrderedDict:
            raise Damage("its pickle makes no sense")

    def refer(self) -> None:
        """Replace the description of a storage by a :class:`Storage`."""
        parts = self.stack.pop()
        if type(parts) is not tuple or len(parts) not in (5, 6) or parts[5:] not in ((), (None,)):
            raise Damage("its pickle makes no sense")
        kind, storage_type, key, _, count = parts[:5]
        if kind != "storage" or type(storage_type) is not Global or type(key) is not str or not is_count(count):
            raise Damage("its pickle makes no sense")
        storage = Storage(key, STORAGES[storage_type.name], count)
        if self.storages.setdefault(key, storage) != storage:
            raise Damage("its pickle makes two things of the same numbers")
        self.stack.append(storage)


def is_constant(name: str) -> bool:
    """Say whether a name is that of a dtype or the like."""
    constant = getattr(torch, name.removeprefix("torch."), None) if name.startswith("torch.") else None
    return isinstance(constant, torch.dtype | torch.layout | torch.qscheme)


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def result_of(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a function would make: a description of a tensor, an empty dictionary, or something else."""
    if name == ORDERED_DICT:
        if arguments not in ((), ([],)):  # Python 2 wrote pairs
            raise Damage("its pickle is one of Python 2")
        return OrderedDict()
    if name in ARGUMENTS and len(arguments) not in ARGUMENTS[name]:
        raise Damage("its pickle has a tensor that makes no sense")
    if name in ORDINARY:
        return view_of(*arguments)
    if name in PARAMETER:
        if type(arguments[0]) is not StoredTensor or type(arguments[1]) is not bool:
            raise Damage("its pickle has a parameter that makes no sense")
        return arguments[0]
    if fault := KINDS.get(name):
        of = next((argument for argument in arguments if isinstance(argument, Storage)), None)
        return StoredTensor(of, 0, (), (), fault) if of else Other("Tensor", fault)
    return Other(name.rpartition(".")[2])


def view_of(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: object = None,
    bits: dict[str, bool] | None = None,
) -> StoredTensor:
    """Return the description of a tensor; its argument names are those of torch.

    Raises:
        Damage: they are not what they should be. Whether the tensor lies within its storage is not looked at here.
    """
    known = type(storage) is Storage and type(size) is type(stride) is tuple and len(size) == len(stride) <= MOST_PARTS
    known = known and type(requires_grad) is bool and is_bits(bits)
    if not known or not all(map(is_count, (offset, *size, *stride))):
        raise Damage("its pickle has a tensor that makes no sense")
    bit = next((BITS[name] for name, says in (bits or {}).items() if says), None)
    fault = f"is a tensor with the {bit} bit, so that its numbers are others than those in the file"
    return StoredTensor(storage, offset, size, stride, fault if bit else None)


def is_bits(value: object) -> bool:
    return value is None or (type(value) is dict and value.keys() <= BITS.keys())


STOP = ord(".")
BYTE, SHORT, INT, UNSIGNED, FLOAT = (Struct(form) for form in ("<B", "<H", "<i", "<I", ">d"))


def push(make: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    """Return an instruction that pushes something."""

    def instruction(machine: Machine) -> None:
        value = make(machine)  # which may change what the stack is
        machine.stack.append(value)

    return instruction


INSTRUCTIONS: dict[int, Callable[[Machine], None]] = {
    ord(code): instruction
    for code, instruction in {
        "\x80": Machine.check_protocol,
        "q": lambda m: m.put(m.number(BYTE)),
        "r": lambda m: m.put(m.number(UNSIGNED)),
        "h": push(lambda m: m.memo[m.number(BYTE)]),
        "j": push(lambda m: m.memo[m.number(UNSIGNED)]),
        "K": push(lambda m: m.number(BYTE)),
        "M": push(lambda m: m.number(SHORT)),
        "J": push(lambda m: m.number(INT)),
        "\x8a": push(lambda m: int.from_bytes(m.take(m.number(BYTE)), "little", signed=True)),
        "G": push(lambda m: m.number(FLOAT)),
        "X": push(lambda m: m.take(m.number(UNSIGNED)).decode("utf-8", "surrogatepass")),
        "U": push(lambda m: m.take(m.number(BYTE)).decode("ascii")),
        "N": push(lambda m: None),
        "\x88": push(lambda m: True),
        "\x89": push(lambda m: False),
        "}": push(lambda m: {}),
        "]": push(lambda m: []),
        ")": push(lambda m: ()),
        "(": Machine.mark,
        "t": push(lambda m: tuple(m.items())),
        "\x85": lambda m: m.push_tuple(1),
        "\x86": lambda m: m.push_tuple(2),
        "\x87": lambda m: m.push_tuple(3),
        "u": lambda m: m.set_items(m.items()),
        "s": Machine.set_item,
        "e": lambda m: m.append(m.items()),
        "a": lambda m: m.append([m.stack.pop()]),
        "c": Machine.find,
        "R": Machine.call,
        "b": Machine.set_state,
        "Q": Machine.refer,
    }.items()
}
