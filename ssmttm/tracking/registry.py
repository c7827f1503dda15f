"""Bundles as versions of a model in MLflow's registry."""

from __future__ import annotations

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.tracking.mlflow_run import import_mlflow

DIGEST_TAG = "bundle_sha256"


def register_bundle(bundle: str, commit_name: str, name: str, tracking_uri: str, tags: dict[str, str]) -> str:
    """Make a bundle the newest version of a registered model, which is created if there is none. The same bundle at
    the same place is registered once.

    Args:
        bundle: folder or URI; the version's source.
        commit_name: of its commit file, whose SHA-256 stands for all of it.
        name: of the registered model.
        tags: of the version, besides that digest.

    Returns:
        The version.

    Raises:
        UserError: if MLflow is missing, cannot be reached, or refuses.
    """
    try:
        mlflow = import_mlflow()
    except ImportError as error:
        raise UserError(f"cannot register {bundle}: {error}; install mlflow") from None
    source = storage.absolute(bundle)
    digest = storage.digest(storage.join(bundle, commit_name))
    try:
        client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.source == source and version.tags.get(DIGEST_TAG) == digest:
                return str(version.version)
        return str(client.create_model_version(name, source, tags={**tags, DIGEST_TAG: digest}).version)
    except mlflow.exceptions.MlflowException as error:
        reason = " ".join(str(error).split())[:300]
        hint = "; a server takes only bundles on shared storage (s3://...)" if "local path" in reason else ""
        raise UserError(f"{bundle} is written, but {tracking_uri} does not register it: {reason}{hint}") from None
