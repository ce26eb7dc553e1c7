"""Strategies of bad input: command lines, YAML, data folders, model folders, safetensors, .pt, .npz, PNG and JPEG."""

import dataclasses
import io
import json
import os
import pickle
import struct
import typing
import zipfile
import zlib

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from erase.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RuntimeConfig,
    SampleConfig,
    ScoreConfig,
    UnlearnConfig,
)

from .fuzzing import CANARY, SHORT, Case

RUN = (
    "run",
    "--forget",
    "1",
    "--model",
    "pack",
    "--data",
    "data",
    "--preset",
    "digits/sfron-dual",
    "-o",
    "out",
    *SHORT,
)
SAMPLE = ("sample", "pack", "-o", "out", "--per-class", "2", "sample.steps=1")
FID = ("fid", "data", "--reference", "data", "--extractor", "pack")
SECTIONS = {
    "model": ModelConfig, "data": DataConfig, "optimizer": OptimizerConfig, "unlearn": UnlearnConfig,
    "sample": SampleConfig, "score": ScoreConfig, "runtime": RuntimeConfig,
}  # fmt: skip
NASTY = ("../../x", "a/b", "CON", "\x1b[2J", "a\nb", "\u202e", "x" * 300, "=1+1", "<script>", "🦊", "%s", "-1", "nan")


