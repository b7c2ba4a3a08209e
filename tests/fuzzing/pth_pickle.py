"""What can be wrong with the pickle in a checkpoint, in an archive whose checksums are right."""

import pickletools
import random
import struct
from itertools import pairwise
from typing import Any

import torch

from .archive import Record, read_archive, write_archive
from .pickles import ORDERED, Call, Global, Raw, Stored, TensorSpec, opcodes, pickled
from .runner import Kinds
from .values import odd_bytes, odd_name, odd_number, spoil

KINDS = Kinds()
STORAGES = ["FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "IntStorage",
            "CharStorage", "ByteStorage", "BoolStorage", "ComplexFloatStorage", "QInt8Storage", "QUInt4x2Storage",
            "UntypedStorage", "TypedStorage", "Tensor", "Float8_e4m3fnStorage", "nonsense", "float32",
            "dtype"]  # fmt: skip
ELSEWHERE = [Global("builtins", "eval"), Global("os", "system"), Global("torch", "load"),
             Global("builtins", "getattr"), Global("torch.nn.modules.linear", "Linear"), Global("numpy", "ndarray"),
             Global("torch", "Size"), Global("", ""), Global("a\x1b[31m", "b"), Global("x" * 10**6, "y")]  # fmt: skip
REBUILDERS = ["_rebuild_tensor", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_parameter_with_state",
              "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage",
              "_rebuild_wrapper_subclass", "_rebuild_device_tensor_from_numpy", "_rebuild_nested_tensor",
              "_rebuild_sparse_csr_tensor"]  # fmt: skip


class Written:
    """A checkpoint as specifications of tensors, which are written as a pickle and an archive."""

    def __init__(self, model: Any):
        self.pairs: list[tuple[Any, Any]] = []
        self.storages: list[Record] = []
        for name, weight in model.weights.items():
            self.pairs.append((name, self.store(weight)))

    def store(self, weight: torch.Tensor) -> TensorSpec:
        """Put the numbers of a tensor into a record of their own."""
        key = str(len(self.storages))
        data = weight.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        self.storages.append(Record(f"archive/data/{key}".encode(), data))
        kinds = {torch.float32: "FloatStorage", torch.bfloat16: "BFloat16Storage", torch.float16: "HalfStorage"}
        kind = Global("torch", kinds[weight.dtype])
        return TensorSpec(
            kind=kind, key=key, numbers=weight.numel(), shape=tuple(weight.shape), stride=weight.contiguous().stride()
        )

    def pick(self, rng: random.Random) -> TensorSpec:
        return rng.choice(self.pairs)[1]

    def archive(self, whole: Any = None) -> bytes:
        """Return the file; ``whole`` stands in the place of the dictionary of tensors."""
        if whole is None:
            whole = Call(ORDERED.function, (), items=tuple(self.pairs))
        return with_pickle(self.storages, whole if isinstance(whole, bytes) else pickled(whole))

    def legacy(self) -> bytes:
        """Return the file in the format from before PyTorch 1.6: pickles, then size and bytes of each storage.

        torch itself names storages by their addresses, which are others each time.
        """
        whole = pickled(Call(ORDERED.function, (), items=tuple(self.pairs)))
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        keys = [spec.key for _, spec in self.pairs]
        head = pickled(0x1950A86A20F9469CFC6C) + pickled(1001) + pickled(system) + whole + pickled(keys)
        sizes = [struct.pack("<q", spec.numbers) for _, spec in self.pairs]
        return head + b"".join(size + record.data for size, record in zip(sizes, self.storages, strict=True))


def with_pickle(storages: list[Record], pickle: bytes) -> bytes:
    small = [Record(b"archive/byteorder", b"little"), Record(b"archive/version", b"3\n")]
    return write_archive([Record(b"archive/data.pkl", pickle), *small, *storages])


def odd_object(rng: random.Random) -> Any:
    """Return something that does not belong where it will stand."""
    return rng.choice([None, True, odd_number(rng), 1.5, float("nan"), odd_name(rng), b"bytes", (), (1,), [], {},
                       [1, 2], ((),), {"a": 1}, ORDERED, rng.choice(ELSEWHERE), Stored("x"), Stored(("storage",)),
                       Call(Global("torch", "Size"), ((1,),)), Global("torch", "float32")])  # fmt: skip


@KINDS()
def written_by_hand(rng, model):
    """A right checkpoint, as these kinds write it."""
    return Written(model).archive()


