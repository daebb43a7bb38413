"""Weights files as people save them, read without unpickling anything but tensors and plain values."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlprune.errors import UserError, first_line, needing, reading
from rlprune.files import check_archive

# Where a checkpoint keeps its state dict, the averaged weights first, as timm takes them
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module", "net", "weights")
_TENSORS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
_OTHERS = {
    ".h5": "a Keras file", ".hdf5": "a Keras file", ".keras": "a Keras file", ".pb": "a TensorFlow graph",
    ".tflite": "a TensorFlow Lite file", ".onnx": "an ONNX graph",
    ".pt2": "a torch.export program", ".npz": "NumPy arrays",
}  # fmt: skip
_WRAPPED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_NOBODYS = re.compile(r"^aux_classifier\.|(^|\.)total_(ops|params)$")  # torchvision's auxiliary head, thop's counts
_POINTER = b"version https://git-lfs"
_SAVE = 'save model.state_dict(), as in torch.save(model.state_dict(), "weights.pt")'


class _Inert:
    """Stands for whatever else was pickled; it holds what it is given and does nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.content: Any = (arguments, options)

    def __setstate__(self, state: Any) -> None:
        self.content = state


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dict of a file and what the file says about itself (`meta`).

    A state dict of torch, alone or under a name that checkpoints use (Lightning's, timm's with its averaged weights,
    DDP's), or safetensors, in one file or in parts. Anything else in a checkpoint, such as an argparse Namespace, is
    left out unread.

    Raises:
        UserError: The file is missing, damaged or of another kind; says which, and how to save the right one.
    """
    if "://" in str(path):
        raise UserError(f"{path} is an address; download it, and give the file")
    path = Path(path)
    if path.is_dir():
        indices = sorted(path.glob("*.index.json"))
        if len(indices) != 1:
            raise UserError(f"{path} is a folder; {_inside(path)}")
        path = indices[0]
    if path.name.endswith(".index.json"):
        return _in_parts(path), {}
    check_archive(path)
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{path} is a pointer of Git LFS, not the file itself: fetch it by `git lfs pull`")
    if path.suffix.lower() in _OTHERS:
        raise UserError(f"{path} is {_OTHERS[path.suffix.lower()]}, not weights of a torch model; {_SAVE}")
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path), {}
    content = _torch_file(path)
    if isinstance(content, _Inert):
        raise UserError(f"cannot read {path}: it is a pickled whole model, and reading it would run code; {_SAVE}")
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a dict of tensors: {_SAVE}")
    meta = content.get("meta", {})
    while (key := _wrapper(content, path)) is not None:
        content = content[key]
    state = {str(name): value for name, value in content.items()}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            kind = "pickled object" if isinstance(value, _Inert) else type(value).__name__
            raise UserError(f"{path}: {name!r} is a {kind}; a state dict holds tensors only: {_SAVE}")
    if not state:
        raise UserError(f"{path} holds no tensors; {_SAVE}")
    return state, dict(meta) if isinstance(meta, Mapping) else {}


def _wrapper(content: Mapping[Any, Any], path: Path) -> str | None:
    """The name under which a checkpoint keeps its weights; None where it is a state dict itself."""
    for key in _WRAPPERS:
        if isinstance(content.get(key), _Inert):
            raise UserError(f"{path} holds a pickled whole model under {key!r}; {_SAVE}")
        if isinstance(content.get(key), Mapping) and content[key]:
            return key
    found = [
        key
        for key, value in content.items()
        if _of_tensors(value)
        or (isinstance(value, Mapping) and any(_of_tensors(value.get(name)) for name in _WRAPPERS))
    ]
    chosen = _meant(found)
    if len(chosen) > 1:
        raise UserError(
            f"{path} holds weights under {' and '.join(map(repr, chosen))}; save those that are meant alone, "
            f'as in torch.save(checkpoint[{chosen[0]!r}], "weights.pt")'
        )
    return chosen[0] if chosen else None


def _of_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, Tensor) for part in value.values())


def _meant(names: list[str]) -> list[str]:
    """Those of averaged weights, if there are any."""
    return [name for name in names if "ema" in re.split(r"[^a-z]+", str(name).lower())] or names


def _torch_file(path: Path) -> Any:
    """The content of a file of torch.save; what is neither tensor nor plain value is inert."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise UserError(f"{path} is a TorchScript program, not weights of a model; {_SAVE}")
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged, or of torch's first format, whose names nobody can list: torch.load will say
        unknown = []
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in unknown]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors of odd kinds, which are refused later
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged archive
        if "eights only load failed" in str(error) and (unknown or path.read_bytes()[:1] in (b"P", b"\x80")):
            names = ", ".join(unknown[:3]) or "more than tensors and plain values"
            raise UserError(f"{path} cannot be read without running code from it: it holds {names}; {_SAVE}") from None
        raise UserError(f"cannot read {path} as tensors; it is damaged or something else: {_SAVE}") from None


