"""Data: digits, arrays, folders and torchvision's sets, cut into disjoint roles.

Roles. `train` is for training and nothing else; `calibration` comes from the training images and serves batch-norm
statistics, Gram matrices and criteria; `control` is for decisions; `test` is looked at once, at the end. No two share
an image. A network that may have seen every training image takes its control split out of the held-out ones
(`control_from="test"`); `whole_test` is the published test set as a whole.

Normalisation. Colour images get ImageNet's constants, which public weights expect, those of the CIFAR ResNets among
them; grey ones the mean and standard deviation of the train role. Detectors normalise by themselves.

A data set of your own lies in a file, `--data mydata.py:Photos`. Ten lines are enough:

    class Photos(torch.utils.data.Dataset):
        classes = ("cat", "dog")                            # if they have names

        def __init__(self, split):                          # made for "train" and "test"; without `split`, cut here
            self.files = sorted(Path("photos", split).glob("*.png"))

        def __len__(self):
            return len(self.files)

        def __getitem__(self, index):                       # the input as the network takes it, and its target
            return to_tensor(Image.open(self.files[index])), int(self.files[index].name.startswith("dog"))

A function that gives such a data set, an object, or a dict of them by `train`, `val` and `test` will do, too. What it
draws at random is its augmentation: training reads every example anew, everything else reads it once.

Memory. What fits into a gigabyte per pool is decoded once and kept; the rest streams through worker processes.
"""

from rlprune.data.loading import load_data
from rlprune.data.splits import ROLES, DataSplits, Split

__all__ = ["ROLES", "DataSplits", "Split", "load_data"]
