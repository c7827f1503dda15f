"""Train stage 2 (coarse codes to fine latents) on token shards, on Ray workers with DeepSpeed or in process.

    python jobs/train_stage2.py --preset mini train.data=DIR train.out=DIR [train.launch=local]

Started again, it continues from its newest checkpoint; a finished run is left as it is.
"""

from ssmttm.config import parse_arguments
from ssmttm.errors import exit_on_user_error
from ssmttm.training.launch import train

if __name__ == "__main__":
    with exit_on_user_error():
        train(parse_arguments(__doc__, "stage2"), "stage2")