def _safetensors(path: Path) -> dict[str, Any]:
    with needing(f"{path} needs the package safetensors", "models"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        reason = first_line(error, 120)
        raise UserError(f"cannot read {path} as safetensors ({reason}); it is damaged or something else") from None


def _in_parts(index: Path) -> dict[str, Any]:
    """The state dict of Hugging Face's files that an index lists."""
    with reading(index, "the index of weights in parts"):
        files = {Path(file).name for file in json.loads(index.read_text())["weight_map"].values()}
    return {name: tensor for file in sorted(files) for name, tensor in read_weights(index.parent / file)[0].items()}


def _inside(folder: Path) -> str:
    """Which file of a folder to give."""
    levels = (sorted(f for f in folder.glob(at) if f.suffix.lower() in _TENSORS) for at in ("*", "*/*", "*/*/*"))
    found = next(filter(None, levels), [])
    preferred = [file for file in found if file.suffix == ".safetensors"] or found
    if preferred:
        return f"give {preferred[0]}"
    return f"it holds no weights: {_SAVE}"


def _prefixes(name: str) -> list[str]:
    """`a.b.` and `a.` of `a.b.weight`."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:end]) + "." for end in range(len(parts), 0, -1)]


def fitted(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict under the model's own names.

    What torch.compile, FSDP and checkpointing put into names goes, and a prefix in front of all of the model's names
    (`module.` of DDP, `model.` or `net.` of a LightningModule, any other), with whatever does not carry it; so do
    torchvision's auxiliary head, which models without one do not miss, and the counts of profilers. A prefix that all
    of the model's names have and the file's have not is put in front.

    Raises:
        UserError: Several prefixes fit, and none says that its weights are averaged.
    """
    names = {name: _WRAPPED.sub("", name) for name in state}
    found = {names[name]: value for name, value in state.items()}
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    if needed and not set(needed) <= found.keys():
        ends = {name[: -len(needed[0])] for name in found if name.endswith("." + needed[0])}
        fits = _meant([end for end in sorted(ends) if all(end + name in found for name in needed)])
        if len(fits) > 1:
            raise UserError(
                f"it holds the model's weights under {' and '.join(map(repr, fits))}; save those that are meant alone, "
                f"their names without {fits[0]!r}"
            )
        if not fits:  # weights of a part, which is all that has weights
            part = next(
                (p for p in _prefixes(needed[0]) if all(n[: len(p)] == p and n[len(p) :] in found for n in needed)), ""
            )
            found = {part + name: value for name, value in found.items()}
        for prefix in fits:
            found = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    return {name: value for name, value in found.items() if name in own or not _NOBODYS.search(name)}


def normalisation_beside(path: Path) -> str | None:
    """`MEAN:STD` as a Hugging Face folder's configuration beside the weights says, or None."""
    for name in ("preprocessor_config.json", "config.json"):
        try:
            content = json.loads((path.parent / name).read_text())
        except (OSError, ValueError):
            continue
        with reading(path.parent / name, "a configuration"):
            for found in (content, content.get("pretrained_cfg")):
                if isinstance(found, Mapping):
                    mean, std = (found.get(f"image_{key}", found.get(key)) for key in ("mean", "std"))
                    if isinstance(mean, list) and isinstance(std, list):
                        return constants(mean, std)
    return None


def constants(mean: Any, std: Any) -> str:
    """`MEAN:STD`, as the option `normalise` takes them."""
    return ":".join(",".join(f"{float(value):g}" for value in values) for values in (mean, std))
