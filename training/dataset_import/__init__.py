"""Turning images as people have them into data sets as training wants them: what ``dataset_tool.py`` runs."""

from training.dataset_import.convert import ImportReport, import_dataset
from training.dataset_import.transform import Transform

__all__ = ["ImportReport", "Transform", "import_dataset"]
