"""Uses the package from an unpacked wheel, away from the checkout: `python import_wheel.py FOLDER`."""

import sys
from importlib.metadata import metadata
from pathlib import Path

folder = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(folder))

import keras  # noqa: E402
import numpy as np  # noqa: E402

import tfprune  # noqa: E402


def check(holds: bool, what: str) -> None:
    """Ends the program with a message if something does not hold."""
    if not holds:
        sys.exit(f"the wheel is not as it should be: {what}")


check(Path(tfprune.__file__).is_relative_to(folder), f"tfprune comes from {tfprune.__file__}")
check((folder / "tfprune" / "py.typed").is_file(), "py.typed is missing")
about = metadata("tfprune")
check(tfprune.__version__ == about["Version"], f"it calls itself {tfprune.__version__}")
check("# tfprune" in about.get_payload(), "the README is not its description")

net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh", name="hidden"), keras.layers.Dense(2)])
mask = tfprune.keep_top(tfprune.saliency.weight_norm(net), 0.5)
row = tfprune.unit_groups(net).on_nodes(mask)
x = np.ones((5, 3), "float32")
masked = tfprune.with_on_nodes(net)([keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(row)])
check(np.allclose(tfprune.remove(net, mask)(x), masked, atol=1e-6), "removed is not masked")
print(f"tfprune {tfprune.__version__} from the wheel: imported, and removed equals masked")