@KINDS(weight=12)
def odd_tensor_part(rng, model):
    """One part of what is said of one tensor is something else."""
    written = Written(model)
    part = rng.choice(
        ["kind", "key", "device", "numbers", "offset", "shape", "stride", "requires_grad", "hooks", "function"]
    )
    setattr(written.pick(rng), part, odd_object(rng))
    return written.archive()


@KINDS(weight=12)
def odd_tensor_number(rng, model):
    """A number of one tensor is another: its storage's size, its offset, a length, a stride."""
    written = Written(model)
    spec = written.pick(rng)
    part = rng.choice(["numbers", "offset", "shape", "stride"])
    value = getattr(spec, part)
    number = rng.choice(
        [odd_number(rng), *((v + rng.choice([-1, 1])) for v in (value if isinstance(value, tuple) else [value]))]
    )
    if isinstance(value, tuple) and value:
        spot = rng.randrange(len(value))
        number = (*value[:spot], number, *value[spot + 1 :])
    setattr(spec, part, number)
    return written.archive()


@KINDS()
def odd_dimensions(rng, model):
    """One dimension more or less, in shape, stride or both."""
    written = Written(model)
    spec = written.pick(rng)
    parts = rng.choice([["shape"], ["stride"], ["shape", "stride"]])
    for part in parts:
        value = getattr(spec, part)
        setattr(spec, part, rng.choice([(1, *value), (*value, 1), value[1:], value[::-1], value * 30, value * 1000]))
    return written.archive()


@KINDS(weight=8)
def stride_bomb(rng, model):
    """A huge tensor in few bytes, by strides of 0."""
    written = Written(model)
    for _, spec in rng.sample(written.pairs, rng.choice([1, 2, len(written.pairs)])):
        side = rng.choice([10**3, 10**4, 10**6, 2**31, 2**40])
        spec.shape = tuple(side if rng.random() < 0.8 else length for length in spec.shape)
        spec.stride = tuple(0 for _ in spec.shape)
    return written.archive()


@KINDS()
def consistent_bomb(rng, model):
    """A model whose tensors all agree that it is huge, in a storage of one number."""
    written = Written(model)
    huge, old = rng.choice([65536, 10**6, 10**9]), model.weights["emb.weight"].shape[0]
    for _, spec in written.pairs:
        if old in spec.shape:
            spec.shape = tuple(huge if length == old else length for length in spec.shape)
            spec.stride = tuple(
                0 if length == huge else stride for length, stride in zip(spec.shape, spec.stride, strict=True)
            )
    return written.archive()


@KINDS()
def odd_storage_class(rng, model):
    written = Written(model)
    written.pick(rng).kind = rng.choice([*(Global("torch", name) for name in STORAGES), *ELSEWHERE])
    return written.archive()


@KINDS()
def storage_of_two_classes(rng, model):
    """Two tensors in one record, which give it other types and sizes."""
    written = Written(model)
    one, other = written.pick(rng), written.pick(rng)
    one.key = other.key
    if rng.random() < 0.5:
        one.numbers = other.numbers
    return written.archive()


@KINDS()
def odd_key(rng, model):
    """The name of a storage's record leads elsewhere."""
    written = Written(model)
    keys = [
        "../data.pkl",
        "../version",
        "99",
        "0/",
        "/0",
        "",
        "\x00",
        0,
        ("0",),
        "0\n",
        "٠",
        "x" * 10**5,
        odd_name(rng),
    ]
    written.pick(rng).key = rng.choice(keys)
    return written.archive()


@KINDS()
def odd_persistent_id(rng, model):
    written = Written(model)
    spec = written.pick(rng)
    identity = ["storage", spec.kind, spec.key, spec.device, spec.numbers]
    change = rng.randrange(4)
    if change == 0:
        del identity[rng.randrange(5)]
    elif change == 1:
        identity.insert(rng.randrange(6), odd_object(rng))
    elif change == 2:
        identity[0] = odd_object(rng)
    spec.storage = rng.choice([Stored(tuple(identity)), Stored(tuple(identity)), Stored(identity),
                               Stored(odd_object(rng)), odd_object(rng), Raw(b"P0\n")])  # fmt: skip
    return written.archive()


@KINDS()
def odd_device(rng, model):
    written = Written(model)
    devices = ["cuda:0", "cuda", "meta", "mps", "xpu", "nonsense", "cpu:1", "privateuseone", "", None, 3, odd_name(rng)]
    device = rng.choice(devices)
    for _, spec in written.pairs if rng.random() < 0.5 else [rng.choice(written.pairs)]:
        spec.device = device
    return written.archive()