def fields(cls, path):
    """Dotted names of all fields that hold one value, with their kinds and limits."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, kind = f"{path}.{field.name}", hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from fields(kind, name)
        else:
            yield name, str(kind), field.metadata


GIVEN = {word.split("=")[0] for word in SHORT}  # on the command line, which rules over a file
FIELDS = [found for name, cls in SECTIONS.items() for found in fields(cls, name) if found[0] not in GIVEN]
NUMBERS = [field for field in FIELDS if "int" in field[1] or "float" in field[1]]
CHOICES = [field for field in FIELDS if field[2].get("choices")]


@st.composite
def wrong_settings(draw):
    """A dotted key and a YAML text that is certainly wrong for it."""
    way = draw(st.sampled_from(["number", "number", "choice", "bool", "unknown", "section"]))
    if way == "number":
        name, kind, limits = draw(st.sampled_from(NUMBERS))
        wrong = ["[]", "{a: 1}", "true", "word", ".nan", ".inf", "1e999", "'\\u202e'"]
        wrong += ["1.5"] if "int" in kind else []
        wrong += [str(-draw(st.integers(1, 10**6)))]
        wrong += [str(int(limits["high"]) + draw(st.integers(1, 10**30)))] if limits.get("high") is not None else []
        return name, draw(st.sampled_from(wrong))
    if way == "choice":
        name, _, _ = draw(st.sampled_from(CHOICES))
        return name, draw(st.sampled_from(["nothing", "[a]", "7", "''"]))
    if way == "bool":
        name = draw(st.sampled_from([name for name, kind, _ in FIELDS if "bool" in kind]))
        return name, draw(st.sampled_from(["3", "maybe", "null", "[true]"]))
    section = draw(st.sampled_from(sorted(SECTIONS)))
    if way == "unknown":
        letters = draw(st.text("abcxyz_-", min_size=3, max_size=12))
        return f"{section}.zz{letters}", "1"
    return section, draw(st.sampled_from(["3", "[1]", "true", "null", "1.5"]))


@st.composite
def command_lines(draw):
    way = draw(st.sampled_from(["setting", "setting", "option", "class", "command", "path", "word", "number"]))
    kind = "command line"
    if way == "setting":
        pairs = draw(st.lists(wrong_settings(), min_size=1, max_size=4))
        words = [f"{key}={value}" for key, value in pairs if value != "null" or key not in SECTIONS]
        words = words or ["unlearn=3"]
        return Case(kind, " ".join(words), ("run", *words, *RUN[1:]) if draw(st.booleans()) else (*RUN, *words))
    if way == "option":
        option = draw(st.text("abcdefgh-", min_size=2, max_size=9))
        command = draw(st.sampled_from(["run", "pretrain", "sample", "fid", "score", "grid", "table", "convert"]))
        return Case(kind, f"unknown option of {command}", (command, f"--zz{option}"))
    if way == "class":
        name = draw(st.sampled_from(NASTY) | st.text(min_size=1, max_size=20).filter(lambda t: t.isprintable()))
        words = ("run", f"--forget={name}", *RUN[3:])
        return Case(kind, f"class {name!r}", words, sure=name.strip().casefold() not in "012 name 0 name 1 name 2")
    if way == "command":
        return Case(kind, "unknown command", (draw(st.text("abcxyz", min_size=2, max_size=8)) + "zz",))
    if way == "path":
        place = draw(st.sampled_from([*NASTY, "/dev/null", "/proc/self/mem", "data/name 1/0.png", "x.yaml", "/", ""]))
        words = draw(
            st.sampled_from(
                [
                    ("sample", place, "-o", "out"),
                    ("fid", place, "--reference", "data", "--extractor", "pack"),
                    ("fid", "data", "--reference", place, "--extractor", "pack"),
                    ("fid", "data", "--reference", "data", "--extractor", place or "x"),
                    ("score", place, "--metrics", "fa"),
                    ("grid", place, "-o", "out.png"),
                    ("table", place, "-o", "out"),
                    ("convert", place, "out"),
                    ("convert", "x.pt", "out", "--num-heads", "2", "--vae", place or "x"),
                    ("pretrain", "--data", place, "-o", "out"),
                    ("run", "--forget", "1", "--model", place, "-o", "out"),
                    ("run", "--forget", "1", "--model", "pack", "--config", place, "-o", "out"),
                    ("run", "--forget", "1", "--model", "pack", "--data", place, "-o", "out", *RUN[6:8], *SHORT),
                    (*SAMPLE[:2], "-o", "x.yaml", *SAMPLE[4:]),
                    (*RUN[:10], "x.yaml/out", *SHORT),
                    (*RUN[:10], "/proc/out", *SHORT),
                ]
            )
        )
        return Case(kind, f"path {place!r} in {words[0]}", words)
    if way == "word":
        word = draw(st.sampled_from(["=", "a", "a=[", "a={", "a=&x [*x]", ".=1", "a" + ".a" * 200 + "=1", "x=\x00"]))
        return Case(kind, f"word {word[:20]!r}", (*RUN, word))
    option = draw(st.sampled_from(["--per-class", "--protocol", "--classes", "--exclude"]))
    value = draw(st.sampled_from(["-1", "0", "1e9", "x", "99", "all,all", "nan", "\x1b[0m"]))
    sure = (option, value) != ("--per-class", "99")
    return Case(kind, f"sample {option} {value!r}", ("sample", "pack", "-o", "out", option, value), sure=sure)


def _file(name, content):
    def make(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
TEXTS = (
    "", "[]", "3", "- unlearn", "unlearn: [1]", "a: &a\n  b: *a\n", LAUGHS, "[" * 5000, "{a: " * 400,
    "unlearn: {rounds: 1}\nunlearn: {rounds: 2}\n", "!!python/object/apply:os.system ['touch canary']",
    "x: !!python/name:os.system", "\t- a", "a: b: c", "%YAML 9.9\n---\na", "--- a\n--- b\n", "seed: " + "9" * 5000,
    "seed: 2020-13-45", "? {a: 1}\n: 2", "? [a]\n: 2", "null: 3", "3: 3", "unlearn: {<<: 3}",
    "method: {name: [a]}", "method: 3", "optimizer: {policy: {}}", "sample: {protocol: [1]}", "sample: nope",
    "seed: 0x" + "f" * 400, "unlearn: !!binary '////'", "unlearn: {average: !!set {a}}",
)  # fmt: skip
CONFIG = ("run", "--forget", "1", "--model", "pack", "--data", "data", "--config", "bad.yaml", "-o", "out", *SHORT[:-1])


@st.composite
def yaml_files(draw):
    way = draw(st.sampled_from(["text", "bytes", "settings", "table"]))
    if way == "text":
        text = draw(st.sampled_from(TEXTS))
        return Case("YAML", repr(text[:40]), CONFIG, _file("bad.yaml", text))
    if way == "bytes":
        junk = draw(st.binary(min_size=1, max_size=60))
        return Case("YAML", f"bytes {junk[:20]!r}", CONFIG, _file("bad.yaml", b"unlearn: {rounds: \xff" + junk))
    if way == "settings":
        pairs = draw(st.lists(wrong_settings(), min_size=1, max_size=3))
        content = {}
        for key, value in pairs:
            *above, last = key.split(".")
            place = content
            for part in above:
                if not isinstance(place.get(part), dict):
                    place[part] = {}
                place = place[part]
            place[last] = RAW(value)
        return Case("YAML", str(pairs), CONFIG, _file("bad.yaml", _flow(content) + "\n"))
    rows = draw(
        st.sampled_from(["[]", "3", "[{}]", "[{method: nope}]", "[{method: ga}]", "[{method: ga, policies: 3}]"])
    )
    rest = draw(st.sampled_from(["classes: [99]", "classes: {}", "seeds: [-1]", "kind: x", "sweep: {a: 1}", "zz: 1"]))
    text = f"model: pack\nrows: {rows}\n{rest}\n"
    return Case("YAML", f"table {rows} {rest}", ("table", "bad.yaml", "-o", "out"), _file("bad.yaml", text))


class RAW(str):
    """YAML text that is put in as it is."""


def _flow(value):
    if isinstance(value, RAW):
        return str(value)
    return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"


def png(width, height, data=b"\0"):
    """A PNG whose header may promise anything."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@st.composite
