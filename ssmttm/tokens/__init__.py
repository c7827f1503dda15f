"""The dataset format: what is planned, written, read and checked."""
