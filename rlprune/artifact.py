"""The pruned network on disk: a file that torch alone can load, and exports for other runtimes."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlprune.channels.copying import unwrapped
from rlprune.channels.forward import tensors_in
from rlprune.channels.surgery import CHANGED
from rlprune.errors import UserError, check_known, first_line, reading
from rlprune.files import read_tensors, write_bytes, write_tensors

FORMAT = "rlprune-1"


def save_pruned(path: Path, base: nn.Module, pruned: nn.Module, meta: dict[str, Any]) -> str:
    """Write a pruned network: its tensors, and the module attributes in which it differs from `base`.

    The file is plain tensors and values: `torch.load(path, weights_only=True)` reads it, and `into` (ten lines, also
    in the README) turns the unpruned network into the pruned one with it.

    Returns:
        The SHA-256 of the tensors, as `fingerprint` gives it.
    """
    base, pruned = unwrapped(base), unwrapped(pruned)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in pruned.state_dict().items()}
    digest = fingerprint(state)
    write_tensors(
        path,
        {
            "format": FORMAT,
            "state_dict": state,
            "attributes": changed_attributes(base, pruned),
            "meta": meta,
            "sha256": digest,
        },
    )
    return digest


def changed_attributes(base: nn.Module, pruned: nn.Module) -> dict[str, dict[str, Any]]:
    """By module path, the plain attributes (`out_channels`, `groups` ...) whose value pruning changed.

    Surgery notes their names in the network it makes, so that what fills at run time (a grid, a last image size) is
    not taken for pruning. What an earlier pruning of `base` changed is listed too: the file fits the unpruned network.
    """
    changes: dict[str, dict[str, Any]] = {}
    for path, names in getattr(pruned, CHANGED, {}).items():
        before, after = vars(base.get_submodule(path)), vars(pruned.get_submodule(path))
        earlier = getattr(base, CHANGED, {}).get(path, ())
        changed = {
            name: after[name]
            for name in names
            if name in after and (name in earlier or before.get(name) != after[name])
        }
        if changed:
            changes[path] = changed
    return changes


def load_pruned(path: str | Path, base: nn.Module) -> nn.Module:
    """Turn the unpruned network `base` into the pruned one saved at `path`, in place, and return it.

    Raises:
        UserError: If the file is missing or damaged, or was saved from another network.
    """
    saved = read_tensors(Path(path))
    if saved.get("format") != FORMAT:
        raise UserError(f"{path} was not written by rlprune (format {saved.get('format')!r}, expected {FORMAT!r})")
    with reading(path, "a pruned network"):
        if fingerprint(saved["state_dict"]) != saved["sha256"]:
            raise UserError(
                f"{path} is damaged: its tensors do not match their checksum; take it from a backup or prune again"
            )
        try:
            return into(base, saved)
        except AttributeError as error:
            raise UserError(f"{path} was saved from another network than {type(base).__name__}: {error}") from None


def is_pruned(path: str | Path) -> bool:
    """Whether `save_pruned` wrote the file at `path`; False for anything else, also for what cannot be read."""
    try:
        return read_tensors(Path(path)).get("format") == FORMAT
    except UserError:
        return False


def into(model: nn.Module, saved: dict[str, Any]) -> nn.Module:
    """Put saved tensors and attributes into an unpruned network, whatever their shapes, in place."""
    for module_path, attributes in saved["attributes"].items():
        for key, value in attributes.items():
            setattr(model.get_submodule(module_path), key, value)
    vars(model)[CHANGED] = {path: sorted(attributes) for path, attributes in saved["attributes"].items()}
    lacking = [name for name in model.state_dict() if name not in saved["state_dict"]]
    if lacking:
        raise AttributeError(f"the file has no {lacking[0]!r}")
    for name, tensor in saved["state_dict"].items():
        module_path, _, leaf = name.rpartition(".")
        module = model.get_submodule(module_path)
        if not hasattr(module, leaf):  # the network makes it when it first runs
            module.register_buffer(leaf, tensor)
            continue
        if isinstance(getattr(module, leaf), nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=getattr(module, leaf).requires_grad)
        setattr(module, leaf, tensor)
    return model


def fingerprint(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def export(model: nn.Module, example_inputs: tuple[Any, ...], path: Path, form: str) -> float:
    """Export a network as `pt2` (torch.export) or `onnx`, load the file back, and compare outputs.

    Returns:
        The largest absolute difference of the outputs, relative to the largest absolute output.

    Raises:
        UserError: For an unknown form, a missing package, a network that cannot be exported, or outputs that differ.
    """
    exporters = {"pt2": _export_pt2, "onnx": _export_onnx}
    check_known("export format", form, exporters)
    model = model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own deprecation notes
        expected = tensors_in(model(*example_inputs))
        actual = tensors_in(exporters[form](model, example_inputs, path))
    difference = max(
        float((a - e).abs().max() / e.abs().max().clamp_min(1e-12)) for a, e in zip(actual, expected, strict=True)
    )
    if not difference <= 1e-4:
        path.unlink(missing_ok=True)
        raise UserError(f"the {form} file computes something else (relative difference {difference:.1e}, bound 1e-4)")
    return difference


def _export_pt2(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> Any:
    try:
        program = torch.export.export(model, inputs, dynamic_shapes=_dynamic_batch(inputs))
    except Exception as error:
        raise UserError(f"torch.export cannot trace this network: {first_line(error)}") from None
    buffer = io.BytesIO()  # where the disk is full, torch's own writer ends the process
    torch.export.save(program, buffer)
    write_bytes(path, buffer.getbuffer())
    return torch.export.load(path).module()(*inputs)


def _export_onnx(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX export needs {error.name!r}: pip install 'rlprune[onnx]'") from None
    try:
        program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=_dynamic_batch(inputs), verbose=False)
    except Exception as error:
        raise UserError(f"this network cannot be exported to ONNX: {first_line(error)}") from None
    assert program is not None
    write_bytes(path, program.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {spec.name: value.numpy() for spec, value in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, feeds)]


def _dynamic_batch(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