@KINDS()
def odd_metadata(rng, model):
    """Bits that say that the numbers are to be negated or conjugated, and other attributes."""
    written = Written(model)
    metadata = rng.choice(
        [{"neg": True}, {"conj": True}, {"neg": True, "conj": True}, {"x": 1}, {"neg": 5}, odd_object(rng)]
    )
    written.pick(rng).more = (metadata,)
    return written.archive()


@KINDS()
def odd_rebuilder(rng, model):
    """Another function of torch makes the tensor, with arguments that may be made for it."""
    written = Written(model)
    spec = written.pick(rng)
    spec.function = Global("torch._utils", rng.choice(REBUILDERS))
    if rng.random() < 0.5:
        index = rng.randrange(len(written.pairs))
        inner = (TensorSpec(**vars(spec)) if rng.random() < 0.5 else odd_object(rng), rng.random() < 0.5, ORDERED)
        if isinstance(inner[0], TensorSpec):
            inner[0].function = TensorSpec().function
        written.pairs[index] = (written.pairs[index][0], Call(spec.function, inner))
    return written.archive()


@KINDS()
def odd_callable(rng, model):
    """Something else is called: nothing of it may run."""
    written = Written(model)
    function = rng.choice(
        [*ELSEWHERE, Global("torch", "Tensor"), Global("torch", "device"), Global("collections", "Counter")]
    )
    written.pairs.append(("x", Call(function, rng.choice([(), ("echo ran > ran",), (1,), (10**9,), ([1],)]))))
    return written.archive()


@KINDS(weight=8)
def odd_tensor_name(rng, model):
    written = Written(model)
    index = rng.randrange(len(written.pairs))
    names = [
        odd_name(rng),
        odd_name(rng),
        odd_name(rng),
        None,
        5,
        b"emb.weight",
        (),
        ("a", "b"),
        True,
        1.5,
        Raw(opcodes([])),
    ]
    pair = (rng.choice(names), written.pairs[index][1])
    if rng.random() < 0.5:
        written.pairs[index] = pair
    else:
        written.pairs.insert(index, pair)
    return written.archive()


@KINDS(weight=1)
def huge_name(rng, model):
    written = Written(model)
    name = rng.choice(["x", "漢", "\x1b", "blocks."]) * rng.choice([10**6, 2 * 10**7])
    written.pairs.insert(rng.choice([0, len(written.pairs)]), (name, written.pick(rng)))
    return written.archive()


@KINDS(weight=2)
def deep_nesting(rng, model):
    """Containers in containers, as a name, as a value, or around everything."""
    depth = rng.choice([100, 1000, 100_000, 1_000_000])
    deep = rng.choice([
        Raw(b")" + b"\x85" * depth), Raw(b"]" * depth + b"a" * (depth - 1)),
        Raw(b"}" + b"K\x00}" * depth + b"s" * depth),
    ])  # fmt: skip
    written = Written(model)
    place = rng.randrange(4)
    if place == 0:
        return written.archive(deep)
    if place == 1:
        written.pick(rng).hooks = deep
    else:
        written.pairs.insert(rng.choice([0, len(written.pairs)]), (deep, 1) if place == 2 else ("x", deep))
    return written.archive()


@KINDS(weight=2)
def memo_bomb(rng, model):
    """A list of two times a list of two times ...: small in memory, endless for who prints it."""
    written = Written(model)
    levels, kind = rng.choice([10, 25, 60]), rng.choice(["list", "tuple", "dict"])
    code = b"K\x01" + b"q\x01"
    for _ in range(levels):
        again = {"list": b"]" + b"(h\x01h\x01e", "tuple": b"h\x01h\x01\x86", "dict": b"}(K\x00h\x01K\x01h\x01u"}[kind]
        code += b"0" + again + b"q\x01"
    bomb = Raw(code)
    place = rng.randrange(3)
    if place == 0:
        return written.archive(bomb)
    written.pairs.insert(0, ("x", bomb) if place == 1 or kind != "tuple" else (bomb, 1))
    return written.archive()


@KINDS(weight=1)
def many_entries(rng, model):
    """Far more names than any model has, of one and the same tensor, or of none."""
    written = Written(model)
    count = rng.choice([10_000, 300_000])
    entry = opcodes(written.pick(rng)) if rng.random() < 0.3 else b"N"
    names = b"".join(opcodes(f"blocks.0.x{number}") + entry for number in range(count if entry == b"N" else 10_000))
    return written.archive(pickled(Raw(b"}(" + names + b"u")))