def data_folders(draw):
    way = draw(st.integers(0, 12))
    number = draw(st.integers(0, 5))
    place = f"data/name {draw(st.integers(0, 2))}/{number}.png"

    def make(folder):
        path = folder / place
        if way in (0, 1, 2, 3, 4, 5):
            path.unlink()
        if way == 0:
            os.mkfifo(path)
        elif way == 1:
            path.mkdir()
            (path / "inner.png").write_bytes(b"no image")
        elif way == 2:
            path.symlink_to("/dev/zero")
        elif way == 3:
            path.symlink_to("nowhere.png")
        elif way == 4:
            path.write_bytes(b"")
        elif way == 5:
            path.write_bytes(png(2**draw_side, 2**draw_side))
        elif way == 6:
            os.mkdir(os.fsencode(folder / "data") + b"/" + bytes(odd))
        elif way == 7:
            (folder / "data" / odd.decode("latin-1").replace("\0", "").replace("/", "") / "").mkdir()
        elif way == 8:
            for each in (folder / "data").iterdir():
                each.rename(folder / f"{each.name}-away")
        elif way == 9:
            (folder / "data" / "name 1").rename(folder / "data" / "name 7")
        elif way == 10:
            (folder / "data" / "name 1" / "loop").symlink_to("..")
        elif way == 11:
            for each in (folder / "data" / "name 1").iterdir():
                each.rename(each.with_suffix(".txt"))
        else:
            (folder / "data" / "name 0" / "again").symlink_to(folder / "data")

    draw_side = draw(st.integers(15, 30))
    odd = draw(
        st.sampled_from([b"\xff\xfe", b"a\nb", b"\x1b[31m", b"other", b"\xe2\x80\xae", b"x" * 250, b"-1", b"12"])
    )
    if way == 10:  # one rule for the data loader and the scorer
        return Case("data folder", f"way {way} {place}", FID, make)
    name = f"way {way} {place} {odd!r} {draw_side}"
    return Case("data folder", name, RUN, make)


