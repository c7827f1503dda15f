"""Fit the codec on clips of a corpus, as a Ray task or in process.

    python jobs/train_codec.py --preset mini corpus.source=DIR codec.path=DIR [train.launch=local]

A finished codec is left as it is.
"""

from __future__ import annotations

from ssmttm.config import Config, parse_arguments
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.training.codec import train_codec


def train_codec_on_ray(config: Config) -> None:
    """Run `train_codec` as one task of the running cluster, or of one started here.

    Raises:
        UserError: as `train_codec` does.
    """
    import ray

    ray.init(ignore_reinit_error=True)
    # One task runs on one node, whatever number of workers the training jobs have.
    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    cpus = min(config.train.workers * config.train.cpus_per_worker, largest)
    task = ray.remote(num_cpus=cpus, max_retries=config.train.max_failures)(train_codec)
    try:
        ray.get(task.remote(config))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def main(argv: list[str] | None = None) -> None:
    with exit_on_user_error():
        config = parse_arguments(__doc__ or "", "codec", argv)
        if config.train.launch == "local":
            train_codec(config)
        else:
            train_codec_on_ray(config)


if __name__ == "__main__":
    main()
