"""A first look at a few pictures with arrays and a data frame: no Ray, no table, no annotations.

    python examples/first_look.py                # synthetic micrographs in a temporary folder
    python examples/first_look.py my/pictures    # a folder of your own

The marks `# %%` make it a notebook in VS Code, Spyder and Jupytext.
"""

# %% The pictures
import sys
import tempfile
from pathlib import Path

import pandas as pd

import spermseg
from spermseg.synthetic.clinic import ClinicConfig, write_clinic

if len(sys.argv) > 1:
    pictures = Path(sys.argv[1])
else:
    folder = Path(tempfile.mkdtemp())
    pictures = write_clinic(folder, ClinicConfig(patients=4, fields=2)).images
suffixes = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}
files = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in suffixes)

# %% The model: the pretrained one; `load_model("my/model.safetensors")` loads your own
model = spermseg.load_model()
print("classes of the model:", *model.description.network.classes)

# %% One picture: arrays
found = model.segment(files[0])
print(f"{files[0].name}: mask {found.mask.shape} {found.mask.dtype}, {found.mask.mean():.1%} foreground")
print(f"labels 1 to {found.labels.max()}, {found.n_heads} heads, expected Dice {found.confidence:.2f}")

# %% All pictures: one data frame with a row for each cell
tables = {path.name: model.segment(path, um_per_px=0.1).to_pandas() for path in files}
cells = pd.concat(tables, names=["picture", "cell"]).drop(columns="mask")
print(cells.groupby("picture").agg(cells=("area", "size"), area_um2=("area_um2", "median")).round(1))
