"""A problem in plain values. Nothing here needs torch before something is built."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlprune.errors import UserError, check_seed
from rlprune.importing import files_named
from rlprune.typed import as_table, check_table, from_table

if TYPE_CHECKING:
    from torch import nn

    from rlprune.data import DataSplits
    from rlprune.problem import PruningProblem


@dataclass(frozen=True)
class ProblemSpec:
    """A problem in plain values, so that it can be written down, sent to a worker process and built again.

    Attributes:
        model: Network by zoo name, `drawn:FAMILY-SEED`, `torchvision:NAME`, `timm:NAME`, `hf:FOLDER`, or a function,
            class or module of your own, `package.module:name` or `file.py:name`.
        data: Data set by name, such as `digits`, an `.npz` or `.csv` file, a folder, `torchvision:NAME`, or one of your
            own, `file.py:name`.
        weights: Weights file as people save them; None takes those that come with the network (digits/lenet5 only).
        task: What the network does, where the data does not say it or it needs an option: `regression`,
            `detection:metric=map50`, `heads:0=classification;1=regression`, or one of your own, `file.py:name`.
        root: Folder that `data` is relative to, or where torchvision's sets lie.
        seed: Seed of everything random.
        device: Device to compute on, such as `cpu` or `cuda`.
        control_from: `train` or `test`: where the control split is cut from. None chooses: as the weights were trained,
            or `test` for a weights file that does not say what it was trained on, since it may have seen every
            training image.
        control_size: Examples the tolerance is kept on; None chooses.
        calibration_size: Examples that recovery looks at; None chooses.
        size: Side in pixels that images in folders are brought to; None chooses.
        channels: Channels that images in folders are read with, 1 (grey) or 3 (colour); None keeps what they are.
        normalise: Scale images by imagenet|none|MEAN:STD|from-weights; of MEAN and STD each is one number,
            or one a channel with commas between; `from-weights` is as they say themselves. None takes ImageNet's
            constants for colour, and what is measured on the train role for others.
        keep: Patterns of layer or group names that must not be pruned.
        min_channels: Smallest width a group may reach.
        round_to: Widths stay multiples of this.
    """

    model: str = "lenet5"
    data: str = "digits"
    weights: str | None = None
    task: str | None = None
    root: str | None = None
    seed: int = 0
    device: str = "cpu"
    control_from: str | None = None
    control_size: int | None = None
    calibration_size: int | None = None
    size: int | None = None
    channels: int | None = None
    normalise: str | None = None
    keep: tuple[str, ...] = ()
    min_channels: int = 2
    round_to: int = 1

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def build(self, *, untrained: bool = False) -> PruningProblem:
        """Load the data and the network; raises UserError for anything that cannot be had.

        Args:
            untrained: Take fresh weights where none are given and none come with the project: enough to look at.
        """
        from rlprune.problem import PruningProblem
        from rlprune.tasks import get_task

        splits = self.splits()
        model = load_network(self, splits, untrained=untrained)
        return PruningProblem(
            model,
            splits,
            task=get_task(self.task or splits.task),
            keep=self.keep,
            min_channels=self.min_channels,
            round_to=self.round_to,
            seed=self.seed,
            device=self.device,
            source=self.to_json(),
        )

    def splits(self) -> DataSplits:
        """The data, cut so that the weights have not seen the control images.

        Weights that say what they were trained on (`rlprune train` wrote them) keep the control split of that training
        as far as no option asks for another, if that cut is this one; any others get theirs from held-out images.
        """
        if self.weights is None:
            return self._load(self.control_from)
        meta = weights_meta(self.weights)
        trained = meta.get("train_fingerprint")
        if self.control_from == "test" or (self.control_from is None and trained is None):
            return self._load("test")
        as_trained = replace(
            self,
            control_size=meta.get("control_size") if self.control_size is None else self.control_size,
            calibration_size=meta.get("calibration_size") if self.calibration_size is None else self.calibration_size,
        )
        splits = as_trained._load(self.control_from or meta.get("control_from"))
        if trained is None or splits.train.fingerprint() == trained:
            return splits
        if self.control_from is None:
            return self._load("test")
        raise UserError(
            f"{self.weights} was trained on another cut of {self.data!r}, so control images from train may have been "
            "seen; take the --seed, --control-size and --calibration-size it was trained with, or --control-from test"
        )

    def _load(self, control_from: str | None) -> DataSplits:
        from rlprune.data import load_data
        from rlprune.models import weights_normalisation

        normalise = self.normalise
        if normalise == "from-weights":
            normalise = weights_normalisation(self.model, self.weights)
        elif normalise is None and self.weights is not None:
            normalise = weights_meta(self.weights).get("normalise")  # as `rlprune train` was told to
        own = ("root", "seed", "control_size", "calibration_size", "size", "channels", "task")
        given: dict[str, Any] = {name: getattr(self, name) for name in own}
        return load_data(self.data, control_from=control_from, normalise=normalise, **given)

    def located(self, folder: Path) -> ProblemSpec:
        """The same, with files that are not here looked for in `folder`, a run's, and in the folders above it.

        Raises:
            UserError: A file is in none of them.
        """
        changes: dict[str, Any] = {name: _located(text, folder) for name, text in self._files.items()}
        return replace(self, **changes)

    def check_files(self) -> None:
        """Raise UserError if a file is not here, before anything takes its time."""
        for text in self._files.values():
            if _path_in(text) is not None:
                raise UserError(f"no such file: {_path_in(text)}")

    @property
    def _files(self) -> dict[str, str]:
        """Fields that name files."""
        files = {"root": self.root, "weights": self.weights}
        if self.model.startswith("hf:") or ".py:" in self.model:
            files["model"] = self.model
        if self.task is not None and ".py:" in self.task:
            files["task"] = self.task
        if self.root is None and self.data != "digits":
            files["data"] = self.data
        return {name: text for name, text in files.items() if text is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return as_table(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ProblemSpec:
        """What `to_json` wrote; raises UserError for what it did not."""
        return from_table(cls, content, "the problem")


@dataclass(frozen=True)
class Meta:
    """What a weights file may say about itself, as far as it is looked at."""

    train_fingerprint: str | None = None
    control_from: str | None = None
    control_size: int | None = None
    calibration_size: int | None = None
    normalise: str | None = None


def _path_in(text: str) -> str | None:
    """The file of `FILE`, `FILE:more`, `heads:0=FILE.py:more` or `hf:FOLDER`, if it is not here."""
    files = files_named(text) or [text.removeprefix("hf:").partition(":")[0]]
    return (
        None if text.startswith(("torchvision:", "timm:")) else next((f for f in files if not Path(f).exists()), None)
    )


def _located(text: str, folder: Path) -> str:
    """The text with the file where it is: here, in a folder, or above it."""
    file = _path_in(text)
    if file is None:
        return text
    places = [folder.absolute(), *folder.absolute().parents]
    for place in places:
        if (place / file).exists():
            return _located(text.replace(file, str(place / file), 1), folder)
    raise UserError(
        f"no such file: {file}; looked for it in {Path.cwd()}, in {places[0]}, and in the folders above that"
    )


def weights_meta(path: str) -> dict[str, Any]:
    """What a weights file says about itself; nothing where it cannot be read or says nothing."""
    if path.startswith("torchvision:"):
        return {}
    from rlprune.files import read_tensors

    try:
        meta = read_tensors(Path(path)).get("meta")
    except UserError:  # loading the weights will say it, with the network at hand
        return {}
    if isinstance(meta, Mapping):
        check_table(Meta, meta, f"{path}: meta")
    return dict(meta) if isinstance(meta, Mapping) else {}


def load_network(spec: ProblemSpec, splits: DataSplits, *, untrained: bool = False) -> nn.Module:
    """The network of `spec` with its weights, which may be those of a network that was pruned before."""
    from rlprune.artifact import is_pruned, load_pruned
    from rlprune.channels.copying import unwrapped
    from rlprune.devices import checked_device
    from rlprune.models import brings_weights, default_weights, load_weights, resolve_model

    device = checked_device(spec.device)
    model = unwrapped(resolve_model(spec.model, num_classes=len(splits.classes), in_channels=splits.input_shape[0]))
    if spec.weights is None and brings_weights(spec.model):
        return model.eval().to(device)
    if spec.weights is None:
        with suppress(UserError) if untrained else nullcontext():
            default_weights(model, spec.model, splits)
    elif is_pruned(spec.weights):
        load_pruned(spec.weights, model)
    else:
        load_weights(model, spec.weights)
    return model.eval().to(device)
