"""How long least squares takes, and how much memory.

Targets: the thesis net with 2000 images at most 3 s, a CIFAR residual net with 1000 at most 15 s; memory that hardly
depends on the number of samples; bounded on VGG16 at 224 x 224. Every line runs in a process of its own: the peak of a
process never falls.
"""

import argparse
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CASES = [("thesis", 2000), ("residual", 1000), ("thesis", 1000), ("thesis", 4000), ("residual", 4000), ("vgg16", 64)]
TARGETS = {("thesis", 2000): 3.0, ("residual", 1000): 15.0}


def measure(name, samples):
    """Prints seconds and gigabytes of one case."""
    import warnings

    import keras
    import numpy as np
    from networks import keep_part, peak_gigabytes, residual_net, seconds, thesis_net

    import tfprune

    warnings.filterwarnings("ignore", message=".*samples; below")
    vgg = lambda: keras.applications.VGG16(weights=None, classifier_activation=None)  # noqa: E731
    model = {"thesis": thesis_net, "residual": residual_net, "vgg16": vgg}[name]()
    x = np.random.default_rng(0).uniform(size=(samples, *model.input_shape[1:])).astype("float32")
    before = peak_gigabytes()

    def repaired():
        return tfprune.remove(model, keep_part(model), repair="least_squares", data=x)

    cold = seconds(repaired, 1, warm=0)
    warm = cold if name == "vgg16" else seconds(repaired, 2, warm=0)
    print(cold, warm, before, peak_gigabytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="*", help="one case: a network and a number of samples")
    options = parser.parse_args()
    if options.case:
        return measure(options.case[0], int(options.case[1]))
    sys.path.insert(0, os.path.dirname(__file__))
    from networks import print_table

    rows = []
    for name, samples in CASES:
        command = [sys.executable, __file__, name, str(samples)]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-4:]
        rows.append([name, str(samples), *map(float, found), str(TARGETS.get((name, samples), ""))])
        print("  ".join(map(str, rows[-1])), flush=True)
    header = ["network", "samples", "first s", "then s", "GB before", "GB peak", "target s"]
    print_table("least_squares, half of the units of every group removed", header, rows)


if __name__ == "__main__":
    main()