@KINDS()
def self_reference(rng, model):
    """A container that holds itself."""
    written = Written(model)
    loop = rng.choice([Raw(b"]q\x01h\x01a"), Raw(b"}q\x01X\x01\x00\x00\x00ah\x01s")])
    if rng.random() < 0.5:
        return written.archive(loop)
    written.pairs.append(("x", loop))
    return written.archive()


@KINDS()
def odd_container(rng, model):
    """What holds the tensors is not a dictionary from names to tensors."""
    written = Written(model)
    pairs, plain = tuple(written.pairs), dict(written.pairs)
    return written.archive(rng.choice([
        plain, [plain], (plain,), list(plain.values()), {"model": plain}, {"state_dict": plain, "step": 5}, [], {},
        None, 0, "text", b"bytes", written.pick(rng),
        Call(Global("collections", "OrderedDict"), (), items=pairs, state={"a": 1}),
        Call(ORDERED.function, (), items=pairs, state={"_metadata": ORDERED}), {**plain, "step": 5},
        {"x": {"y": plain}}, Call(ORDERED.function, (), items=pairs, state=5), {**plain, "_strategy": odd_object(rng)},
        Call(ORDERED.function, (), items=pairs, state={"__class__": 1, "items": 2}), {"": plain},
        {odd_name(rng): plain},
    ]))  # fmt: skip


@KINDS()
def repeated_name(rng, model):
    """A name that is set twice: the last one counts."""
    written = Written(model)
    name, spec = rng.choice(written.pairs)
    written.pairs.insert(
        rng.randrange(len(written.pairs)), (name, rng.choice([spec, written.pick(rng), odd_object(rng)]))
    )
    return written.archive()


@KINDS(weight=8)
def legacy(rng, model):
    """The format from before PyTorch 1.6, as it was or spoiled: it has no checksums."""
    written = Written(model)
    for _, spec in written.pairs:
        spec.storage = Stored(("storage", spec.kind, spec.key, spec.device, spec.numbers, None))
    return written.legacy() if rng.random() < 0.2 else spoil(rng, written.legacy())


@KINDS(weight=12)
def odd_opcode(rng, model):
    """The pickle of torch with opcodes that are lost, repeated, swapped, replaced, or have other arguments."""
    records = read_archive(model.data)
    number = next(i for i, record in enumerate(records) if record.short_name == "data.pkl")
    pickle = records[number].data
    starts = [position for _, _, position in pickletools.genops(pickle)] + [len(pickle)]
    pieces = [pickle[start:end] for start, end in pairwise(starts)]
    for _ in range(rng.choice([1, 1, 2, 5])):
        spot, other = rng.randrange(1, len(pieces)), rng.randrange(1, len(pieces))
        change = rng.randrange(6)
        if change == 0:
            pieces[spot] = b""
        elif change == 1:
            pieces[spot] += pieces[spot]
        elif change == 2:
            pieces[spot], pieces[other] = pieces[other], pieces[spot]
        elif change == 3:
            pieces[spot] = pieces[other]
        elif change == 4 and len(pieces[spot]) > 1:
            pieces[spot] = pieces[spot][:1] + rng.randbytes(len(pieces[spot]) - 1)
        else:
            pieces[spot] = bytes(
                [rng.choice(b"(.012FGIJKLMNPQRSTUVXabcdeghijlopqrstu}]\x80\x81\x82\x85\x86\x87\x88\x8a\x8b")]
            )
    records[number] = records[number].but(data=b"".join(pieces))
    return write_archive(records)


@KINDS()
def odd_pickle(rng, model):
    """Pickles that are short, long, of another protocol, or none."""
    written = Written(model)
    whole = Call(ORDERED.function, (), items=tuple(written.pairs))
    good = pickled(whole)
    return written.archive(rng.choice([
        b"", b".", b"N.", good[:-1], good + good, good + odd_bytes(rng), b"\x80\x05" + good[2:], b"\x80\xff" + good[2:],
        good[2:], b"\x80\x04\x95" + struct.pack("<Q", rng.choice([len(good), 2**63])) + good[2:], odd_bytes(rng),
        b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x.", b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"x.",
        b"\x80\x02r\xff\xff\xff\x7f.", b"\x80\x02]r\xff\xff\xff\x7f.", b"\x80\x02" + b"0" * 10 + b".",
        b"\x80\x02" + b"(" * 10**6,
    ]))  # fmt: skip
