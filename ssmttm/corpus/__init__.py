"""Audio with captions: manifests, licences, readers, a composer of demonstration pieces, and token shards."""
