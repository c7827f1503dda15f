"""Fit the codec on clips of a corpus, as a Ray task or in process; with codec.vocoder=neural train its vocoder too.

    python jobs/train_codec.py --preset mini corpus.source=DIR codec.path=DIR [train.launch=local]
    python jobs/train_codec.py --preset mini corpus.source=DIR codec.path=DIR codec.vocoder=neural

What is finished is left as it is; an unfinished vocoder goes on from its newest checkpoint.
"""

from __future__ import annotations

from ssmttm.cluster import connect
from ssmttm.config import Config, parse_arguments
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.lease import Process
from ssmttm.training.codec import train_codec
from ssmttm.training.launch import EXIT_STOPPED
from ssmttm.training.session import TrainingStoppedError
from ssmttm.training.vocoder import train_vocoder


def train(config: Config, job: Process | None = None) -> None:
    """Fit the codec, and train its vocoder if asked for.

    Raises:
        UserError: as `train_codec` and `train_vocoder` do.
        TrainingStoppedError: as `train_vocoder` does.
    """
    train_codec(config, job=job)
    if config.codec.vocoder == "neural":
        train_vocoder(config, job)


def train_on_ray(config: Config) -> None:
    """Run `train` as one task of the running cluster, or of one started here.

    Raises:
        UserError: as `train` does.
    """
    connect()
    import ray

    # One task runs on one node, whatever number of workers the training jobs have.
    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    cpus = min(config.train.workers * config.train.cpus_per_worker, largest)
    task = ray.remote(num_cpus=cpus, max_retries=config.train.max_failures)(train)
    try:
        ray.get(task.remote(config, Process.own()))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def main(argv: list[str] | None = None) -> None:
    with exit_on_user_error():
        config = parse_arguments(__doc__ or "", "codec", argv)
        if config.train.launch == "local":
            try:
                train(config)
            except TrainingStoppedError as stopped:
                print(str(stopped), flush=True)
                raise SystemExit(EXIT_STOPPED) from None
        else:
            train_on_ray(config)


if __name__ == "__main__":
    main()
