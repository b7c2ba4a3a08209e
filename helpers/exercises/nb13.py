"""The exercises of notebook 13, the appendix to 08."""

from .checking import Exercise

# 1. several files


def plan_files(sizes, limit):
    files = [[]]
    used = 0
    for name, size in sizes.items():
        if files[-1] and used + size > limit:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


def tensors() -> list[tuple[dict[str, int], int]]:
    small = {"emb": 16, "a": 3, "b": 4, "c": 3, "d": 5, "head": 16}
    return [(small, 20), (small, 10), (small, 100), (small, 7), ({"z": 2, "y": 2, "x": 2}, 4), ({"only": 9}, 5)]


def plan_otherwise(sizes, limit, exact=True, keep_large=True, by_name=False):
    files, used = [[]], 0
    for name in sorted(sizes) if by_name else sizes:
        size = sizes[name]
        if not keep_large and size > limit:
            continue
        full = used + size > limit if exact else used + size >= limit
        if files[-1] and full:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


def with_empty_file(sizes, limit):
    files, used = [[]], 0
    for name, size in sizes.items():
        if used + size > limit:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


FILES = Exercise(
    solution=plan_files,
    cases=tensors,
    mistakes={
        "A file that is full to the last byte is allowed: begin a new one only when the limit would be passed.": (
            lambda sizes, limit: plan_otherwise(sizes, limit, exact=False)
        ),
        "A tensor larger than the limit is left out; it gets a file of its own, since tensors are never split.": (
            lambda sizes, limit: plan_otherwise(sizes, limit, keep_large=False)
        ),
        "There is an empty file: begin a new one only if the last one has something in it.": with_empty_file,
        "The order of the checkpoint is lost; go through the names as they come.": (
            lambda sizes, limit: plan_otherwise(sizes, limit, by_name=True)
        ),
    },
    why="`convert(..., max_shard_size='20MB')` plans that way, and writes `model.safetensors.index.json`, which says "
    "in which file each tensor is. The bundled model becomes two files, of 160 and 126 tensors.",
)

# 2. an index that lies


def check_index(weight_map, files):
    said = {(name, file) for name, file in weight_map.items()}
    found = {(name, file) for file, names in files.items() for name in names}
    return sorted(said - found), sorted(found - said)


def indices() -> list[tuple[dict[str, str], dict[str, list[str]]]]:
    good = {"emb": "1.safetensors", "att": "1.safetensors", "head": "2.safetensors"}
    return [
        (good, {"1.safetensors": ["emb", "att"], "2.safetensors": ["head"]}),
        (good, {"1.safetensors": ["emb"], "2.safetensors": ["head"]}),
        (good, {"1.safetensors": ["emb", "att"], "2.safetensors": ["head", "old"]}),
        (good, {"1.safetensors": ["emb"], "2.safetensors": ["att", "head"]}),
        (good, {"1.safetensors": ["emb", "att"]}),
    ]


def by_names_alone(weight_map, files):
    found = {name: file for file, names in files.items() for name in names}
    missing = sorted((name, file) for name, file in weight_map.items() if name not in found)
    return missing, sorted((name, file) for name, file in found.items() if name not in weight_map)


INDEX = Exercise(
    solution=check_index,
    cases=indices,
    mistakes={
        "A tensor in another file than the index says is both missing there and surplus here.": by_names_alone,
        "You look only for what is missing; a tensor that the index does not name is surplus.": lambda index, files: (
            check_index(index, files)[0],
            [],
        ),
        "The two lists are the other way round: first what the index promises and no file has.": lambda index, files: (
            check_index(index, files)[::-1]
        ),
    },
    why="An interrupted download or two runs into one folder leave such a directory. If a tensor is missing or one too "
    "many, `refresh` and `verify` refuse it. If all are there and only the index is wrong, `verify` says FAILED, and "
    "`refresh` writes a right one.",
)

EXERCISES = (FILES, INDEX)
