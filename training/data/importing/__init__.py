"""From images of many forms to data sets for training: what ``dataset_tool.py`` runs."""

from training.data.importing.convert import ImportReport, import_dataset
from training.data.importing.transform import Transform

__all__ = ["ImportReport", "Transform", "import_dataset"]
