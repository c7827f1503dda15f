"""MLflow and TensorBoard, for rank 0 of any job. Neither ever slows, stops or fails the work it watches."""

from ssmttm.tracking.mlflow_run import default_uri, flatten
from ssmttm.tracking.tracker import Tracker

__all__ = ["Tracker", "default_uri", "flatten"]