JSONS = {
    "model_index.json": [("id2label",), ("id2label", "0"), ("transformer", 0), ("vae",), ()],
    "erase.json": [("classes",), ("classes", 0), ("family",), ("data",), ("data", "source"), ()],
    "transformer/config.json": [
        (key,)
        for key in ("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "patch_size",
                    "sample_size", "num_embeds_ada_norm", "out_channels")
    ],
    "vae/config.json": [
        (key,) for key in ("block_out_channels", "latent_channels", "layers_per_block", "scaling_factor")
    ] + [("block_out_channels", 0)],
    "classifier/config.json": [("settings",), ("settings", "width"), ("settings", "features"), ("classes",), ("gate",),
                               ("gate", "threshold")],
}  # fmt: skip
WRONG = (-1, 0.5, "x", [], {}, True, 10**9, 10**30, float("nan"), [None], [[]], "\x1b[2J\nx", "../../x", [-3, "y"])


def _put(content, path, value):
    if not path:
        return value
    place = content
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return content


def _uses(name):
    if name.startswith("classifier"):
        return FID
    return SAMPLE


@st.composite
def model_folders(draw):
    way = draw(st.sampled_from(["json", "json", "json", "missing", "text", "foreign", "odd"]))
    name = draw(st.sampled_from(sorted(JSONS)))
    if way == "json":
        path = draw(st.sampled_from(JSONS[name]))
        value = draw(st.sampled_from(WRONG))

        def make(folder):
            file = folder / "pack" / name
            content = json.loads(file.read_text())
            file.write_text(json.dumps(_put(content, path, value)))

        same = (path == ("gate", "threshold") and value in (-1, 0.5, 10**9)) or (
            path == ("scaling_factor",) and value in (0.5, 10**9)
        )
        same |= path in (
            ("vae",),
            ("transformer", 0),
            ("id2label", "0"),
            ("data", "source"),
            ("family",),
            ("id2label",),
        )
        same |= name == "erase.json" and path in (("data",),)
        return Case("model folder", f"{name} {path} = {value!r}", _uses(name), make, sure=not same)
    if way == "missing":
        return Case("model folder", f"no {name}", _uses(name), lambda folder: (folder / "pack" / name).unlink(),
                    sure=name != "erase.json")  # fmt: skip
    if way == "text":
        text = draw(st.sampled_from(["", "{", "[]", "3", "null", "[" * 100_000, '{"a": ' * 50_000, "\xff", "NaN"]))
        return Case("model folder", f"{name}: {text[:10]}", _uses(name), _file(f"pack/{name}", text))
    if way == "foreign":
        entry = draw(st.sampled_from([["os", "system"], ["evil", "Evil"], [CANARY, "x"], ["torch.hub", "load"]]))

        def make_foreign(folder):
            file = folder / "pack" / "model_index.json"
            content = json.loads(file.read_text()) | {"_class_name": "Evil", "transformer": entry}
            file.write_text(json.dumps(content))
            (folder / "pack" / "evil.py").write_text(f"open({CANARY!r}, 'w').close()\n")
            (folder / f"{CANARY}.py").write_text(f"open({CANARY!r}, 'w').close()\n")

        return Case("model folder", f"foreign {entry}", SAMPLE, make_foreign)

    def make_odd(folder):
        file = folder / "pack" / name
        file.unlink()
        os.mkfifo(file) if draw_odd else file.mkdir()

    draw_odd = draw(st.booleans())
    return Case("model folder", f"{name} as {'a pipe' if draw_odd else 'a folder'}", _uses(name), make_odd,
                sure=name != "erase.json")  # fmt: skip


TENSORS = {
    "transformer/diffusion_pytorch_model.safetensors": SAMPLE,
    "vae/diffusion_pytorch_model.safetensors": SAMPLE,
    "classifier/model.safetensors": FID,
    "classifier/gate.safetensors": FID,
    "reference.safetensors": ("fid", "data", "--reference", "pack", "--extractor", "pack"),
}


