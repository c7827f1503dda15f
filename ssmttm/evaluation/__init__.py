"""Measuring what a model makes: probes, music analysis, distances, and the report that shows them."""