def damaged(draw, data):
    """``data`` after some damage, what it was, and whether nobody could take it any more."""
    way = draw(st.sampled_from(["cut", "flip", "junk", "empty", "zeros", "doubled"]))
    at = draw(st.integers(0, 10**6)) % max(1, len(data))
    if way == "cut":
        return data[:at], f"cut at {at}", at < len(data)
    if way == "flip":
        bit = draw(st.integers(1, 255))
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :], f"byte {at} ^ {bit}", False
    if way == "junk":
        junk = draw(st.binary(min_size=1, max_size=40))
        return junk, f"junk {junk[:8]!r}", True
    if way == "doubled":
        return data + data[at:], f"doubled from {at}", False
    return (b"", "empty", True) if way == "empty" else (b"\0" * len(data), "zeros", True)


@st.composite
def safetensors_files(draw):
    name = draw(st.sampled_from(sorted(TENSORS)))
    way = draw(st.sampled_from(["damage", "damage", "header"]))
    if way == "header":
        header = draw(
            st.sampled_from(
                [
                    {"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}},
                    {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                     "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}},
                    {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
                    {"a": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}},
                    {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
                    {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**63]}},
                    {"a": 3}, [], {"\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
                    {"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}},
                ]
            )
        )  # fmt: skip
        text = json.dumps(header).encode()
        length = draw(st.sampled_from([len(text), len(text), 2**63, 2**40, 0, len(text) + 1]))
        content = struct.pack("<Q", length) + text + b"\0" * draw(st.integers(0, 8))
        return Case("safetensors", f"{name} header {header} {length}", TENSORS[name], _file(f"pack/{name}", content))
    made = {}

    def make(folder):
        path = folder / "pack" / name
        data = path.read_bytes()
        path.write_bytes(made["damage"](data))

    choices = draw(damages())
    made["damage"] = choices.apply
    return Case("safetensors", f"{name} {choices.name}", TENSORS[name], make, sure=choices.sure)


@dataclasses.dataclass(frozen=True)
class Damage:
    name: str
    apply: typing.Callable[[bytes], bytes]
    sure: bool


@st.composite
def damages(draw):
    """Damage to bytes that are not known yet."""
    way = draw(st.sampled_from(["cut", "cut", "flip", "flip", "junk", "empty", "zeros"]))
    share = draw(st.floats(0, 0.999))
    if way == "cut":
        return Damage(f"cut at {share}", lambda data: data[: int(share * len(data))], True)
    if way == "flip":
        bit = draw(st.integers(1, 255))

        def flip(data):
            at = int(share**3 * len(data))  # rather near the start, where the structure is
            return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

        return Damage(f"flip at {share} {bit}", flip, False)
    if way == "junk":
        junk = draw(st.binary(min_size=1, max_size=60))
        return Damage(f"junk {junk[:8]!r}", lambda data: junk, True)
    return Damage(way, (lambda data: b"") if way == "empty" else (lambda data: b"\0" * len(data)), True)


class Bomb:
    """Unpickled, it writes the canary."""

    def __reduce__(self):
        return (open, (CANARY, "w"))


def zipped(members, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def saved(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def _pickles(draw):
    """Bytes of a checkpoint that must be refused, and what they are."""
    protocol = draw(st.integers(0, 5))
    tensor = torch.zeros(4)
    wide = torch.zeros(1).expand(2**20, 2**12)
    name = draw(st.sampled_from(["pickle", "saved", "inside", "legacy", "zip", "squeezed", "wide", "sparse", "list"]))
    if name == "pickle":
        return pickle.dumps(Bomb(), protocol), f"pickle bomb, protocol {protocol}"
    if name == "saved":
        return saved({"x_embedder.proj.weight": Bomb()}), "bomb in torch.save's archive"
    if name == "inside":
        return saved({"model": {"x_embedder.proj.weight": tensor}, "args": Bomb()}), "bomb beside tensors"
    if name == "legacy":
        out = io.BytesIO()
        torch.save({"a": Bomb()}, out, _use_new_zipfile_serialization=False)
        return out.getvalue(), "bomb in the legacy layout"
    if name == "zip":
        return zipped({"a/data.pkl": pickle.dumps(Bomb(), 2), "a/version": b"3\n"}), "bomb in a zip of one's own"
    if name == "squeezed":
        size = draw(st.integers(10**6, 3 * 10**7))
        return zipped({"a/data.pkl": pickle.dumps({}, 2), "a/data/0": b"\0" * size}, zipfile.ZIP_DEFLATED), "zip bomb"
    if name == "wide":
        return saved({"x_embedder.proj.weight": wide, "y_embedder.embedding_table.weight": wide}), "strides of 0"
    if name == "sparse":
        return saved({"x_embedder.proj.weight": tensor.to_sparse(), "y_embedder.embedding_table.weight": tensor}), name
    return saved([tensor, draw(st.integers())]), "a list"


@st.composite
def checkpoints(draw):
    use = draw(st.sampled_from(["x.pt", "x.pt", "x.bin", "weights"]))
    words = ("convert", "x.pt", "out", "--num-heads", "2")
    if draw(st.booleans()):
        content, name = _pickles(draw)
        if use == "x.bin":

            def make(folder):
                (folder / "pack/transformer/diffusion_pytorch_model.safetensors").unlink()
                (folder / "pack/transformer/diffusion_pytorch_model.bin").write_bytes(content)

            return Case(".pt", f"{name} as .bin", SAMPLE, make)
        if use == "weights":
            words = ("fid", "data", "--reference", "data", "--extractor", draw(st.sampled_from(["resnet34"])))
            return Case(".pt", f"{name} as weights", (*words, "--weights", "x.pt"), _file("x.pt", content))
        return Case(".pt", name, words, _file("x.pt", content))
    damage = draw(damages())

    def hurt(folder):
        path = folder / "x.pt"
        path.write_bytes(damage.apply(path.read_bytes()))

    return Case(".pt", damage.name, words, hurt, sure=damage.sure)


def npy(array=None, shape=None, descr="|u1", data=b"\0" * 8, extra=""):
    if array is not None:
        out = io.BytesIO()
        np.lib.format.write_array(out, array, allow_pickle=True)
        return out.getvalue()
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, {extra}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@st.composite
def archives(draw):
    side = draw(st.integers(1, 2**20))
    trap = np.array([Bomb()], dtype=object)
    squeezed = zipfile.ZIP_DEFLATED
    whole = np.zeros((2, 8, 8, 3), np.uint8)
    contents = {
        "objects": zipped({"arr_0.npy": npy(trap)}),
        "lying shape": zipped({"arr_0.npy": npy(shape=(side, side, side, 3))}),
        "lying shape, squeezed": zipped({"arr_0.npy": npy(shape=(side, side, side, 3))}, squeezed),
        "negative": zipped({"arr_0.npy": npy(shape=(-side, 8, 8, 3))}),
        "floats": zipped({"arr_0.npy": npy(np.zeros((2, 8, 8, 3)))}),
        "grey": zipped({"arr_0.npy": npy(np.zeros((2, 8, side % 50 + 1), np.uint8))}),
        "wide": zipped({"arr_0.npy": npy(shape=(2, 1, 2**20 + side, 3), data=b"\0" * 6 * (2**20 + side))}, squeezed),
        "no arr_0": zipped({"other.npy": npy(whole)}),
        "code in the header": zipped({"arr_0.npy": npy(shape=(2, 8, 8, 3), extra="'x': __import__('os').getcwd()")}),
        "no npy": zipped({"arr_0.npy": b"\0" * (side % 100)}),
        "no header": zipped({"arr_0.npy": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 3000}),
        "empty": zipped({}),
        "one image": zipped({"arr_0.npy": npy(whole[:1])}),
        "none": zipped({"arr_0.npy": npy(whole[:0])}),
        "twice": zipped({"arr_0.npy": npy(whole)})[:-30],
        "pickle": pickle.dumps(Bomb()),
    }
    moments = {
        "objects": {"mu.npy": npy(trap), "sigma.npy": npy(trap)},
        "huge": {"mu.npy": npy(shape=(2**40,), descr="<f8"), "sigma.npy": npy(shape=(2**30, 2**30), descr="<f8")},
        "unlike": {"mu.npy": npy(np.zeros(3)), "sigma.npy": npy(np.zeros((4, 4)))},
        "text": {"mu.npy": npy(np.array(["a"])), "sigma.npy": npy(np.array(["b"]))},
        "short": {"mu.npy": npy(np.zeros(3))[:-8], "sigma.npy": npy(np.zeros((3, 3)))},
        "other features": {"mu.npy": npy(np.zeros(3)), "sigma.npy": npy(np.eye(3))},
    }
    way = draw(st.sampled_from(["images", "images", "moments", "damage", "damage"]))
    if way == "images":
        name = draw(st.sampled_from(sorted(contents)))
        words = ("fid", "x.npz", "--reference", "data", "--extractor", "pack")
        return Case(".npz", f"{name} {side}", words, _file("x.npz", contents[name]))
    if way == "moments":
        name = draw(st.sampled_from(sorted(moments)))
        words = ("fid", "data", "--reference", "x.npz", "--extractor", "pack")
        method = draw(st.sampled_from([zipfile.ZIP_STORED, squeezed]))
        return Case(".npz", f"moments {name} {method}", words, _file("x.npz", zipped(moments[name], method)))
    damage = draw(damages())

    def hurt(folder):
        path = folder / "x.npz"
        path.write_bytes(damage.apply(path.read_bytes()))

    return Case(".npz", damage.name, ("fid", "x.npz", *FID[2:]), hurt, sure=damage.sure)


@st.composite
def images(draw):
    kind = draw(st.sampled_from(["png", "jpg"]))
    label, number = draw(st.integers(0, 2)), draw(st.integers(0, 5))
    words = draw(
        st.sampled_from([FID, ("score", "data", "--metrics", "kid", "--reference", "data", "--extractor", "pack")])
    )
    way = draw(st.sampled_from(["damage", "damage", "damage", "giant", "other"]))
    damage = draw(damages())
    width, height = draw(st.integers(2**14, 2**31 - 1)), draw(st.integers(2**14, 2**31 - 1))
    other = draw(st.sampled_from(["eps", "gif", "text", "deep", "strip", "16 bit"]))

    def make(folder):
        path = folder / "data" / f"name {label}" / f"{number}.png"
        target = path.with_suffix(f".{kind}")
        if way == "damage":
            if kind == "jpg":
                Image.open(path).convert("RGB").save(target, quality=90)
                path.unlink()
            target.write_bytes(damage.apply(target.read_bytes()))
        elif way == "giant":
            path.write_bytes(png(width, height))
        elif other == "eps":
            path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(canary) (w) file closefile\n")
        elif other == "gif":
            Image.new("P", (9, 9)).save(path, "GIF")
        elif other == "text":
            path.write_text("no image")
        elif other == "deep":
            Image.new("F", (9, 9)).save(path, "TIFF")
        elif other == "strip":
            Image.new("RGB", (1, 30_000)).save(path)
        else:
            Image.fromarray(np.zeros((16, 16), np.uint16)).save(path)

    # a picture may survive the loss of its last bytes, and a flipped byte
    sure = way != "damage" or (damage.sure and not damage.name.startswith("cut"))
    name = {"damage": f"{kind} {damage.name}", "giant": f"{width} x {height}", "other": other}[way]
    return Case("image", f"{name} at {label}/{number} for {words[0]}", words, make, sure=sure)


KINDS = {
    "command line": command_lines, "YAML": yaml_files, "data folder": data_folders, "model folder": model_folders,
    "safetensors": safetensors_files, ".pt": checkpoints, ".npz": archives, "image": images,
}  # fmt: skip
